use super::*;

#[test]
fn a_file_is_replaced_whole_and_nothing_is_left_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let dst = dir.path().join("a.json");
    publish_file(&dst, b"one").unwrap();
    publish_file(&dst, b"two").unwrap();
    assert_eq!(fs::read(&dst).unwrap(), b"two");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_folder_is_seen_only_when_published() {
    let dir = tempfile::tempdir().unwrap();
    let dst = dir.path().join("out");
    let staged = StagedDir::new(&dst).unwrap();
    staged.write("x", b"1").unwrap();
    assert!(!dst.exists());
    staged.publish().unwrap();
    assert_eq!(fs::read(dst.join("x")).unwrap(), b"1");
    assert!(StagedDir::new(&dst).unwrap_err().to_string().contains("out"), "an existing folder is not overwritten");

    let second = dir.path().join("second");
    drop(StagedDir::new(&second).unwrap());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "an abandoned attempt leaves nothing");
}

#[test]
fn a_sweep_removes_what_killed_attempts_left_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::mem::forget(StagedDir::new(&at("checkpoint-5")).unwrap()); // As a kill would leave it.
    fs::File::create(at(".journal.unfinished")).unwrap();
    publish_file(&at("kept"), b"1").unwrap();
    sweep(dir.path()).unwrap();
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["kept"]);
}
