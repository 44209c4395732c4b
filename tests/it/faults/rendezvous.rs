//! The meeting of the ranks, started by hand as a launcher would: strangers, twins, absentees and ranks that do not
//! belong together.

use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use synth::DemoSpec;

use super::rig::{Job, Launched, STEPS, signal, wait_for};

/// A port on which rank 0 can listen in a moment.
fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

/// A worker of two by hand; `change` may alter its command.
fn start<'a>(job: &'a Job, rank: u32, port: u16, change: impl FnOnce(&mut Command)) -> Launched<'a> {
    let mut command = job.command("worker");
    set_place(&mut command, rank, port);
    change(&mut command);
    job.start(&mut command)
}

fn set_place(command: &mut Command, rank: u32, port: u16) {
    let variables = [("RANK", rank.to_string()), ("WORLD_SIZE", "2".to_owned()), ("MASTER_PORT", port.to_string())];
    command.envs(variables).env("MASTER_ADDR", "127.0.0.1").env("ECG_TRAIN_JOB_KEY", "0a".repeat(32));
}

fn unchanged(_: &mut Command) {}

/// Waits until somebody listens.
fn wait_for_host(port: u16) {
    wait_for("rank 0", || TcpStream::connect(("127.0.0.1", port)).is_ok());
}

/// Largest memory of a process so far, in kB.
fn peak_memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn strangers_on_the_port_are_dropped_and_cost_no_memory() {
    let (job, port) = (Job::new(), free_port());
    let host = start(&job, 0, port, unchanged);
    wait_for_host(port);
    let before = peak_memory(host.pid());
    let silent: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap()).collect();
    for _ in 0..20 {
        let garbage = [
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            vec![0xff; 1 << 20],
            [&u64::MAX.to_le_bytes(), &[0; 120][..]].concat(),
        ];
        for bytes in garbage {
            let mut stranger = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let _ = stranger.write_all(&(4_u64 << 30).to_le_bytes()); // A length of 4 GB.
            let _ = stranger.write_all(&bytes); // It may be thrown out before it has finished.
        }
    }
    thread::sleep(Duration::from_millis(500));
    let grown = peak_memory(host.pid()) - before;
    assert!(grown < 32 << 10, "strangers cost {grown} kB");
    let guest = start(&job, 1, port, unchanged);
    guest.must_end(0, &[]);
    host.must_end(0, &[]);
    drop(silent);
    job.must_equal_r();
}

#[test]
fn a_port_that_is_taken_is_named() {
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let (job, port) = (Job::new(), taken.local_addr().unwrap().port());
    start(&job, 0, port, unchanged).must_end(2, &[&format!("cannot listen on 127.0.0.1:{port}"), "free port"]);
    job.must_leave_nothing();
}

#[test]
fn who_never_comes_is_named_within_the_deadline() {
    let job = Job::new();
    let briefly = |command: &mut Command| {
        command.args(["--rdzv-timeout", "2"]);
    };
    start(&job, 0, free_port(), briefly).must_end(5, &["ranks [1] of 2 did not come within 2s"]);
    start(&job, 1, free_port(), briefly).must_end(5, &["no rank 0 of this job at 127.0.0.1", "within 2s"]);
    assert_eq!(job.steps(), 0);
    job.must_leave_nothing();
}

#[test]
fn twins_and_supernumeraries_are_refused() {
    let (job, port) = (Job::new(), free_port());
    // One of the twins must still wait when the other comes, so the job has a third rank that never does.
    let of_three = |command: &mut Command| {
        command.env("WORLD_SIZE", "3");
    };
    let host = start(&job, 0, port, of_three);
    wait_for_host(port);
    let twins = [start(&job, 1, port, of_three), start(&job, 1, port, of_three)];
    let said = "two processes that say they are rank 1";
    host.must_end(2, &[said]);
    twins.into_iter().for_each(|twin| drop(twin.must_end(2, &[said])));

    let port = free_port();
    let host = start(&job, 0, port, unchanged);
    wait_for_host(port);
    let said = "rank 2 was started as one of 3 ranks, rank 0 as one of 2";
    start(&job, 2, port, of_three).must_end(2, &[said]);
    host.must_end(2, &[said]);
    start(&job, 2, port, unchanged).must_end(2, &["WORLD_SIZE is 2", "greater than RANK"]);
    assert_eq!(job.steps(), 0);
    job.must_leave_nothing();
}

/// Rank 1, altered by `change`, is refused by name with both hashes, before the first step.
#[track_caller]
fn check_refused(name: &str, guest: impl FnOnce(&Job, u16) -> Command) {
    let (job, port) = (Job::new(), free_port());
    let host = start(&job, 0, port, unchanged);
    wait_for_host(port);
    let said = job.start(&mut guest(&job, port)).must_end(2, &["refused at the rendezvous"]);
    let told = host.must_end(2, &["refused at the rendezvous"]);
    for text in [said, told] {
        let (_, difference) = text.split_once(&format!("rank 1 has {name} ")).unwrap_or_else(|| panic!("{text}"));
        let hashes: Vec<&str> = difference.split(|c: char| !c.is_ascii_hexdigit()).filter(|w| w.len() == 64).collect();
        assert!(hashes.len() >= 2 && hashes[0] != hashes[1], "both hashes: {text}");
    }
    assert_eq!(job.steps(), 0);
    job.must_leave_nothing();
}

#[test]
fn a_rank_with_another_config_is_refused() {
    check_refused("config", |job, port| {
        let mut command = job.command("worker");
        set_place(&mut command, 1, port);
        command.args(["--set", "train.learning_rate=1e-3"]);
        command
    });
}

#[test]
fn a_rank_with_another_program_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let other = dir.path().join("ecg-train");
    fs::copy(env!("CARGO_BIN_EXE_ecg-train-under-test"), &other).unwrap();
    fs::OpenOptions::new().append(true).open(&other).unwrap().write_all(b"another build").unwrap();
    check_refused("program", |job, port| {
        let ours = job.command("worker");
        let mut command = Command::new(&other);
        command.args(ours.get_args());
        command.envs(ours.get_envs().filter_map(|(name, value)| Some((name, value?))));
        set_place(&mut command, 1, port);
        command
    });
}

/// Rank 1 in a folder of its own where `rows` and `base` are others than rank 0's, under the same names.
#[track_caller]
fn check_files_refused(name: &str, rows: &Path, base: &Path) {
    let (job, port) = (Job::new(), free_port());
    let folders = tempfile::tempdir().unwrap();
    let worker = |rank: u32, rows: &Path, base: &Path| {
        let folder = folders.path().join(rank.to_string());
        fs::create_dir(&folder).unwrap();
        for (name, place) in [("rows", rows), ("base", base)] {
            std::os::unix::fs::symlink(place, folder.join(name)).unwrap();
        }
        start(&job, rank, port, |command| {
            command.current_dir(folder).args(["--set", "data.train=rows/train-*.parquet", "--set", "model.path=base"]);
        })
    };
    let host = worker(0, job.rows(), job.base());
    wait_for_host(port);
    worker(1, rows, base).must_end(2, &["refused at the rendezvous", &format!("rank 1 has {name} ")]);
    host.must_end(2, &["refused at the rendezvous", &format!("rank 1 has {name} ")]);
    assert_eq!(job.steps(), 0);
}

#[test]
fn a_rank_with_other_rows_under_the_same_name_is_refused() {
    let other = tempfile::tempdir().unwrap();
    other_rows(other.path());
    check_files_refused("data", other.path(), Job::new().base());
}

#[test]
fn a_rank_whose_base_differs_in_one_bit_is_refused() {
    let other = tempfile::tempdir().unwrap();
    other_base(Job::new().base(), other.path());
    check_files_refused("base", Job::new().rows(), other.path());
}

#[test]
fn a_run_does_not_go_on_with_other_rows() {
    let job = Job::new();
    let folder = tempfile::tempdir().unwrap();
    let launch = |rows: &Path, base: &Path| {
        for (name, place) in [("rows", rows), ("base", base)] {
            let _ = fs::remove_file(folder.path().join(name));
            std::os::unix::fs::symlink(place, folder.path().join(name)).unwrap();
        }
        let mut command = job.command("launch");
        command.current_dir(folder.path()).args([
            "--set",
            "data.train=rows/train-*.parquet",
            "--set",
            "model.path=base",
        ]);
        command.args(["--cpus", "2"]);
        job.start(&mut command)
    };
    let begun = launch(job.rows(), job.base());
    job.wait_for_step(4);
    signal("TERM", begun.pid());
    begun.must_end(75, &["stopped"]);
    let rows = tempfile::tempdir().unwrap();
    other_rows(rows.path());
    launch(rows.path(), job.base()).must_end(2, &["on other rows", "restore the data set"]);
    launch(job.rows(), job.base()).must_end(0, &[]);
    assert_eq!(job.steps() as u64, STEPS);
    job.must_leave_nothing();
}

/// As many rows as the rig's, in a file of the same name, with other pages and texts.
fn other_rows(dir: &Path) {
    let spec = DemoSpec { n_train: 60, n_test: 2, ..DemoSpec::small(4, NonZeroUsize::MIN) };
    let whole = tempfile::tempdir().unwrap();
    synth::write_demo(whole.path(), &spec, &mut |_| {}).unwrap();
    copy_files(&whole.path().join("data"), dir);
}

/// A base with the last bit of one number of its largest tensor flipped.
fn other_base(base: &Path, dir: &Path) {
    copy_files(base, dir);
    let opened = lora::base::Base::open(base).unwrap();
    let largest = opened.tensors().values().max_by_key(|info| info.offsets.end - info.offsets.start).unwrap();
    let file = fs::OpenOptions::new().read(true).write(true).open(dir.join(&largest.file)).unwrap();
    let at = (largest.offsets.start + largest.offsets.end) / 2 / 8 * 8;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

fn copy_files(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap().flatten() {
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}
