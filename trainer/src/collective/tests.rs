use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Instant;

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn free_port() -> TcpListener {
    listen(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap()
}

fn spec(rank: usize, world_size: usize, meeting: Meeting) -> RanksSpec {
    RanksSpec {
        rank,
        world_size,
        meeting,
        key: [7; 32],
        identity: identity(),
        rendezvous_deadline: 10 * SECOND,
        operation_deadline: 20 * SECOND,
    }
}

fn identity() -> Identity {
    let [program, config, rows, base, start] = [0_u8, 1, 2, 3, 4].map(|part| blake3::hash(&[part]));
    Identity { program, config, rows, base, start }
}

/// Runs one thread for each spec and returns what they return. Rank 0 is the first.
pub(super) fn start<T: Send>(specs: Vec<RanksSpec>, run: impl Fn(Result<Ranks, Error>) -> T + Sync) -> Vec<T> {
    let run = &run;
    thread::scope(|scope| {
        let threads: Vec<_> = specs.into_iter().map(|spec| scope.spawn(move || run(Ranks::connect(spec)))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Rank 0 first, then the others, of which `change` may alter what they say of themselves.
pub(super) fn specs(world_size: usize, mut change: impl FnMut(&mut RanksSpec)) -> Vec<RanksSpec> {
    let listener = free_port();
    let addr = listener.local_addr().unwrap();
    let mut specs = vec![spec(0, world_size, Meeting::Host(listener))];
    specs.extend((1..world_size).map(|rank| spec(rank, world_size, Meeting::Join(addr))));
    specs.iter_mut().for_each(&mut change);
    specs
}

pub(super) fn job<T: Send>(world_size: usize, run: impl Fn(Ranks) -> T + Sync) -> Vec<T> {
    start(specs(world_size, |_| {}), |ranks| run(ranks.unwrap()))
}

#[track_caller]
fn check_says(error: impl std::error::Error, parts: &[&str]) {
    let message = error.to_string();
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
}

#[test]
fn every_rank_gets_the_same_exact_sum() {
    for world_size in [1, 2, 3, 5] {
        for n in [0, 1, CHUNK - 1, CHUNK, 2 * CHUNK + 7] {
            let value = |rank: usize, i: usize| (i as i64 - 5) * (rank as i64 + 1) * 1_000_003;
            let sums = job(world_size, |mut ranks| {
                let mut values: Vec<i64> = (0..n).map(|i| value(ranks.rank(), i)).collect();
                ranks.all_reduce_i64(&mut values).unwrap();
                values
            });
            let expected: Vec<i64> = (0..n).map(|i| (0..world_size).map(|rank| value(rank, i)).sum()).collect();
            assert!(sums.iter().all(|sum| *sum == expected), "{world_size} ranks, {n} elements");
        }
    }
}

#[test]
fn bytes_reach_every_rank_and_nobody_passes_a_barrier_alone() {
    for world_size in [1, 2, 3, 5] {
        let long = vec![9; 3_000_000];
        let came = std::sync::atomic::AtomicUsize::new(0);
        job(world_size, |mut ranks| {
            let mine = vec![ranks.rank() as u8; ranks.rank() * 1000];
            let parts = ranks.all_gather_bytes(&mine).unwrap();
            assert_eq!(parts, (0..world_size).map(|rank| vec![rank as u8; rank * 1000]).collect::<Vec<_>>());
            let mut bytes = if ranks.rank() == 0 { long.clone() } else { vec![1, 2, 3] };
            ranks.broadcast(&mut bytes).unwrap();
            assert_eq!(bytes, long);
            thread::sleep(Duration::from_millis(20) * ranks.rank() as u32);
            came.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            ranks.barrier().unwrap();
            assert_eq!(came.load(std::sync::atomic::Ordering::SeqCst), world_size);
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_sum_is_the_serial_sum_or_an_overflow_on_all_ranks(
        values in (1_usize..=4).prop_flat_map(|world_size| {
            let value = prop_oneof![4 => any::<i64>().prop_map(|v| v >> 3), 1 => any::<i64>(), 1 => Just(i64::MAX), 1 => Just(i64::MIN)];
            proptest::collection::vec(proptest::collection::vec(value, 3), world_size)
        }),
    ) {
        let exact: Vec<i128> = (0..3).map(|i| values.iter().map(|v| i128::from(v[i])).sum()).collect();
        let overflow = exact.iter().position(|sum| i64::try_from(*sum).is_err());
        let results = job(values.len(), |mut ranks| {
            let mut sums = values[ranks.rank()].clone();
            (ranks.all_reduce_i64(&mut sums), sums)
        });
        for (result, sums) in results {
            match (overflow, result) {
                (None, Ok(())) => prop_assert_eq!(sums.into_iter().map(i128::from).collect::<Vec<_>>(), exact.clone()),
                (Some(expected), Err(Error::Overflow { element })) => prop_assert_eq!(element, expected),
                (expected, found) => prop_assert!(false, "expected overflow {expected:?}, found {found:?}"),
            }
        }
    }

    #[test]
    fn joined_parts_split_into_themselves_and_nothing_else_panics(
        parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 0..5),
        noise in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        prop_assert_eq!(split(&join(&parts)), Some(parts));
        let _ = split(&noise);
    }
}

#[test]
fn a_dying_peer_is_noticed_at_once_and_named_to_all() {
    let begin = Instant::now();
    let results = job(3, |mut ranks| {
        ranks.barrier().unwrap();
        if ranks.rank() == 2 {
            return None; // It drops its connection, as a killed process does.
        }
        if ranks.rank() == 1 {
            thread::sleep(3 * SECOND);
        }
        let error = ranks.all_reduce_i64(&mut [1, 2]).unwrap_err();
        let noticed = begin.elapsed();
        assert!(matches!(ranks.barrier(), Err(Error::Poisoned)));
        Some((error, noticed))
    });
    let [Some((at_root, noticed)), Some((at_leaf, _)), None] = <[_; 3]>::try_from(results).unwrap() else { panic!() };
    assert!(noticed < 2 * SECOND, "rank 0 waited {noticed:?} for rank 1 before it looked at rank 2");
    check_says(&at_root, &["rank 2 was lost in all_reduce: it closed the connection"]);
    check_says(&at_leaf, &["rank 0 gave up all_reduce: rank 2 was lost"]);
    assert_eq!((at_root.exit_code(), at_leaf.exit_code()), (5, 5));
}

#[test]
fn the_end_of_rank_0_ends_all() {
    let results =
        job(3, |mut ranks| if ranks.rank() == 0 { None } else { Some(ranks.all_gather_bytes(b"x").unwrap_err()) });
    results.into_iter().flatten().for_each(|error| check_says(error, &["rank 0 was lost in all_gather"]));
}

#[test]
fn a_late_rank_is_named_to_all() {
    let specs = specs(4, |spec| spec.operation_deadline = SECOND);
    let results = start(specs, |ranks| {
        let mut ranks = ranks.unwrap();
        if ranks.rank() == 2 {
            thread::sleep(2 * SECOND);
        }
        ranks.all_gather_bytes(b"x").unwrap_err()
    });
    check_says(&results[0], &["ranks [2] did not come to all_gather within 1s"]);
    check_says(&results[1], &["rank 0 gave up all_gather: ranks [2] did not come"]);
    check_says(&results[3], &["rank 0 gave up all_gather: ranks [2] did not come"]);
}

#[test]
fn ranks_that_do_different_things_are_stopped() {
    let errors = job(2, |mut ranks| match ranks.rank() {
        0 => ranks.all_reduce_i64(&mut [1, 2, 3]).unwrap_err(),
        _ => ranks.all_reduce_i64(&mut [1, 2]).unwrap_err(),
    });
    check_says(&errors[0], &["rank 1 was lost in all_reduce: expected message", "24 bytes", "16 bytes"]);
    let errors = job(2, |mut ranks| match ranks.rank() {
        0 => ranks.barrier().unwrap_err(),
        _ => ranks.all_reduce_i64(&mut [1, 2]).unwrap_err(),
    });
    check_says(&errors[0], &["rank 1 was lost in barrier: expected message"]);
    check_says(&errors[1], &["rank 0 gave up all_reduce: rank 1 was lost in barrier"]);
}

#[test]
fn strangers_do_not_disturb() {
    let specs = specs(2, |_| {});
    let Meeting::Join(addr) = specs[1].meeting else { panic!() };
    let silent: Vec<_> = (0..20).map(|_| TcpStream::connect(addr).unwrap()).collect();
    for garbage in [b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![0xff; 1 << 16], vec![0; 127]] {
        let mut stranger = TcpStream::connect(addr).unwrap();
        let _ = stranger.write_all(&garbage); // It may be thrown out before it has finished.
    }
    let mut thief = spec(1, 2, Meeting::Join(addr));
    (thief.key, thief.rendezvous_deadline) = ([8; 32], SECOND);
    let begin = Instant::now();
    let (thief, sums) = thread::scope(|scope| {
        let thief = scope.spawn(|| Ranks::connect(thief).unwrap_err());
        thread::sleep(SECOND / 5); // The thief knocks first.
        let sums = start(specs, |ranks| {
            let mut values = [1];
            ranks.unwrap().all_reduce_i64(&mut values).unwrap();
            values
        });
        (thief.join().unwrap(), sums)
    });
    assert_eq!(sums, [[2], [2]]);
    assert!(begin.elapsed() < 4 * SECOND, "a silent client kept rank 0 waiting");
    check_says(thief, &["rank 1: no rank 0 of this job at 127.0.0.1"]);
    drop(silent);
}

/// One rank says something else than the others: both it and rank 0 are told, and so is who fitted.
#[track_caller]
fn check_refused(world_size: usize, change: impl FnMut(&mut RanksSpec), reason: &str) {
    for error in start(specs(world_size, change), |ranks| ranks.map(|ranks| ranks.rank()).unwrap_err()) {
        check_says(&error, &["refused at the rendezvous", reason]);
        assert_eq!(error.exit_code(), 2);
    }
}

#[test]
fn ranks_that_do_not_belong_together_are_refused_on_both_sides() {
    let other = blake3::hash(b"other");
    type Change = fn(&mut Identity) -> (&'static str, &mut blake3::Hash);
    let changes: [Change; 5] = [
        |identity| ("program", &mut identity.program),
        |identity| ("config", &mut identity.config),
        |identity| ("data", &mut identity.rows),
        |identity| ("base", &mut identity.base),
        |identity| ("checkpoint", &mut identity.start),
    ];
    for change in changes {
        let mut changed = identity();
        let (name, part) = change(&mut changed);
        let both = format!("rank 1 has {name} {other}, rank 0 has {part}");
        *part = other;
        let change = |spec: &mut RanksSpec| {
            if spec.rank == 1 {
                spec.identity = changed;
            }
        };
        check_refused(2, change, &both);
    }
    check_refused(
        2,
        |spec| {
            if spec.rank == 1 {
                spec.world_size = 4
            }
        },
        "rank 1 was started as one of 4 ranks, rank 0 as one of 2",
    );
    check_refused(
        3,
        |spec| {
            if spec.rank == 2 {
                spec.rank = 1
            }
        },
        "there are two processes that say they are rank 1",
    );
}

#[test]
fn a_rank_outside_the_job_is_refused() {
    let join = || Meeting::Join(SocketAddr::from(([127, 0, 0, 1], 1)));
    for (rank, world_size, meeting) in
        [(2, 2, join()), (0, 0, join()), (0, 2, join()), (1, 2, Meeting::Host(free_port()))]
    {
        let error = Ranks::connect(spec(rank, world_size, meeting)).unwrap_err();
        check_says(error, &["rank 0 listens and the others"]);
    }
}

#[test]
fn who_never_comes_is_named_at_the_deadline() {
    let mut specs = specs(4, |spec| spec.rendezvous_deadline = SECOND / 2);
    specs.remove(2);
    let errors = start(specs, |ranks| ranks.unwrap_err());
    check_says(&errors[0], &["ranks [2] of 4 did not come within 500ms"]);
    // The others hear it from rank 0, or have waited as long themselves.
    let heard = |error: &Error| matches!(error, Error::Refused { .. } | Error::Aborted { .. } | Error::NoHost { .. });
    assert!(errors[1..].iter().all(heard), "{errors:?}");

    let taken = free_port();
    check_says(listen(taken.local_addr().unwrap()).unwrap_err(), &["rank 0 cannot listen on 127.0.0.1", "port 0"]);
}

#[test]
fn a_rank_that_leaves_during_the_rendezvous_is_noticed_at_once() {
    let mut specs = specs(3, |_| {});
    specs.truncate(2);
    specs[1].rendezvous_deadline = SECOND / 2; // It gives up while rank 0 still waits for rank 2.
    let begin = Instant::now();
    let errors = start(specs, |ranks| ranks.unwrap_err());
    check_says(&errors[0], &["rank 1 was lost in rendezvous: it closed the connection"]);
    assert!(begin.elapsed() < 5 * SECOND);
}

#[test]
fn another_service_on_the_port_is_not_taken_for_rank_0() {
    for answer in [b"SSH-2.0-OpenSSH_9.9\r\nwelcome and some more text than forty bytes".to_vec(), vec![]] {
        let listener = free_port();
        let mut guest = spec(1, 2, Meeting::Join(listener.local_addr().unwrap()));
        guest.rendezvous_deadline = SECOND / 2;
        let service = thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            let _ = client.write_all(&answer);
        });
        check_says(Ranks::connect(guest).unwrap_err(), &["no rank 0 of this job at", "last attempt"]);
        service.join().unwrap();
    }
}

/// A connected pair, as after a rendezvous.
fn pair() -> (TcpStream, Link) {
    let listener = free_port();
    let raw = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (raw, Link::new(3, listener.accept().unwrap().0))
}

#[test]
fn a_length_beyond_the_bound_is_refused_before_memory_is_taken() {
    for bytes in [MAX_MESSAGE + 1, usize::MAX] {
        let (raw, link) = pair();
        let header = Header::whole(Operation::AllGather, 5, bytes);
        Link::new(0, raw).send(header, &[], Deadline::after(SECOND)).unwrap();
        let fault = link.receive_any(Operation::AllGather, 5, Deadline::after(SECOND)).unwrap_err();
        check_says(fault, &["expected message", &bytes.to_string()]);
    }
}

#[test]
fn a_message_that_stops_in_the_middle_is_a_lost_peer() {
    let (mut raw, link) = pair();
    raw.write_all(&[0; 17]).unwrap();
    let begin = Instant::now();
    let silent = link.receive_any(Operation::AllGather, 0, Deadline::after(SECOND / 5)).unwrap_err();
    check_says(silent, &["silent beyond the deadline"]);
    assert!(begin.elapsed() < SECOND);
    drop(raw);
    check_says(
        link.receive_any(Operation::AllGather, 0, Deadline::after(SECOND)).unwrap_err(),
        &["it closed the connection"],
    );
}

#[test]
fn a_peer_that_trickles_does_not_move_the_deadline() {
    let (raw, link) = pair();
    let begin = Instant::now();
    let trickle = thread::spawn(move || {
        while begin.elapsed() < 2 * SECOND && (&raw).write_all(&[0]).is_ok() {
            thread::sleep(SECOND / 20);
        }
    });
    check_says(link.receive_any(Operation::Barrier, 0, Deadline::after(SECOND / 2)).unwrap_err(), &["silent"]);
    assert!(begin.elapsed() < SECOND);
    drop(link);
    trickle.join().unwrap();
}

#[test]
fn a_peer_that_reads_nothing_does_not_block_the_sender_for_ever() {
    let (mut raw, link) = pair();
    let header = Header::whole(Operation::Broadcast, 0, 1 << 26);
    check_says(link.send(header, &vec![0; 1 << 26], Deadline::after(SECOND / 5)).unwrap_err(), &["silent"]);
    drop(link);
    let mut rest = Vec::new();
    let _ = raw.read_to_end(&mut rest);
    assert!(rest.len() < 1 << 26);
}
