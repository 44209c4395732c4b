//! A run that is asked to stop.

use std::fs;

use super::rig::{Job, Launched, signal, try_signal, wait_for};

/// Asked to stop by `ask` after some steps, the run ends with 75 and what `named` says; a rerun equals R.
#[track_caller]
fn check(args: &[&str], named: &str, ask: impl Fn(&Job, &Launched)) -> Job {
    let job = Job::new();
    let launched = job.launch(2, args);
    job.wait_for_step(4);
    ask(&job, &launched);
    launched.must_end(75, &[named]);
    job.must_leave_nothing();
    job
}

#[track_caller]
fn must_go_on(job: &Job) {
    job.must_end(1, &[], 0);
    job.must_equal_r();
}

#[test]
fn a_signal_leaves_a_checkpoint_of_the_last_step() {
    for name in ["TERM", "USR1", "INT"] {
        let job = check(&[], "stopping after a checkpoint", |_, launched| signal(name, launched.pid()));
        assert_eq!(job.events("stop_asked")[0]["text"], format!("SIG{name}"));
        assert_eq!(job.newest_checkpoint(), job.steps(), "the checkpoint is of the last step");
        must_go_on(&job);
    }
}

#[test]
fn further_signals_during_the_save_do_no_harm() {
    let job = check(&[], "stopping after a checkpoint", |job, launched| {
        for name in ["TERM", "TERM", "USR1", "TERM", "USR1"] {
            try_signal(name, launched.pid());
        }
        // Slurm signals every process of a job step.
        for pid in job.processes() {
            try_signal("USR1", pid);
        }
    });
    assert_eq!(job.newest_checkpoint(), job.steps());
    must_go_on(&job);
}

#[test]
fn a_second_ctrl_c_ends_at_once() {
    let job = Job::new();
    let launched = job.launch(2, &[]);
    job.wait_for_step(4);
    signal("INT", launched.pid());
    wait_for("the first answer", || !job.events("stop_asked").is_empty());
    try_signal("INT", launched.pid());
    launched.must_end(75, &["stopped"]);
    job.must_leave_nothing();
    must_go_on(&job);
}

#[test]
fn where_the_boundary_is_too_far_the_last_checkpoint_stands() {
    let job = check(&["--grace", "0"], "the newest checkpoint stands", |_, launched| signal("TERM", launched.pid()));
    assert_eq!(job.newest_checkpoint() % 3, 0, "nothing was saved out of turn");
    must_go_on(&job);
}

#[test]
fn a_request_before_the_first_step_is_answered_at_once() {
    let job = Job::new();
    let launched = job.launch(2, &[]);
    wait_for("the workers", || job.worker(1).is_some());
    signal("USR1", launched.pid());
    launched.must_end(75, &["stopped"]);
    job.must_leave_nothing();
    must_go_on(&job);
}

#[test]
fn a_stop_file_stops_and_is_removed() {
    let touch = |job: &Job| drop(fs::File::create(job.path("run/stop")).unwrap());
    let job = check(&[], "run/stop: stopping after a checkpoint", |job, _| touch(job));
    assert_eq!(job.newest_checkpoint(), job.steps());
    assert!(!job.path("run/stop").exists(), "one request is answered once");
    touch(&job);
    let said = job.must_end(1, &[], 0);
    assert!(said.contains("run/stop of an earlier run is removed"), "{said}");
    job.must_equal_r();
}
