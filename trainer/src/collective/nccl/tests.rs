//! The protocol around NCCL, against a driver and an NCCL compiled from stub.c: no GPU is needed, and none is promised.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use model::engine::nvidia::Search;

use crate::collective::tests::{job, specs, start};
use crate::collective::{Error, LONG, Ranks};

/// A machine whose only libraries are the stub, compiled with `flag`.
fn machine(flag: &str) -> (tempfile::TempDir, Search) {
    let dir = tempfile::tempdir().unwrap();
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/collective/nccl/stub.c");
    let library = dir.path().join("libcuda.so.1");
    let status = Command::new("cc")
        .args([flag, "-O1", "-shared", "-fPIC", "-Wall", "-Werror", source, "-lpthread", "-o"])
        .arg(&library)
        .status()
        .unwrap();
    assert!(status.success(), "the stub compiles");
    std::os::unix::fs::symlink(&library, dir.path().join("libnccl.so.2")).unwrap();
    let search = search(dir.path());
    (dir, search)
}

fn search(folder: &Path) -> Search {
    Search::of(&|name| (name == "LD_LIBRARY_PATH").then(|| folder.into()), &folder.join("nothing"))
}

fn with_nccl(search: &Search, mut ranks: Ranks) -> Result<Ranks, Error> {
    let index = ranks.rank();
    ranks.use_nccl(search, index).map(|()| ranks)
}

#[test]
fn long_sums_over_nccl_are_those_of_tcp() {
    let (_dir, search) = machine("-DWHOLE");
    for world_size in [1, 2, 3, 5] {
        let value = |rank: usize, i: usize| (i as i64 - 70_000) * (rank as i64 + 1) * 1_000_003;
        let sums = job(world_size, |ranks| {
            let mut ranks = with_nccl(&search, ranks).unwrap();
            assert_eq!(ranks.nccl.is_some(), world_size > 1);
            [LONG, 2 * LONG + 7, LONG, 5, 0].map(|n| {
                let mut values: Vec<i64> = (0..n).map(|i| value(ranks.rank(), i)).collect();
                ranks.all_reduce_i64(&mut values).unwrap();
                values
            })
        });
        let total = (1..=world_size as i64).sum::<i64>();
        for sum in sums.iter().flatten() {
            assert!((0..).zip(sum).all(|(i, &sum)| sum == value(0, i) * total), "{world_size} ranks");
        }
    }
}

#[test]
fn a_sum_that_does_not_fit_is_an_overflow_on_every_rank_and_one_that_may_is_exact() {
    let (_dir, search) = machine("-DWHOLE");
    let sum = |large: [i64; 2]| {
        job(2, |ranks| {
            let mut ranks = with_nccl(&search, ranks).unwrap();
            let mut values = vec![1; LONG + 9];
            values[LONG + 3] = large[ranks.rank()];
            ranks.all_reduce_i64(&mut values).map(|()| values[LONG + 3])
        })
    };
    for result in sum([i64::MAX, 1]) {
        assert!(matches!(result, Err(Error::Overflow { element }) if element == LONG + 3), "{result:?}");
    }
    for result in sum([i64::MIN, 5]) {
        assert_eq!(result.unwrap(), i64::MIN + 5, "the bound does not hold, the sum does");
    }
}

/// What ranks end with when their NCCL is compiled with `flag`, and how long that took.
fn ends(flag: &str, begin: impl Fn(&Search, Ranks) -> Result<(), Error> + Sync) -> (Vec<Error>, Duration) {
    let (_dir, search) = machine(flag);
    let began = Instant::now();
    let specs = specs(3, |spec| spec.operation_deadline = Duration::from_secs(1));
    let ends = start(specs, |ranks| begin(&search, ranks.unwrap()).unwrap_err());
    (ends, began.elapsed())
}

fn sum(search: &Search, ranks: Ranks) -> Result<(), Error> {
    let mut ranks = with_nccl(search, ranks)?;
    let result = ranks.all_reduce_i64(&mut vec![1; LONG]);
    assert!(matches!(ranks.barrier(), Err(Error::Poisoned)), "nobody goes on");
    result
}

#[test]
fn a_sum_that_never_ends_is_given_up_at_the_deadline_by_all() {
    let (ends, _) = ends("-DSTUCK", sum);
    assert!(matches!(ends[0], Error::Stuck { .. }), "{:?}", ends[0]);
    assert!(
        ends[1..].iter().all(|end| matches!(end, Error::Aborted { reason, .. } if reason.contains("NCCL"))),
        "{ends:?}"
    );
    assert!(ends.iter().all(|end| end.exit_code() == 5));
}

#[test]
fn ranks_that_never_meet_in_nccl_give_up_at_the_deadline() {
    let (ends, _) = ends("-DUNMET", |search, ranks| with_nccl(search, ranks).map(drop));
    assert!(matches!(ends[0], Error::Stuck { .. }) && ends[0].exit_code() == 5, "{:?}", ends[0]);
}

#[test]
fn a_failure_of_nccl_is_told_in_its_own_words() {
    let (ends, _) = ends("-DBROKEN", sum);
    let said = |end: &Error| end.to_string().contains("remote process exited") || matches!(end, Error::Lost { .. });
    assert!(ends.iter().all(said), "{ends:?}");
    assert!(ends.iter().any(|end| matches!(end, Error::Nccl { call: "ncclAllReduce", .. })), "{ends:?}");
}

#[test]
fn a_rank_that_does_not_come_is_named_and_nccl_waits_for_nobody() {
    let (ends, _) = ends("-DWHOLE", |search, ranks| {
        let mut ranks = with_nccl(search, ranks)?;
        if ranks.rank() == 2 {
            return Err(Error::Poisoned); // Its connection closes.
        }
        ranks.all_reduce_i64(&mut vec![1; LONG])
    });
    assert!(matches!(ends[0], Error::Lost { rank: 2, .. }), "{:?}", ends[0]);
}

#[test]
fn a_rank_without_nccl_is_told_to_all_before_anybody_waits() {
    let (dir, whole) = machine("-DWHOLE");
    let nowhere = search(&dir.path().join("nothing"));
    let ends = job(3, |ranks| {
        let search = if ranks.rank() == 1 { &nowhere } else { &whole };
        with_nccl(search, ranks).map(drop).unwrap_err()
    });
    for end in ends {
        let said = end.to_string();
        assert!(said.contains("rank 1: no NCCL (libnccl.so.2): looked in") && end.exit_code() == 2, "{said}");
    }
    assert!(job(1, |ranks| with_nccl(&nowhere, ranks).is_ok())[0], "one rank needs no NCCL");
}
