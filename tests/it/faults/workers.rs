//! Workers that die.

use super::rig::{Job, signal};

#[test]
fn a_killed_worker_ends_all_and_a_rerun_gives_the_same_bits() {
    let job = Job::new();
    let launched = job.launch(2, &[]);
    job.wait_for_step(4);
    signal("KILL", job.worker(1).unwrap());
    launched.must_end(5, &["rank 1", "SIGKILL"]);
    job.must_leave_nothing();
    job.must_end(1, &[], 0);
    job.must_equal_r();
}
