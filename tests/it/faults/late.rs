//! Workers that live and do not get on: stopped, hanging, slow, without rows.

use std::thread;
use std::time::Duration;

use super::rig::{Job, signal, try_signal, wait_for};

#[test]
fn a_stopped_rank_is_named_and_replaced_and_its_return_does_no_harm() {
    let job = Job::new();
    let launched = job.launch(2, &["--patience", "2"]);
    job.wait_for_step(4);
    let pid = job.worker(1).unwrap();
    signal("STOP", pid);
    let stopped = job.clock();
    wait_for("the late rank", || !job.events("late").is_empty());
    try_signal("CONT", pid); // It may be gone by now.
    let said = launched.must_end(0, &["rank 1 is late in ", " of step ", "stopped by a signal", "begin again"]);
    let late = &job.events("late")[0];
    assert_eq!(late["rank"], 1, "{said}");
    let seconds = late["time"].as_f64().unwrap() - stopped;
    assert!((1.5..30.0).contains(&seconds), "noticed after {seconds} s");
    job.must_equal_r();
}

#[test]
fn a_short_stop_is_no_reason_to_restart() {
    let job = Job::new();
    let launched = job.launch(2, &["--patience", "60"]);
    job.wait_for_step(4);
    let pid = job.worker(1).unwrap();
    signal("STOP", pid);
    thread::sleep(Duration::from_secs(2));
    signal("CONT", pid);
    launched.must_end(0, &[]);
    assert_eq!(job.events("restart").len(), 0);
    job.must_equal_r();
}

#[test]
fn a_slow_rank_is_named() {
    let job = Job::new();
    let mut command = job.command("launch");
    command.args(["--cpus", "2"]).env("ECG_TRAIN_FAULTS", "slow=100@1:*");
    job.start(&mut command).must_end(0, &["warning: rank 1 is slow: 0.1", "all ranks wait for it"]);
    let slow = job.events("slow");
    assert_eq!((slow.len(), slow[0]["rank"].as_u64()), (1, Some(1)));
    job.must_equal_r();
}

#[test]
fn a_decoder_that_panics_is_a_typed_error() {
    let job = Job::new();
    let mut command = job.command("launch");
    command.args(["--cpus", "2"]).env("ECG_TRAIN_FAULTS", "decoder_panic=40@1:*!");
    let said = job.start(&mut command).must_end(3, &["rank 1", "the plan of micro-batches"]);
    assert_eq!(job.events("restart").len(), 0, "it would only happen again:\n{said}");
    job.must_leave_nothing();
    job.must_end(2, &[], 0);
    job.must_equal_r();
}

#[test]
fn a_decoder_that_hangs_is_late_in_its_phase() {
    let job = Job::new();
    let mut command = job.command("launch");
    command.args(["--cpus", "2", "--patience", "2"]).env("ECG_TRAIN_FAULTS", "decoder_sleep=40@1:*");
    job.start(&mut command).must_end(0, &["rank 1 is late in data wait of step "]);
    let late = job.events("late");
    assert_eq!((late.len(), late[0]["rank"].as_u64(), late[0]["phase"].as_str()), (1, Some(1), Some("data")));
    job.must_equal_r();
}
