//! Hub ids through the real program, against a hub on loopback: what arrives is verified, what breaks off goes on, what is
//! wrong is refused, and the cache is huggingface_hub's.

mod prepare;
mod push;
mod server;
mod upload;

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::journey::{Run, draw};
use server::{COMMIT, FakeHub, git_sha1};

const TOKEN: &str = "hf_loopbackSecret";

/// A hub with a base and rows, a cache, and a run that names them by their ids.
struct Rig {
    hub: FakeHub,
    run: Run,
    home: tempfile::TempDir,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (base, rows) = draw(dir.path());
        let hub = FakeHub::start();
        hub.serve("models/tiny/base", &base);
        hub.serve("datasets/tiny/rows", &rows);
        Self { hub, run: Run::of(&base, &rows, dir), home: tempfile::tempdir().unwrap() }
    }

    /// The program with the hub's variables and `more`.
    fn program(&self, args: &[&str], more: &[(&str, &str)]) -> Output {
        self.command(args, more).output().unwrap()
    }

    fn command(&self, args: &[&str], more: &[(&str, &str)]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ecg-train-under-test"));
        command.args(args).env_remove("HF_HUB_CACHE").env_remove("HF_HUB_OFFLINE");
        command.env("HF_HOME", self.home.path()).env("HF_ENDPOINT", &self.hub.url).env("HF_TOKEN", TOKEN);
        command.envs(more.iter().copied());
        command
    }

    /// `launch --cpus 2` of the run, by ids unless `changes` say otherwise.
    fn launch(&self, changes: &[&str], more: &[(&str, &str)]) -> Output {
        let config = self.run.path("config.toml");
        let mut args = vec!["launch", "--cpus", "2", "--config", &config];
        let ids = ["model.path=tiny/base", "data.train=tiny/rows", "train.max_steps=3"];
        ids.iter().chain(changes).for_each(|change| args.extend(["--set", change]));
        self.program(&args, more)
    }

    /// The launch must fail with `code` and name every text.
    #[track_caller]
    fn check_refused(&self, changes: &[&str], more: &[(&str, &str)], code: i32, named: &[&str]) {
        let output = self.launch(changes, more);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{changes:?} said:\n{told}");
        named.iter().for_each(|text| assert!(told.contains(text), "{changes:?} does not name {text}:\n{told}"));
        assert!(!told.contains(TOKEN) && !told.contains("signature"), "a secret is shown:\n{told}");
        assert!(!Path::new(&self.run.path("run/journal.jsonl")).exists(), "a step was made");
    }

    fn repo(&self) -> PathBuf {
        self.home.path().join("hub/models--tiny--base")
    }

    /// Where a file of the base lies in the cache, links followed.
    fn blob(&self, name: &str) -> PathBuf {
        self.repo().join("snapshots").join(COMMIT).join(name).canonicalize().unwrap()
    }
}

#[track_caller]
fn succeeded(output: &Output) -> String {
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "ended with {}:\n{told}", output.status);
    told
}

#[test]
fn a_run_by_ids_equals_the_run_on_folders_whatever_the_network_does() {
    let rig = Rig::new();
    rig.run.must_launch(2, &["train.max_steps=3"]);
    let expected = rig.run.bits(3);
    std::fs::remove_dir_all(rig.run.path("run")).unwrap();

    rig.hub.set(|faults| {
        faults.busy = 2; // 503 twice.
        faults.break_after = Some(("model.safetensors".into(), 100_000));
    });
    let told = succeeded(&rig.launch(&[], &[]));
    assert!(told.contains(COMMIT), "the commit is not said:\n{told}");
    assert_eq!(rig.run.bits(3), expected);

    let requests = rig.hub.requests();
    let of_weights = |r: &&server::Request| r.storage && r.path.contains("model.safetensors");
    let ranges: Vec<_> = requests.iter().filter(of_weights).filter_map(|r| r.range.as_deref()).collect();
    assert_eq!(ranges, ["bytes=100000-"], "the download goes on where it broke off");
    assert!(requests.iter().filter(|r| r.storage).all(|r| r.authorization.is_none()), "the token left the hub");
    let hub_token = requests.iter().filter(|r| !r.storage).all(|r| r.authorization == Some(format!("Bearer {TOKEN}")));
    assert!(hub_token, "the hub did not get the token");

    // What was found is pinned in the run's config, under the hub's own names.
    let config = std::fs::read_to_string(rig.run.path("run/config.toml")).unwrap();
    assert!(config.contains(&format!("revision = \"{COMMIT}\"")), "{config}");
    assert!(config.contains(&format!("hf://datasets/tiny/rows@{COMMIT}")), "{config}");
    let adapter = std::fs::read_to_string(rig.run.path("run/checkpoint-3/adapter_config.json")).unwrap();
    assert!(adapter.contains("\"tiny/base\""), "{adapter}");
    for file in files(Path::new(&rig.run.path("run"))) {
        let bytes = std::fs::read(&file).unwrap();
        assert!(
            !bytes.windows(TOKEN.len()).any(|window| window == TOKEN.as_bytes()),
            "{} holds the token",
            file.display()
        );
    }

    // The branch moves on; the run does not. And with its commit known, nobody need be asked.
    rig.hub.set(|faults| faults.moved = true);
    succeeded(&rig.launch(&[], &[]));
    let told = succeeded(&rig.launch(&[], &[("HF_HUB_OFFLINE", "1")]));
    assert!(told.contains("from the cache"), "{told}");
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[test]
fn what_cannot_be_had_is_named_with_the_next_step() {
    let rig = Rig::new();
    let check = |change, more: &[_], code, named: &[_]| rig.check_refused(&[change], more, code, named);
    check("model.path=tiny/none", &[], 2, &["tiny/none", "no such model", "main"]);
    check("model.revision=v9", &[], 2, &["tiny/base", "v9"]);
    check("data.train=tiny/none", &[], 2, &["tiny/none", "no such data set"]);
    check("data.train=hf://datasets/tiny/rows/none-*.parquet", &[], 2, &["tiny/rows", "nothing of use"]);
    let offline = [("HF_HUB_OFFLINE", "1")];
    check("model.path=tiny/other", &offline, 2, &["HF_HUB_OFFLINE", "hf download tiny/other", "HF_HOME"]);
    check("model.path=tiny/base", &[("HF_ENDPOINT", "http://127.0.0.1:1")], 2, &["127.0.0.1:1", "hf download"]);
    rig.hub.serve_names("datasets/tiny/tars", &["ECGInstruct.json", "shard_1.tar.gz"]);
    check("data.train=tiny/tars", &[], 2, &["tar.gz", "ecg-train prepare --source hf://datasets/tiny/tars@main --out"]);
    rig.hub.set(|faults| faults.gated = true);
    check("model.path=tiny/base", &[], 2, &["401", "licence", "token may read it"]);
    check("model.path=tiny/base", &[("HF_TOKEN", "")], 2, &["401", "licence", "set HF_TOKEN"]);
}

#[test]
fn bytes_that_are_not_what_the_hub_states_are_refused_and_removed() {
    let rig = Rig::new();
    rig.hub.set(|faults| faults.flip = Some("model.safetensors".into()));
    rig.check_refused(&[], &[], 6, &["model.safetensors", "hash"]);
    // A hub of its own: files are fetched at the same time, so the first try may have had this one.
    let another = Rig::new();
    another.hub.set(|faults| faults.flip = Some("tokenizer.json".into()));
    another.check_refused(&[], &[], 6, &["tokenizer.json", "hash"]);
    let left = files(&rig.repo().join("blobs"));
    let hashes: Vec<_> = left.iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect();
    assert!(hashes.iter().all(|name| !name.ends_with(".incomplete")), "{hashes:?}");
    // Healed, the same command goes through; a rest that another process left is not trusted either.
    rig.hub.set(|faults| faults.flip = None);
    let weights = rig.hub.hash("models/tiny/base", "model.safetensors");
    std::fs::remove_file(rig.repo().join("blobs").join(&weights)).ok();
    storage::publish_file(&rig.repo().join("blobs").join(format!("{weights}.incomplete")), &[7; 5000]).unwrap();
    succeeded(&rig.launch(&["train.max_steps=1"], &[]));
}

#[test]
fn the_cache_is_huggingface_hubs() {
    let rig = Rig::new();
    succeeded(&rig.launch(&["train.max_steps=1"], &[]));
    // refs, snapshots of relative links, blobs named by their hash.
    assert_eq!(std::fs::read_to_string(rig.repo().join("refs/main")).unwrap(), COMMIT);
    let snapshot = rig.repo().join("snapshots").join(COMMIT);
    let link = std::fs::read_link(snapshot.join("config.json")).unwrap();
    let config = std::fs::read(snapshot.join("config.json")).unwrap();
    assert_eq!(link, Path::new("../../blobs").join(git_sha1(&config)));
    let link = std::fs::read_link(snapshot.join("model.safetensors")).unwrap();
    assert_eq!(link.file_name().unwrap().len(), 64);

    // A second run asks for the list alone.
    std::fs::remove_dir_all(rig.run.path("run")).unwrap();
    let before = rig.hub.requests().len();
    succeeded(&rig.launch(&["train.max_steps=1"], &[]));
    assert_eq!(rig.hub.requests().len() - before, 2, "one list a repository");

    // Damage on the disk is found by the hash before anything uses it, and healed where there is a network.
    let blob = rig.blob("config.json");
    let mut damaged = config.clone();
    damaged[10] ^= 1;
    storage::publish_file(&blob, &damaged).unwrap();
    std::fs::remove_dir_all(rig.run.path("run")).unwrap();
    rig.check_refused(&[], &[("HF_HUB_OFFLINE", "1")], 6, &["config.json", "removed"]);
    assert!(!blob.exists());
    succeeded(&rig.launch(&["train.max_steps=1"], &[]));
    assert_eq!(std::fs::read(&blob).unwrap(), config);
}

#[test]
fn what_python_has_downloaded_is_found_offline_and_the_other_way_round() {
    // By hand, as huggingface_hub lays it out.
    let rig = Rig::new();
    let dir = tempfile::tempdir().unwrap();
    let (base, rows) = draw(dir.path());
    let snapshot = rig.repo().join("snapshots").join(COMMIT);
    for folder in [&snapshot, &rig.repo().join("blobs"), &rig.repo().join("refs")] {
        std::fs::create_dir_all(folder).unwrap();
    }
    for file in files(&base) {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let hash = rig.hub.hash("models/tiny/base", &name);
        std::fs::copy(&file, rig.repo().join("blobs").join(&hash)).unwrap();
        symlink(Path::new("../../blobs").join(&hash), snapshot.join(&name)).unwrap();
    }
    storage::publish_file(&rig.repo().join("refs/main"), COMMIT.as_bytes()).unwrap();
    let rows = format!("data.train={}", rows.display());
    let told = succeeded(&rig.launch(&["train.max_steps=1", &rows], &[("HF_HUB_OFFLINE", "1")]));
    assert!(told.contains("from the cache"), "{told}");

    let Some(python) = std::env::var_os("ECG_TRAIN_PYTHON") else {
        eprintln!("skipped: huggingface_hub itself on our cache; ECG_TRAIN_PYTHON names no Python that has it");
        return;
    };
    let rig = Rig::new();
    succeeded(&rig.launch(&["train.max_steps=1"], &[]));
    let script = "import sys; from huggingface_hub import snapshot_download; print(snapshot_download('tiny/base'))";
    let found = Command::new(python)
        .args(["-c", script])
        .env("HF_HOME", rig.home.path())
        .env("HF_HUB_OFFLINE", "1")
        .env_remove("HF_HUB_CACHE")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&found.stdout).into_owned();
    assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stderr));
    assert_eq!(Path::new(told.trim()), rig.repo().join("snapshots").join(COMMIT));
}
