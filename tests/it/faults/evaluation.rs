//! A run that is ended in the middle of an evaluation.

use super::rig::{Job, Launched, STEPS, signal, wait_for};
use crate::evaluation::{bits, must_be_after};

/// `launch --cpus 2` with the held-out rows evaluated every `every` steps; rank 1 is slow at it after the step `slow_at`.
fn launch(job: &Job, every: u64, slow_at: u64) -> Launched<'_> {
    let mut command = job.command("launch");
    command.args(["--cpus", "2"]).args(held_out(job, every));
    command.env("ECG_TRAIN_FAULTS", format!("slow_eval=1000@1:{slow_at}"));
    job.start(&mut command)
}

fn held_out(job: &Job, every: u64) -> [String; 4] {
    let rows = format!("data.eval={}", job.rows().join("held-out.parquet").display());
    ["--set".to_owned(), rows, "--set".to_owned(), format!("data.eval_every={every}")]
}

/// The run goes on to its end; its evaluations are those of a run that nobody disturbed, and neither changes a bit of R.
#[track_caller]
fn must_go_on(job: &Job, every: u64) {
    let calm = Job::new();
    for job in [job, &calm] {
        let args = held_out(job, every);
        job.must_end(1, &args.each_ref().map(String::as_str), 0);
        job.must_equal_r();
    }
    assert_eq!(bits(&job.path("run")), bits(&calm.path("run")));
    let due = (1..=STEPS).filter(|step| step.is_multiple_of(every) || *step == STEPS);
    must_be_after(&due.collect::<Vec<_>>(), &job.path("run"));
}

#[test]
fn a_stop_ends_an_evaluation_early_and_loses_no_step() {
    let job = Job::new();
    let launched = launch(&job, 4, 8);
    job.wait_for_step(8);
    signal("INT", launched.pid());
    launched.must_end(75, &["stopping after a checkpoint"]);
    job.must_leave_nothing();
    assert_eq!((job.steps(), job.newest_checkpoint()), (8, 8), "a checkpoint of the step before the evaluation");
    must_be_after(&[4], &job.path("run"));
    must_go_on(&job, 4);
}

#[test]
fn a_worker_that_is_lost_between_a_checkpoint_and_its_evaluation_loses_neither() {
    let job = Job::new();
    let launched = launch(&job, 6, 6);
    job.wait_for_step(6);
    wait_for("the checkpoint before the evaluation", || job.newest_checkpoint() == 6);
    signal("KILL", job.worker(1).unwrap());
    launched.must_end(0, &["rank 1 was killed by SIGKILL", "in evaluation of step 6", "begin again"]);
    must_go_on(&job, 6);
}
