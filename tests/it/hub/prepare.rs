//! `prepare` from the hub: JSON rows whose archives are fetched one after the other, and go when their rows are safe.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::thread;
use std::time::Duration;

use crate::faults::prepare::{draw, files as hashes};
use crate::faults::rig::{try_signal, wait_for};

use super::server::COMMIT;
use super::{Rig, files, succeeded};

/// Four rows an archive, and names that sort otherwise by letter than by number.
const ARCHIVES: usize = 11;

/// A hub that has `tiny/ecg`, the same rows in a folder, and what a preparation of that folder comes to.
struct Ecg {
    rig: Rig,
    source: PathBuf,
    expected: PathBuf,
}

impl Ecg {
    fn new() -> Self {
        let rig = Rig::new();
        let source = PathBuf::from(rig.run.path("source"));
        fs::create_dir(&source).unwrap();
        draw(&source, 4 * ARCHIVES, ARCHIVES);
        rig.hub.serve("datasets/tiny/ecg", &source);
        let expected = PathBuf::from(rig.run.path("expected"));
        let ecg = Self { rig, source, expected };
        let (source, expected) = (ecg.source.display().to_string(), ecg.expected.display().to_string());
        succeeded(&ecg.prepare(&["--source", &source, "--out", &expected]).wait_with_output().unwrap());
        ecg
    }

    fn prepare(&self, args: &[&str]) -> Child {
        let args: Vec<&str> = ["prepare", "--shard-size", "120KB"].iter().chain(args).copied().collect();
        let mut command = self.rig.command(&args, &[]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn by_id(&self, out: &str) -> Output {
        self.prepare(&["--source", "tiny/ecg", "--out", &self.rig.run.path(out)]).wait_with_output().unwrap()
    }

    fn repo(&self) -> PathBuf {
        self.rig.home.path().join("hub/datasets--tiny--ecg")
    }

    /// What lies in the cache, by the names in the snapshot; unfinished downloads are not here.
    fn cached(&self) -> Vec<String> {
        let mut names: Vec<String> = files(&self.repo().join("snapshots"))
            .iter()
            .map(|file| file.file_name().unwrap().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// Names of the archives whose bytes were asked for, in order.
    fn asked(&self) -> Vec<String> {
        let requests = self.rig.hub.requests().into_iter().filter(|request| request.storage);
        let names =
            requests.map(|request| request.path.split('?').next().unwrap().rsplit('/').next().unwrap().to_owned());
        names.filter(|name| name.starts_with("shard_")).collect()
    }

    /// All but the manifest, which names the source.
    #[track_caller]
    fn must_be_expected(&self, out: &str) {
        let of = |folder: &Path| {
            let mut found = hashes(folder);
            found.remove(Path::new("manifest.json")).expect("a manifest");
            found
        };
        assert_eq!(of(Path::new(&self.rig.run.path(out))), of(&self.expected));
    }
}

#[test]
fn a_data_set_is_prepared_from_its_id_with_a_few_archives_on_the_disk_at_a_time() {
    let ecg = Ecg::new();
    ecg.rig.hub.set(|faults| {
        faults.busy = 2;
        faults.break_after = Some(("shard_2.tar".into(), 60_000));
    });
    let out = ecg.rig.run.path("out");
    let mut child = ecg.prepare(&["--source", "tiny/ecg", "--out", &out]);
    let mut most = 0;
    while child.try_wait().unwrap().is_none() {
        let blobs = fs::read_dir(ecg.repo().join("blobs")).into_iter().flatten().count();
        most = most.max(blobs);
        thread::sleep(Duration::from_millis(1));
    }
    let told = succeeded(&child.wait_with_output().unwrap());
    assert!(told.contains("11 archives") && told.contains(COMMIT), "{told}");
    assert!((2..=5).contains(&most), "{most} files in the cache at once: JSON, three archives and one that goes");
    ecg.must_be_expected("out");
    let names: Vec<String> = (1..=ARCHIVES).map(|i| format!("shard_{i}.tar")).collect();
    let mut asked = ecg.asked();
    asked.dedup(); // The second one came in two parts.
    assert_eq!(asked, names);
    assert_eq!(ecg.cached(), ["rows.json"], "what was fetched for this is gone");
    let manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(Path::new(&out).join("manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest["source"]["revision"], COMMIT);
    assert_eq!(manifest["source"]["paths"][0], format!("hf://datasets/tiny/ecg@{COMMIT}"));
    // It is complete, so nothing is asked for again; and a run trains on it.
    succeeded(&ecg.by_id("out"));
    assert_eq!(ecg.asked().len(), ARCHIVES + 1);
    let config = ecg.rig.run.path("config.toml");
    let by_config = ["--config", &config, "--set", "data.train=tiny/ecg", "--set", "data.max_seq_len=1024"];
    let out = ecg.rig.run.path("by-config");
    succeeded(&ecg.prepare(&[&by_config[..], &["--out", &out]].concat()).wait_with_output().unwrap());
    succeeded(&ecg.rig.launch(&[&format!("data.train={out}"), "train.max_steps=1"], &[]));
}

#[test]
fn a_preparation_that_breaks_off_goes_on_and_fetches_nothing_twice() {
    let ecg = Ecg::new();
    // A damaged archive ends it with the name, behind the shards that are finished.
    ecg.rig.hub.set(|faults| faults.flip = Some("shard_3.tar".into()));
    let refused = ecg.by_id("out");
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(6), "{told}");
    assert!(told.contains("shard_3.tar") && told.contains("hash"), "{told}");
    // The connection falls silent: Ctrl-C ends it at once.
    ecg.rig.hub.set(|faults| (faults.flip, faults.silent_after) = (None, Some(("shard_5.tar".into(), 70_000))));
    let child = ecg.prepare(&["--source", "tiny/ecg", "--out", &ecg.rig.run.path("out")]);
    wait_for("the silence", || ecg.asked().iter().any(|name| name == "shard_5.tar"));
    thread::sleep(Duration::from_millis(500));
    try_signal("INT", child.id());
    let stopped = child.wait_with_output().unwrap();
    assert_eq!(stopped.status.code(), Some(75), "{}", String::from_utf8_lossy(&stopped.stderr));
    ecg.rig.hub.set(|faults| faults.silent_after = None);
    succeeded(&ecg.by_id("out"));
    ecg.must_be_expected("out");
    assert_eq!(ecg.cached(), ["rows.json"]);
    let asked = ecg.asked();
    for name in ["shard_1.tar", "shard_2.tar", "shard_11.tar"] {
        assert_eq!(asked.iter().filter(|asked| *asked == name).count(), 1, "{name}: {asked:?}");
    }
}

#[test]
fn an_archive_that_was_in_the_cache_before_stays_there() {
    let ecg = Ecg::new();
    let (blobs, hash) = (ecg.repo().join("blobs"), ecg.rig.hub.hash("datasets/tiny/ecg", "shard_4.tar"));
    fs::create_dir_all(&blobs).unwrap();
    fs::copy(ecg.source.join("shard_4.tar"), blobs.join(&hash)).unwrap();
    succeeded(&ecg.by_id("out"));
    ecg.must_be_expected("out");
    assert_eq!(ecg.cached(), ["rows.json", "shard_4.tar"]);
    assert!(!ecg.asked().contains(&"shard_4.tar".to_owned()));
}

#[test]
fn what_cannot_be_prepared_from_the_hub_is_said_before_a_download() {
    let ecg = Ecg::new();
    let check = |args: &[&str], code: i32, named: &[&str]| {
        let out = ecg.rig.run.path("refused");
        let output = ecg.prepare(&[args, &["--out", &out]].concat()).wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {told}");
        named.iter().for_each(|text| assert!(told.contains(text), "{args:?} does not name {text}: {told}"));
        assert!(!Path::new(&out).exists(), "{args:?} made a folder");
    };
    check(&["--source", "tiny/none"], 2, &["tiny/none", "no such data set"]);
    check(&["--source", "tiny/ecg", "--images", "/tmp"], 2, &["--images", "tiny/ecg"]);
    let two = ["a.json", "b.json", "shard_1.tar.gz"];
    ecg.rig.hub.serve_names("datasets/tiny/two", &two);
    check(&["--source", "tiny/two"], 2, &["a.json, b.json", "hf://datasets/tiny/two@main/FILE.json"]);
    assert!(ecg.asked().is_empty(), "{:?}", ecg.asked());
}
