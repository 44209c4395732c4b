//! Prepared folders in object stores, through the real program: training from one gives the bits of training from a folder
//! whatever the network does, what is wrong is mended or named, and credentials are nowhere but in processes.

mod prepare;
mod server;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use crate::faults::rig::{for_each_file, wait_for};
use crate::journey::{Run, succeed};
use server::{Behind, Moto, Server, Wrong};

const CANARY: &str = "canary-91c5e0d2";
const SETTINGS: [&str; 3] = ["data.shuffle=true", "train.max_steps=4", "checkpoint.every_steps=4"];

/// A run on rows prepared as a folder here, and a server in front of the same rows.
struct Rig {
    run: Run,
    folder: PathBuf,
    server: Server,
    home: tempfile::TempDir,
}

impl Rig {
    /// Of a web server of that folder.
    fn web() -> Self {
        let run = prepared();
        let server = Server::start(Behind::Folder(run.path(".").into()));
        let folder = run.path("prepared").into();
        Self { run, folder, server, home: tempfile::tempdir().unwrap() }
    }

    /// Of S3 with the folder's files as its objects.
    fn s3(moto: &Moto) -> Self {
        let rig = Self { server: Server::start(Behind::Server(moto.address.clone())), ..Self::web() };
        for entry in fs::read_dir(&rig.folder).unwrap().flatten() {
            moto.put(&format!("/bucket/prepared/{}", entry.file_name().display()), &fs::read(entry.path()).unwrap());
        }
        rig
    }

    fn address(&self) -> String {
        format!("{}/prepared", self.server.url)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ecg-train-under-test"));
        command.args(args).env("XDG_CACHE_HOME", self.home.path()).env("AWS_ENDPOINT_URL", &self.server.url);
        command.env("AWS_ALLOW_HTTP", "true").env("AWS_REGION", "us-east-1").env("AWS_SESSION_TOKEN", CANARY);
        command.env("AWS_ACCESS_KEY_ID", CANARY).env("AWS_SECRET_ACCESS_KEY", CANARY);
        command
    }

    fn program(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    fn launch(&self, cpus: u32, train: &str, more: &[&str]) -> Output {
        let (cpus, config, train) = (cpus.to_string(), self.run.path("config.toml"), format!("data.train={train}"));
        let mut args = vec!["launch", "--cpus", &cpus, "--config", &config, "--set", &train];
        SETTINGS.iter().for_each(|setting| args.extend(["--set", setting]));
        args.extend(more);
        self.program(&args)
    }

    /// A run from `train` must give the journal and the adapter `expected`.
    #[track_caller]
    fn must_equal(&self, cpus: u32, train: &str, expected: &Bits) {
        let _ = fs::remove_dir_all(self.run.path("run"));
        let output = self.launch(cpus, train, &[]);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{train} on {cpus} ended with {}:\n{told}", output.status);
        assert_eq!(self.run.bits(4), *expected, "{train} on {cpus}");
    }

    /// What training on the folder here gives.
    fn expected(&self) -> Bits {
        let train = format!("data.train={}", self.folder.display());
        self.run.must_launch(1, &[&SETTINGS[..], &[&train]].concat());
        self.run.bits(4)
    }

    /// The program must end with `code`, name every text and no secret.
    #[track_caller]
    fn check(&self, args: &[&str], code: i32, named: &[&str]) {
        check(args, &self.program(args), code, named);
    }

    fn cached(&self) -> Vec<PathBuf> {
        let mut blocks = Vec::new();
        for_each_file(&self.home.path().join("ecg-train/objects"), &mut |path| {
            if path.is_file() && path.file_name().is_some_and(|name| name != "ledger") {
                blocks.push(path.to_owned());
            }
        });
        blocks
    }
}

type Bits = (Vec<trainer::journal::Line>, blake3::Hash);

fn prepared() -> Run {
    let run = Run::synthetic();
    succeed(&["prepare", "--config", &run.path("config.toml"), "--out", &run.path("prepared"), "--shard-size", "20KB"]);
    run
}

#[track_caller]
fn check(args: &[&str], output: &Output, code: i32, named: &[&str]) {
    let told = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(code), "{args:?} said:\n{told}");
    named.iter().for_each(|text| assert!(told.contains(text), "{args:?} does not name {text}:\n{told}"));
    assert!(!told.contains("canary"), "{args:?} shows a secret:\n{told}");
}

#[test]
fn a_run_from_s3_has_the_bits_of_the_run_from_the_folder_whatever_the_network_does() {
    let Some(moto) = Moto::start() else { return };
    let rig = Rig::s3(&moto);
    let expected = rig.expected();
    for (wrong, times) in [
        (Wrong::Status(503), 3),
        (Wrong::Status(500), 2),
        (Wrong::Cut, 2),
        (Wrong::Gone, 2),
        (Wrong::Late(Duration::from_secs(1)), 2),
    ] {
        rig.server.fail(wrong, "prepared", times);
    }
    rig.server.fail(Wrong::Flip, "GET /bucket/prepared/part-0000", 1);
    rig.must_equal(2, "s3://bucket/prepared", &expected);
    rig.must_equal(1, "s3://bucket/prepared", &expected);
    // All blocks are here by now.
    let asked = rig.server.count("GET /bucket/prepared/part-");
    rig.must_equal(2, "s3://bucket/prepared", &expected);
    let again = rig.server.count("GET /bucket/prepared/part-") - asked;
    assert_eq!(again, 0, "{again} requests for shards that are in the cache");
    rig.check(&["prepare", "--verify", "s3://bucket/prepared"], 0, &["every byte is as it was written"]);
    let config = rig.run.path("config.toml");
    let train = "data.train=s3://bucket/prepared";
    rig.check(&["check", "--config", &config, "--set", train, "--output-dir", &rig.run.path("new")], 0, &["60 rows"]);
    rig.check(&["bench", "data", "--data", "s3://bucket/prepared", "--rows", "4", "--rounds", "1"], 0, &["rows"]);
}

#[test]
fn credentials_are_in_no_file_log_or_workers_environment() {
    let rig = Rig::web();
    let (config, train) = (rig.run.path("config.toml"), format!("data.train={}", rig.address()));
    rig.server.fail(Wrong::Late(Duration::from_secs(2)), "part-", 4); // Time to look at the workers.
    let mut command = rig.command(&["launch", "--cpus", "2", "--config", &config, "--set", &train]);
    command.env("RUST_LOG", "trace").env("ECG_TRAIN_TEST_OBJECTS", rig.home.path());
    let mut launched = command.spawn().unwrap();
    let mark = format!("ECG_TRAIN_TEST_OBJECTS={}", rig.home.path().display());
    let mut environments = Vec::new();
    wait_for("two workers", || {
        environments = workers(&mark);
        environments.len() == 2
    });
    assert!(environments.iter().all(|environ| !holds_canary(environ)), "a worker's environment has a secret");
    assert!(launched.wait().unwrap().success());
    let mut n_files = 0;
    for root in [rig.run.path("run").into(), rig.home.path().to_owned()] {
        for_each_file(&root, &mut |path: &Path| {
            n_files += 1;
            assert!(path.is_dir() || !holds_canary(&fs::read(path).unwrap()), "{} has a secret", path.display());
        });
    }
    assert!(n_files > 10);
}

/// The environments and arguments of the marked workers that live.
fn workers(mark: &str) -> Vec<Vec<u8>> {
    let read = |pid: &str, name: &str| fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let both = pids.map(|pid| [read(&pid, "environ"), read(&pid, "cmdline")].concat());
    let has = |bytes: &[u8], text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    both.filter(|bytes| has(bytes, mark) && has(bytes, "WORLD_SIZE=2")).collect()
}

fn holds_canary(bytes: &[u8]) -> bool {
    bytes.windows(6).any(|window| window == b"canary")
}

#[test]
fn a_web_servers_folder_trains_to_the_same_bits_and_takes_no_files() {
    let rig = Rig::web();
    let expected = rig.expected();
    rig.must_equal(2, &rig.address(), &expected);
    rig.check(&["prepare", "--verify", &rig.address()], 0, &["every byte is as it was written"]);
    let (config, out) = (rig.run.path("config.toml"), format!("{}/new", rig.server.url));
    let asked = rig.server.count("");
    rig.check(&["prepare", "--config", &config, "--out", &out], 2, &[&out, "only read from", "s3://"]);
    assert_eq!(rig.server.count(""), asked, "nothing was tried");
}

#[test]
fn a_wrong_byte_is_asked_for_again_and_then_named() {
    let rig = Rig::web();
    let expected = rig.expected();
    // Once: from the store, or in the cache of this machine.
    rig.server.fail(Wrong::Flip, "GET /prepared/part-00000", 1);
    rig.must_equal(1, &rig.address(), &expected);
    let blocks = rig.cached();
    assert!(blocks.len() > 2, "{blocks:?}");
    for block in &blocks {
        let mut bytes = fs::read(block).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        storage::publish_file(block, &bytes).unwrap();
    }
    rig.must_equal(2, &rig.address(), &expected);
    rig.server.fail(Wrong::Flip, "GET /prepared/part-00000", 1);
    rig.check(&["prepare", "--verify", &rig.address()], 0, &["every byte"]);
    // For good: the object itself.
    let shard = rig.folder.join("part-00000.parquet");
    let mut bytes = fs::read(&shard).unwrap();
    let middle = bytes.len() / 3;
    bytes[middle] ^= 1;
    storage::publish_file(&shard, &bytes).unwrap();
    fs::remove_dir_all(rig.home.path().join("ecg-train")).unwrap();
    let _ = fs::remove_dir_all(rig.run.path("run"));
    let url = format!("{}/part-00000.parquet", rig.address());
    rig.check(&["prepare", "--verify", &rig.address()], 3, &[&url, "hash"]);
    check(&["launch"], &rig.launch(2, &rig.address(), &[]), 3, &[&url, "row"]);
}

#[test]
fn a_store_that_is_gone_or_refuses_is_named_in_time() {
    let rig = Rig::web();
    let patience = ["--patience", "4"];
    let began = Instant::now();
    rig.server.fail(Wrong::Gone, "GET /prepared/part-", u32::MAX);
    let gone = rig.launch(2, &rig.address(), &patience);
    check(&["gone"], &gone, 6, &[&rig.address(), "part-", "the same command goes on"]);
    assert!(began.elapsed() < Duration::from_secs(90), "{:?}", began.elapsed());
    rig.server.work_again();
    rig.server.fail(Wrong::Status(403), "prepared", u32::MAX);
    check(
        &["refused"],
        &rig.launch(1, &rig.address(), &patience),
        6,
        &[&rig.address(), "refuses access", "403", "AWS_"],
    );
    rig.server.work_again();
    let none = format!("{}/nothing", rig.server.url);
    check(&["none"], &rig.launch(1, &none, &patience), 3, &[&none, "no manifest.json", "ecg-train prepare --out"]);
    let secret = format!("s3://{CANARY}@bucket/prepared");
    check(&["secret"], &rig.launch(1, &secret, &patience), 2, &["s3://bucket", "credentials in it"]);
    // When it works again, the same command does.
    let again = rig.launch(2, &rig.address(), &patience);
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
}
