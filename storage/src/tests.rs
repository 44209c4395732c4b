use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

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
fn a_large_file_is_seen_only_when_published() {
    let dir = tempfile::tempdir().unwrap();
    let dst = dir.path().join("part.parquet");
    let mut staged = StagedFile::new(&dst).unwrap();
    staged.write_all(b"half").unwrap();
    drop(staged);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "an abandoned attempt leaves nothing");
    let mut staged = StagedFile::new(&dst).unwrap();
    staged.write_all(b"whole").unwrap();
    assert!(!dst.exists());
    staged.publish().unwrap();
    assert_eq!(fs::read(&dst).unwrap(), b"whole");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_file_that_grows_goes_on_behind_its_last_whole_piece() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("answers.jsonl");
    let (mut file, held) = Appended::open(&path).unwrap();
    assert!(held.is_empty());
    file.append(b"one\n").unwrap();
    assert!(Appended::open(&path).unwrap_err().to_string().contains("another process writes it"));
    file.append(b"tw").unwrap();
    drop(file);
    let (mut file, held) = Appended::open(&path).unwrap();
    assert_eq!(held, b"one\ntw");
    file.cut(4).unwrap();
    file.append(b"two\n").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"one\ntwo\n");
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

/// Forbids the change number `n` below `root`, from 0; counts them all.
fn forbid(root: &Path, n: usize) -> (faults::Watch, Arc<AtomicUsize>) {
    let seen = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&seen);
    let watch = faults::watch(root, move |_| match count.fetch_add(1, Ordering::SeqCst) == n {
        true => Err(io::ErrorKind::StorageFull.into()),
        false => Ok(()),
    });
    (watch, seen)
}

/// Names in a folder, hidden ones too.
fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn whatever_change_fails_a_file_is_the_old_one_or_the_new_one() {
    for n in 0.. {
        let dir = tempfile::tempdir().unwrap();
        let dst = dir.path().join("a");
        publish_file(&dst, b"old").unwrap();
        let (watch, seen) = forbid(dir.path(), n);
        let result = publish_file(&dst, b"new");
        drop(watch);
        let renamed = n >= 4; // Create, write, sync, rename; then the folder's sync.
        assert_eq!(fs::read(&dst).unwrap(), if renamed { b"new" } else { b"old" }, "change {n}");
        assert_eq!(names(dir.path()), ["a"], "change {n}");
        if seen.load(Ordering::SeqCst) <= n {
            assert_eq!(n, 5, "there are five changes");
            return result.unwrap();
        }
        assert!(result.unwrap_err().to_string().contains("failed"), "change {n}");
    }
}

#[test]
fn whatever_change_fails_a_folder_is_seen_whole_or_not_at_all() {
    for n in 0.. {
        let dir = tempfile::tempdir().unwrap();
        let dst = dir.path().join("run/checkpoint-5");
        let (watch, seen) = forbid(dir.path(), n);
        let result = StagedDir::new(&dst).and_then(|staged| {
            staged.write("x", b"1")?;
            staged.write("y", b"2")?;
            staged.publish()
        });
        drop(watch);
        let left = if dir.path().join("run").exists() { names(&dir.path().join("run")) } else { Vec::new() };
        if seen.load(Ordering::SeqCst) <= n {
            assert!(n > 10);
            assert_eq!(left, ["checkpoint-5"]);
            return result.unwrap();
        }
        assert!(result.is_err(), "change {n}");
        assert!(left.is_empty(), "change {n} left {left:?}");
    }
}

#[test]
fn a_folder_that_is_removed_is_never_seen_in_part() {
    for n in 0..4 {
        let dir = tempfile::tempdir().unwrap();
        let dst = dir.path().join("old");
        let staged = StagedDir::new(&dst).unwrap();
        staged.write("x", b"1").unwrap();
        staged.write("y", b"2").unwrap();
        staged.publish().unwrap();
        let watch = forbid(dir.path(), n).0;
        let result = remove_dir(&dst);
        drop(watch);
        assert!(result.is_err(), "rename, two files and the folder: change {n}");
        assert_eq!(if n == 0 { vec!["x".to_owned(), "y".to_owned()] } else { vec![] }, {
            if dst.exists() { names(&dst) } else { vec![] }
        });
        sweep(dir.path()).unwrap();
        assert_eq!(dst.exists(), n == 0);
        assert_eq!(names(dir.path()).len(), usize::from(n == 0));
    }
}

#[test]
fn the_disk_says_how_much_it_has_left() {
    let dir = tempfile::tempdir().unwrap();
    assert!(free_bytes(dir.path()).unwrap() > 0);
    assert!(free_bytes(&dir.path().join("absent")).unwrap_err().to_string().contains("absent"));
}

#[test]
fn what_a_killed_attempt_has_left_is_taken_up_by_one_process_alone() {
    let dir = tempfile::tempdir().unwrap();
    let dst = dir.path().join("out");
    let killed = StagedDir::resume(&dst).unwrap();
    killed.write("x", b"1").unwrap();
    assert!(StagedDir::resume(&dst).unwrap_err().to_string().contains("lock"), "somebody else is filling it");
    assert!(killed.path().join("x").exists(), "and keeps what there is");
    let left = killed.path().to_owned();
    let aside = dir.path().join("aside");
    disk::rename(&left, &aside).unwrap();
    drop(killed); // A kill would have removed nothing.
    disk::rename(&aside, &left).unwrap();

    let again = StagedDir::resume(&dst).unwrap();
    assert_eq!(names(again.path()), ["x"]);
    again.write("y", b"2").unwrap();
    again.remove("x").unwrap();
    again.publish().unwrap();
    assert_eq!(names(&dst), ["y"]);
    assert!(StagedDir::resume(&dst).is_err(), "it exists");

    let other = StagedDir::resume(&dir.path().join("other")).unwrap();
    other.write("x", b"1").unwrap();
    other.clear().unwrap();
    assert!(names(other.path()).is_empty());
    drop(other);
    assert_eq!(names(dir.path()), ["out"], "one that is given up leaves nothing");
}
