//! Saves beside the training: the loop does not wait, and a failed one costs nothing but itself.

use std::sync::{Arc, Mutex, mpsc};

use storage::faults::{self, Op};

use super::*;
use crate::journal::Journal;

fn saver(dir: &Path, keep: usize) -> Saver {
    let journal = Journal::open(&dir.join("journal.jsonl"), 0).unwrap();
    Saver::new(dir.to_owned(), keep, journal.syncer().unwrap())
}

fn snapshot(step: u64) -> Snapshot {
    Snapshot { state: state(step), files: files(step) }
}

#[track_caller]
fn must_be_durable(saved: Option<Saved>, expected: u64) {
    assert!(
        matches!(saved, Some(Saved::Durable { step, not_pruned: None }) if step == expected),
        "expected {expected} to be durable: {saved:?}"
    );
}

#[test]
fn a_save_does_not_keep_the_loop_and_the_next_one_waits_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut saver = saver(dir.path(), 2);
    let (go_on, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let watch = faults::watch(dir.path(), move |op| {
        if matches!(op, Op::Rename(..)) {
            let _ = gate.lock().unwrap().recv(); // The disk takes its time, until the channel is closed.
        }
        Ok(())
    });
    assert!(saver.begin(snapshot(5)).is_none());
    assert!(saver.ended().is_none(), "it is under way, and nobody waits for it");
    assert_eq!(steps_in(dir.path()), [0; 0]);
    drop(go_on);
    must_be_durable(saver.begin(snapshot(10)), 5);
    must_be_durable(saver.wait(), 10);
    assert!(saver.wait().is_none());
    drop(watch);
    assert_eq!(steps_in(dir.path()), [10, 5]);
}

#[test]
fn a_run_that_ends_finishes_the_save_under_way() {
    let dir = tempfile::tempdir().unwrap();
    let mut saver = saver(dir.path(), 2);
    saver.begin(snapshot(5));
    drop(saver);
    assert_eq!(newest(dir.path()).unwrap().0.unwrap().state.step, 5);
}

/// Whatever change of the disk fails in the save of step 10, checkpoint 5 is intact, nothing is left, no file whose sync
/// failed is synced again, and the save of step 15 succeeds.
#[test]
fn a_failed_save_is_given_up_whole_and_a_later_one_succeeds() {
    for n in 0.. {
        let dir = tempfile::tempdir().unwrap();
        let mut saver = saver(dir.path(), 3);
        saver.begin(snapshot(5));
        must_be_durable(saver.wait(), 5);
        let synced = Arc::new(Mutex::new((0, Vec::new())));
        let seen = Arc::clone(&synced);
        let watch = faults::watch(dir.path(), move |op| {
            let mut seen = seen.lock().unwrap();
            seen.0 += 1;
            match op {
                Op::Sync(path) if seen.0 > n => seen.1.push(path.to_owned()),
                _ => {}
            }
            if seen.0 - 1 == n { Err(io::Error::other("the disk is ill")) } else { Ok(()) }
        });
        saver.begin(snapshot(10));
        let saved = saver.wait();
        drop(watch);
        let (n_changes, after) = synced.lock().unwrap().clone();
        if n_changes <= n {
            assert!(n > 10, "a save is more than {n} changes");
            return must_be_durable(saved, 10);
        }
        let Some(Saved::Failed { step: 10, in_a_row: 1, error }) = saved else { panic!("change {n}: {saved:?}") };
        assert!(error.may_pass() && error.to_string().contains("the disk is ill"), "change {n}: {error}");
        assert_eq!(steps_in(dir.path()), [5], "change {n}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "change {n}: journal and checkpoint, nothing else");
        let again = after.iter().skip(1).any(|path| Some(path) == after.first());
        assert!(!again, "change {n}: {after:?} was synced again after its sync had failed");
        saver.begin(snapshot(15));
        must_be_durable(saver.wait(), 15);
        assert_eq!(steps_in(dir.path()), [15, 5]);
    }
}

#[test]
fn failures_are_counted_until_a_save_succeeds() {
    let dir = tempfile::tempdir().unwrap();
    let mut saver = saver(dir.path(), 3);
    let fail = |saver: &mut Saver, step| {
        let watch = faults::watch(dir.path(), |_| Err(io::ErrorKind::StorageFull.into()));
        saver.begin(snapshot(step));
        let saved = saver.wait();
        drop(watch);
        match saved {
            Some(Saved::Failed { in_a_row, .. }) => in_a_row,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((fail(&mut saver, 5), fail(&mut saver, 10)), (1, 2));
    saver.begin(snapshot(15));
    must_be_durable(saver.wait(), 15);
    assert_eq!(fail(&mut saver, 20), 1);
}

#[test]
fn the_disk_is_looked_at_before_anything_is_written() {
    let dir = saved(&[5]);
    let mut saver = saver(dir.path(), 3);
    let huge = u64::MAX / 8;
    let refused = saver.missing_mb(huge).unwrap_err().to_string();
    assert!(refused.contains("a checkpoint takes 2305843009214 MB, ") && refused.contains(" MB are free"), "{refused}");
    assert_eq!(saver.missing_mb(1000).unwrap(), None);
    // Three and the one in the making, of which one is there: three to come.
    let free = storage::free_bytes(dir.path()).unwrap();
    let missing = saver.missing_mb(free / 2).unwrap().unwrap();
    assert!((free / 3 / MB..free / MB).contains(&missing), "{missing} of {free}");
    saver.begin(snapshot(10));
    must_be_durable(saver.wait(), 10);
}
