//! `prepare` into a store: the objects are the files of a local preparation, also after kills, and the manifest comes last.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use crate::faults::prepare::draw;
use crate::faults::rig::{try_signal, wait_for};

use super::server::{Moto, Wrong};
use super::{Rig, check};

impl Rig {
    fn prepare(&self, out: &str) -> Child {
        let config = self.run.path("config.toml");
        let args = ["prepare", "--config", &config, "--out", out, "--shard-size", "20KB"];
        self.command(&args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// The objects under a prefix are the files of the local folder, and nothing beside them.
    #[track_caller]
    fn must_be_the_same_files(&self, moto: &Moto, prefix: &str) {
        self.must_be_the_files_of(&self.folder, moto, prefix);
    }

    #[track_caller]
    fn must_be_the_files_of(&self, folder: &Path, moto: &Moto, prefix: &str) {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        let objects: Vec<String> =
            moto.names(prefix).iter().map(|key| key.rsplit('/').next().unwrap().into()).collect();
        assert_eq!(objects, names);
        for name in &names {
            let object = moto.get(&format!("/bucket/{prefix}/{name}"));
            let same = blake3::hash(&object) == blake3::hash(&fs::read(folder.join(name)).unwrap());
            assert!(same, "{name} has other bytes");
        }
        let rests: Vec<_> = fs::read_dir(self.home.path().join("ecg-train/prepare")).into_iter().flatten().collect();
        assert!(rests.is_empty(), "left behind: {rests:?}");
    }
}

#[test]
fn a_preparation_into_s3_makes_the_objects_of_a_local_one_through_kills_and_faults() {
    let Some(moto) = Moto::start() else { return };
    let rig = Rig::s3(&moto);
    rig.server.fail(Wrong::Status(503), "PUT /bucket/calm", 3);
    rig.server.fail(Wrong::Gone, "PUT /bucket/calm", 2);
    check(&["calm"], &rig.prepare("s3://bucket/calm").wait_with_output().unwrap(), 0, &["s3://bucket/calm"]);
    rig.must_be_the_same_files(&moto, "calm");
    // Slow, so that a kill finds it at work; each time some shards further.
    let out = "s3://bucket/killed/";
    for shards in [1, 3, 4] {
        rig.server.work_again();
        rig.server.fail(Wrong::Late(Duration::from_millis(300)), "PUT /bucket/killed/part", u32::MAX);
        let mut child = rig.prepare(out);
        wait_for("some shards", || moto.names("killed/part").len() > shards);
        try_signal("KILL", child.id());
        child.wait().unwrap();
        assert!(!moto.names("killed").contains(&"killed/manifest.json".to_owned()), "it was over before the kill");
        let killed = ["prepare", "--verify", out];
        rig.check(&killed, 3, &["manifest.json"]);
    }
    rig.server.work_again();
    let (first, before) = ("PUT /bucket/killed/part-00000", rig.server.count("PUT /bucket/killed/part-00000"));
    check(&["killed"], &rig.prepare(out).wait_with_output().unwrap(), 0, &["s3://bucket/killed"]);
    assert_eq!(rig.server.count(first), before, "a finished shard was made again");
    rig.must_be_the_same_files(&moto, "killed");
    // What is complete is left alone, and what is something else, too.
    check(&["again"], &rig.prepare(out).wait_with_output().unwrap(), 0, &[]);
    rig.must_be_the_same_files(&moto, "killed");
    moto.put("/bucket/other/notes.txt", b"mine");
    check(
        &["other"],
        &rig.prepare("s3://bucket/other").wait_with_output().unwrap(),
        3,
        &["s3://bucket/other", "not empty"],
    );
}

/// Parts have 16 MiB; the object is there when all of them are.
#[test]
fn a_large_shard_goes_in_parts_that_become_visible_together() {
    let Some(moto) = Moto::start() else { return };
    let rig = Rig::s3(&moto);
    let (source, local) = (rig.run.path("large"), rig.run.path("large-here"));
    fs::create_dir(&source).unwrap();
    draw(Path::new(&source), 800, 1);
    let prepare = |out: &str| {
        let args = ["prepare", "--source", &source, "--out", out, "--shard-size", "40MB"];
        rig.command(&args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    check(&["here"], &prepare(&local).wait_with_output().unwrap(), 0, &[]);
    let size = fs::metadata(Path::new(&local).join("part-00000.parquet")).unwrap().len();
    assert!(size > 2 * (16 << 20), "{size} bytes are no three parts");
    // Killed between two parts: nothing is visible.
    let part = "PUT /bucket/large/part-00000.parquet?partNumber=2";
    rig.server.fail(Wrong::Late(Duration::from_secs(60)), part, 1);
    let mut child = prepare("s3://bucket/large");
    wait_for("the second part", || rig.server.count(part) > 0);
    try_signal("KILL", child.id());
    child.wait().unwrap();
    assert_eq!(moto.names("large/part"), Vec::<String>::new());
    rig.server.work_again();
    rig.server.fail(Wrong::Status(503), "partNumber=1", 2);
    rig.server.fail(Wrong::Gone, "partNumber=3", 1);
    check(&["large"], &prepare("s3://bucket/large").wait_with_output().unwrap(), 0, &["s3://bucket/large"]);
    rig.must_be_the_files_of(Path::new(&local), &moto, "large");
    rig.check(&["prepare", "--verify", "s3://bucket/large"], 0, &["every byte is as it was written"]);
    // A part that the store refuses for good is said, and what was sent is given up.
    rig.server.fail(Wrong::Status(403), "PUT /bucket/refused/part-00000.parquet?partNumber=2", u32::MAX);
    check(&["refused"], &prepare("s3://bucket/refused").wait_with_output().unwrap(), 6, &["refused", "403"]);
    assert_eq!(rig.server.count("DELETE /bucket/refused/part-00000.parquet?uploadId"), 1);
}
