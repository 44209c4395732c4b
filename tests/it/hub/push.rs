//! `push` through the real program, against the hub on loopback: what arrives is what lies here, whatever breaks on the
//! way, once, and the token goes to the hub alone.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::server::{FakeHub, Faults};
use super::{TOKEN, files, succeeded};
use crate::fixture;

/// A hub, and what is pushed to it.
struct Rig {
    hub: FakeHub,
    dir: tempfile::TempDir,
}

const REPO: &str = "models/me/ecg";

impl Rig {
    /// With a checkpoint as a run leaves it.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let checkpoint = dir.path().join("checkpoint-7");
        std::fs::create_dir(&checkpoint).unwrap();
        for file in files(&fixture::path("case_a/adapter_final")) {
            std::fs::copy(&file, checkpoint.join(file.file_name().unwrap())).unwrap();
        }
        for (name, bytes) in [("README.md", &b"---\nbase_model: x\n---\n"[..]), ("optimizer.safetensors", &[7; 90_000])]
        {
            storage::publish_file(&checkpoint.join(name), bytes).unwrap();
        }
        Self { hub: FakeHub::start(), dir }
    }

    fn checkpoint(&self) -> PathBuf {
        self.dir.path().join("checkpoint-7")
    }

    fn push(&self, args: &[&str], token: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ecg-train-under-test"));
        command.arg("push").arg(self.checkpoint()).args(["--repo", "me/ecg"]).args(args);
        command.env("HF_HOME", self.dir.path().join("home")).env("HF_ENDPOINT", &self.hub.url).env("HF_TOKEN", token);
        command.output().unwrap()
    }

    /// What the repository must hold of the checkpoint, at main or a branch.
    #[track_caller]
    fn check_arrived(&self, repo: &str, names: &[&str]) {
        let found = self.hub.files(repo).expect("the repository is there");
        let mut expected = [names, &[".gitattributes"]].concat();
        expected.sort_unstable();
        assert_eq!(found.keys().collect::<Vec<_>>(), expected);
        for name in names {
            assert_eq!(found[*name], std::fs::read(self.checkpoint().join(name)).unwrap(), "{name}");
        }
    }

    /// Nothing that was said, sent elsewhere or left on the disk shows the token.
    #[track_caller]
    fn check_secret(&self, outputs: &[Output]) {
        for output in outputs {
            let told = [&output.stdout[..], &output.stderr].concat();
            let told = String::from_utf8_lossy(&told);
            assert!(!told.contains(TOKEN) && !told.contains("signature"), "a secret is shown:\n{told}");
        }
        for request in self.hub.requests() {
            assert!(!request.chunked, "a body of unknown length: {}", request.path);
            let expected = (!request.storage).then(|| format!("Bearer {TOKEN}"));
            assert_eq!(request.authorization, expected, "{} {}", request.method, request.path);
            assert!(!request.body.windows(TOKEN.len()).any(|bytes| bytes == TOKEN.as_bytes()), "{}", request.path);
        }
        for file in files(self.dir.path()) {
            let bytes = std::fs::read(&file).unwrap();
            assert!(!bytes.windows(TOKEN.len()).any(|window| window == TOKEN.as_bytes()), "{}", file.display());
        }
    }

    fn count(&self, begin: &str) -> usize {
        self.hub.requests().iter().filter(|r| format!("{} {}", r.method, r.path).starts_with(begin)).count()
    }
}

const ADAPTER: [&str; 3] = ["README.md", "adapter_config.json", "adapter_model.safetensors"];

#[test]
fn an_adapter_arrives_whole_and_is_not_sent_again() {
    let rig = Rig::new();
    let told = succeeded(&rig.push(&["--private", "--message", "Step 7"], TOKEN));
    assert!(told.contains("3 files sent, all 3 verified") && told.contains("/me/ecg at commit "), "{told}");
    rig.check_arrived(REPO, &ADAPTER);
    let sent = |path: &str| {
        let request = rig.hub.requests().into_iter().find(|request| request.path == path);
        String::from_utf8(request.unwrap().body).unwrap()
    };
    assert!(sent("/api/repos/create").contains("\"private\":true"));
    assert!(sent("/api/models/me/ecg/commit/main").contains("\"summary\":\"Step 7\""));

    let before = rig.hub.requests().len();
    let told = succeeded(&rig.push(&["--private"], TOKEN));
    assert!(told.contains("everything was there already") && told.contains("--private changes nothing"), "{told}");
    assert_eq!(rig.hub.requests().len() - before, 1, "one look at the list");

    // One file changed: one file sent.
    storage::publish_file(&rig.checkpoint().join("README.md"), b"new").unwrap();
    let told = succeeded(&rig.push(&[], TOKEN));
    assert!(told.contains("1 files sent, all 3 verified"), "{told}");
    rig.check_arrived(REPO, &ADAPTER);
    assert_eq!((rig.count("PUT "), rig.count("POST /api/models/me/ecg/commit/main")), (1, 2));

    // Another branch, and everything.
    succeeded(&rig.push(&["--revision", "step-7", "--all"], TOKEN));
    rig.check_arrived(&format!("{REPO}@step-7"), &[&ADAPTER[..], &["optimizer.safetensors"]].concat());
    rig.check_arrived(REPO, &ADAPTER);
    rig.check_secret(&[]);
}

#[test]
fn a_dry_run_shows_hashes_and_asks_nobody() {
    let rig = Rig::new();
    let output = rig.push(&["--dry-run"], "");
    let told = succeeded(&output);
    assert!(told.contains("3 files") && told.contains("nothing was sent"), "{told}");
    let shown = String::from_utf8(output.stdout).unwrap();
    let weights = std::fs::read(rig.checkpoint().join(ADAPTER[2])).unwrap();
    let line = format!("{}  {:>12}  {}\n", super::server::sha256(&weights), weights.len(), ADAPTER[2]);
    assert!(shown.ends_with(&line), "{shown}");
    assert_eq!(shown.lines().count(), 3);
    assert!(rig.hub.requests().is_empty());
}

/// With these faults the push must go through, and the repository hold every file.
#[track_caller]
fn check_survived(faults: impl FnOnce(&mut Faults)) -> Rig {
    let rig = Rig::new();
    rig.hub.set(faults);
    let output = rig.push(&[], TOKEN);
    succeeded(&output);
    rig.check_arrived(REPO, &ADAPTER);
    rig.check_secret(&[output]);
    rig
}

#[test]
fn busy_servers_and_broken_connections_cost_nothing() {
    check_survived(|faults| faults.busy = 3);
    check_survived(|faults| faults.refuse = vec![("POST /api/repos/create", "409 Conflict", 0)]);
    check_survived(|faults| faults.refuse = vec![("POST /api/models/me/ecg/commit", "429 Too Many Requests", 2)]);
    check_survived(|faults| faults.refuse = vec![("PUT /object/", "500 Internal Server Error", 2)]);
    check_survived(|faults| faults.refuse = vec![("POST /verify", "502 Bad Gateway", 1)]);
    let rig = check_survived(|faults| faults.drop_upload = Some(10_000));
    assert_eq!(rig.count("PUT /object/"), 1, "once whole, after a connection that broke off");
    let rig = check_survived(|faults| faults.lose_commit = true);
    assert_eq!(rig.count("POST /api/models/me/ecg/commit"), 2, "asked twice");
    // In parts: one refused twice, and a connection that broke off.
    let rig = check_survived(|faults| {
        faults.parts = Some(70_000);
        faults.drop_upload = Some(100);
        faults.refuse = vec![("PUT /part/", "503 Slow Down", 2)];
    });
    let weights = std::fs::metadata(rig.checkpoint().join(ADAPTER[2])).unwrap().len();
    assert_eq!(rig.count("PUT /part/") as u64, weights.div_ceil(70_000) + 2);
}

/// A repository that somebody made between the look and the attempt (409) is as good.
#[test]
fn a_repository_that_is_there_already_is_taken() {
    let rig = Rig::new();
    rig.hub.serve_names(REPO, &[".gitattributes"]);
    rig.hub.set(|faults| faults.refuse = vec![("GET /api/models/me/ecg/revision/main", "404 Not Found", 1)]);
    succeeded(&rig.push(&[], TOKEN));
    assert_eq!(rig.count("POST /api/repos/create"), 1);
    rig.check_arrived(REPO, &ADAPTER);
}

/// With these faults the push must end with `code`, name every text, and leave the repository as it was.
#[track_caller]
fn check_refused(faults: impl FnOnce(&mut Faults), code: i32, named: &[&str]) {
    let rig = Rig::new();
    rig.hub.serve_names(REPO, &[".gitattributes"]);
    let before = rig.hub.files(REPO);
    rig.hub.set(faults);
    let output = rig.push(&[], TOKEN);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{told}");
    named.iter().for_each(|text| assert!(told.contains(text), "it does not name {text}:\n{told}"));
    assert_eq!(rig.hub.files(REPO), before);
    rig.check_secret(&[output]);
}

#[test]
fn what_the_hub_does_not_take_is_named_and_nothing_is_committed() {
    let at = |request, status, times| move |faults: &mut Faults| faults.refuse = vec![(request, status, times)];
    check_refused(|faults| faults.gated = true, 2, &["me/ecg", "401", "HF_TOKEN", "may write to me"]);
    check_refused(at("POST /api/models/me/ecg/preupload", "403 Forbidden", 9), 2, &["403", "may write to me"]);
    check_refused(at("POST /me/ecg.git", "403 Forbidden", 9), 2, &["403", "large files"]);
    check_refused(
        at("PUT /object/", "500 Internal Server Error", 99),
        6,
        &["500", "store a large file", "nothing was committed"],
    );
    check_refused(at("PUT /object/", "400 Bad Request", 1), 6, &["400", "store a large file"]);
    check_refused(at("POST /api/models/me/ecg/commit", "400 Bad Request", 1), 6, &["400", "commit"]);
    check_refused(at("POST /api/models/me/ecg/commit", "412 Precondition Failed", 1), 6, &["somebody else", "main"]);
    // A repository that is not there, and may not be made.
    let rig = Rig::new();
    rig.hub.set(at("POST /api/repos/create", "403 Forbidden", 9));
    let output = rig.push(&[], TOKEN);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && told.contains("make the repository") && told.contains("403"), "{told}");
    rig.check_secret(&[output]);

    let output = rig.push(&[], "");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && told.contains("set HF_TOKEN"), "{told}");
}

#[test]
fn a_commit_that_is_not_what_was_sent_is_not_believed() {
    let rig = Rig::new();
    rig.hub.set(|faults| faults.flip = Some("list:adapter_model.safetensors".into()));
    let output = rig.push(&[], TOKEN);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(6), "{told}");
    assert!(told.contains("adapter_model.safetensors was pushed, but the hub lists"), "{told}");
}

#[test]
fn a_run_folder_or_a_model_is_pushed_as_well() {
    let rig = Rig::new();
    let push = |dir: &Path| {
        Command::new(env!("CARGO_BIN_EXE_ecg-train-under-test"))
            .arg("push")
            .arg(dir)
            .args(["--repo", "me/ecg"])
            .env("HF_ENDPOINT", &rig.hub.url)
            .env("HF_HOME", rig.dir.path().join("home"))
            .env("HF_TOKEN", TOKEN)
            .output()
            .unwrap()
    };
    let base = fixture::path("case_a/base");
    succeeded(&push(&base));
    let found = rig.hub.files(REPO).unwrap();
    for file in files(&base) {
        assert_eq!(found[file.file_name().unwrap().to_str().unwrap()], std::fs::read(&file).unwrap());
    }
    let empty = tempfile::tempdir().unwrap();
    let told = String::from_utf8_lossy(&push(empty.path()).stderr).into_owned();
    assert!(told.contains("neither adapter_config.json nor a good checkpoint"), "{told}");
}

/// The same folder pushed by huggingface_hub itself: what our hub takes from us, it takes from the real thing.
#[test]
fn the_hub_on_loopback_takes_what_python_pushes() {
    let Some(python) = std::env::var_os("ECG_TRAIN_PYTHON") else {
        eprintln!("skipped: huggingface_hub itself against our hub; ECG_TRAIN_PYTHON names no Python that has it");
        return;
    };
    for parts in [None, Some(70_000)] {
        let (ours, theirs) = (Rig::new(), Rig::new());
        [&ours, &theirs].iter().for_each(|rig| rig.hub.set(|faults| faults.parts = parts));
        succeeded(&ours.push(&[], TOKEN));
        let script = "import sys; from huggingface_hub import HfApi; api = HfApi(); api.create_repo('me/ecg', exist_ok=True); \
                      api.upload_folder(repo_id='me/ecg', folder_path=sys.argv[1], ignore_patterns=['optimizer*'])";
        let output = Command::new(&python)
            .args(["-c", script])
            .arg(theirs.checkpoint())
            .env("HF_ENDPOINT", &theirs.hub.url)
            .env("HF_HOME", theirs.dir.path().join("home"))
            .env("HF_TOKEN", TOKEN)
            .env("HF_HUB_DISABLE_XET", "1")
            .env("HF_HUB_DISABLE_TELEMETRY", "1")
            .env_remove("HF_HUB_OFFLINE")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(theirs.hub.files(REPO), ours.hub.files(REPO));
    }
}
