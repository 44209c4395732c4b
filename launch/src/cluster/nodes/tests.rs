use std::io::Write;
use std::net::TcpStream;
use std::path::Path;

use super::*;
use crate::cluster::ended::{Failed, Joint, judge};
use crate::cluster::{Launcher, new_key};

/// Far longer than anything here should take.
const DEADLINE: Duration = Duration::from_secs(60);

fn spec(dir: &Path, node_rank: u32, n_nodes: u32, n_workers: u32) -> Spec {
    let same = blake3::hash(b"same");
    Spec {
        place: Place { node_rank, n_nodes, local_rank: 0, n_local: 1, by: Launcher::Options },
        door: Door { key: None, endpoint: None, job: String::new(), run_dir: dir.to_owned() },
        host: format!("host{node_rank}"),
        n_workers,
        identity: Identity { program: same, config: same, rows: same, base: same, start: same },
        meeting_deadline: DEADLINE,
        silence: DEADLINE,
    }
}

fn nodes(spec: Spec) -> Nodes {
    let addr = (spec.place.node_rank == 0).then(|| SocketAddr::from(([127, 0, 0, 1], 0)));
    Nodes::new(spec, addr).unwrap()
}

fn begin(nodes: &mut Nodes, attempt: u32) -> (Share, Receiver<Notice>) {
    let (notify, notices) = mpsc::channel();
    let share = nodes.begin(attempt, &notify, &mut || false).unwrap().unwrap();
    (share, notices)
}

/// Runs `node` for each of three nodes with one, two and one workers.
fn three<T: Send>(node: impl Fn(u32, Nodes) -> T + Sync) -> Vec<T> {
    let dir = tempfile::tempdir().unwrap();
    let start = |rank: u32| node(rank, nodes(spec(dir.path(), rank, 3, [1, 2, 1][rank as usize])));
    thread::scope(|scope| {
        let start = &start;
        let threads: Vec<_> = (0..3).map(|rank| scope.spawn(move || start(rank))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn nodes_learn_their_ranks_a_key_and_where_rank_0_listens() {
    let shares = three(|rank, mut nodes| {
        let (share, notices) = begin(&mut nodes, 0);
        let heard = match rank {
            0 => {
                nodes.speaker().unwrap().listening(4711);
                4711
            }
            _ => match notices.recv_timeout(DEADLINE).unwrap() {
                Notice::Endpoint(addr) => addr.port(),
                other => panic!("{other:?}"),
            },
        };
        assert_eq!(nodes.end(Ended::Finished), Ok(vec![Ended::Finished; 3]));
        (share, heard)
    });
    let ranks: Vec<_> = shares.iter().map(|(share, _)| share.group.ranks()).collect();
    assert_eq!(ranks, [0..1, 1..3, 3..4]);
    for (share, heard) in &shares {
        assert_eq!((share.group.world_size, *heard, share.attempt), (4, 4711, 0));
        assert!(share.job_key == shares[0].0.job_key && share.hosts == ["host0", "host1", "host2"]);
    }
}

#[test]
fn a_failure_on_one_node_ends_the_attempt_on_all_and_the_next_has_another_key() {
    three(|rank, mut nodes| {
        let (first, notices) = begin(&mut nodes, 0);
        let message = "rank 2 was killed\nits log".to_owned();
        let lost_a_peer = rank != 1;
        let failed = Failed { rank, message, exit_code: 5, may_pass: true, lost_a_peer, first_step: 0, last_step: 3 };
        if lost_a_peer {
            match notices.recv_timeout(DEADLINE).unwrap() {
                Notice::Abandon(reason) => assert!(reason.contains("node 1 (host1): rank 2 was killed"), "{reason}"),
                other => panic!("{other:?}"),
            }
        }
        let all = nodes.end(Ended::Failed(failed)).unwrap();
        assert_eq!(judge(&all), Joint::Failed { node: 1, first_step: 0, last_step: 3 });
        let (second, _notices) = begin(&mut nodes, 1);
        assert!(second.attempt == 1 && second.job_key != first.job_key);
        assert_eq!(nodes.end(Ended::Finished), Ok(vec![Ended::Finished; 3]));
    });
}

#[test]
fn a_node_that_goes_is_named_and_one_that_comes_back_joins_the_next_attempt() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = nodes(spec(dir.path(), 0, 2, 1));
    let mut goes = nodes(spec(dir.path(), 1, 2, 2));
    let gone = thread::spawn(move || begin(&mut goes, 0).0.attempt);
    let (_, notices) = begin(&mut first, 0);
    assert_eq!(gone.join().unwrap(), 0);
    let lost = first.end(Ended::Finished).unwrap_err();
    assert!(lost.contains("node 1 (host1) is lost"), "{lost}");
    drop(notices);
    let mut back = nodes(spec(dir.path(), 1, 2, 2));
    let back = thread::spawn(move || (begin(&mut back, 0).0.attempt, back.end(Ended::Finished)));
    let (share, _notices) = begin(&mut first, 1);
    assert_eq!(share.attempt, 1, "the one that stayed knows how often they have begun");
    assert!(first.end(Ended::Finished).is_ok());
    assert_eq!(back.join().unwrap(), (1, Ok(vec![Ended::Finished; 2])));
}

#[test]
fn a_node_with_another_program_is_refused_by_name_and_both_hashes() {
    let dir = tempfile::tempdir().unwrap();
    let mut other = spec(dir.path(), 1, 2, 1);
    other.identity.program = blake3::hash(b"other");
    let told = thread::scope(|scope| {
        let refused = |spec: Spec| {
            let (notify, _notices) = mpsc::channel();
            nodes(spec).begin(0, &notify, &mut || false).err().unwrap().to_string()
        };
        let first = spec(dir.path(), 0, 2, 1);
        let first = scope.spawn(move || refused(first));
        [refused(other), first.join().unwrap()]
    });
    let hashes = [blake3::hash(b"same").to_string(), blake3::hash(b"other").to_string()];
    for told in told {
        assert!(told.contains("node 1 has program") && hashes.iter().all(|hash| told.contains(hash)), "{told}");
    }
}

#[test]
fn strangers_keep_nobody_from_meeting() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = nodes(spec(dir.path(), 0, 2, 1));
    let addr = first.host.as_ref().unwrap().0.local_addr().unwrap();
    let silent = TcpStream::connect(addr).unwrap();
    TcpStream::connect(addr).unwrap().write_all(&[0xff; 1 << 16]).unwrap();
    // One that is of another job, too.
    let mut stranger = nodes(Spec {
        door: Door {
            key: Some(new_key().unwrap()),
            endpoint: Some(super::super::Endpoint { host: "127.0.0.1".to_owned(), port: addr.port() }),
            job: String::new(),
            run_dir: dir.path().to_owned(),
        },
        meeting_deadline: Duration::from_secs(1),
        ..spec(dir.path(), 1, 2, 1)
    });
    let (notify, _notices) = mpsc::channel();
    let stranger = thread::spawn(move || stranger.begin(0, &notify, &mut || false).is_err());
    let mut second = nodes(spec(dir.path(), 1, 2, 1));
    let joined = thread::spawn(move || begin(&mut second, 0).0.group.first_rank);
    assert_eq!(begin(&mut first, 0).0.group.first_rank, 0);
    assert_eq!(joined.join().unwrap(), 1);
    assert!(stranger.join().unwrap());
    drop(silent);
}

#[test]
fn waiting_ends_when_somebody_asks_to_stop_or_at_the_deadline() {
    let dir = tempfile::tempdir().unwrap();
    let (notify, _notices) = mpsc::channel();
    let mut asked = nodes(spec(dir.path(), 0, 2, 1));
    assert!(asked.begin(0, &notify, &mut || true).unwrap().is_none());
    drop(asked);
    let late = Spec { meeting_deadline: Duration::from_millis(300), ..spec(dir.path(), 1, 2, 1) };
    let told = nodes(late).begin(0, &notify, &mut || false).err().unwrap().to_string();
    assert!(told.contains("node 1 of 2") && told.contains("300ms"), "{told}");
}
