//! A run that is asked to stop.

use super::rig::{Job, signal};

#[test]
fn a_stop_leaves_a_checkpoint_and_a_rerun_gives_the_same_bits() {
    let job = Job::new();
    let launched = job.launch(2, &[]);
    job.wait_for_step(4);
    signal("TERM", launched.pid());
    launched.must_end(75, &["stopped"]);
    job.must_leave_nothing();
    job.must_end(1, &[], 0);
    job.must_equal_r();
}
