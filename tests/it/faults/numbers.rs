//! Numbers that lie: a loss or gradient that is not finite, and ranks that come to different weights.

use std::fs;

use serde_json::Value;

use super::rig::{Job, Launched, STEPS, signal};

/// `launch` with faults on demand (trainer/src/faults.rs).
fn launch<'a>(job: &'a Job, cpus: u32, faults: &str, args: &[&str]) -> Launched<'a> {
    let mut command = job.command("launch");
    command.args(["--cpus", &cpus.to_string()]).args(args).env("ECG_TRAIN_FAULTS", faults);
    job.start(&mut command)
}

/// The journal without what is measured. As JSON, in which a loss that is not known is equal to itself.
fn lines(job: &Job) -> Vec<Value> {
    let text = fs::read_to_string(job.path("run/journal.jsonl")).unwrap();
    let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for measured in ["rows_per_second", "data_wait"] {
        lines.iter_mut().for_each(|line| drop(line.as_object_mut().unwrap().remove(measured)));
    }
    lines
}

/// Fault 16: micro-batch 2 of step 7, wherever that is computed.
#[test]
fn a_step_that_is_not_finite_is_refused_on_all_ranks_and_names_its_row() {
    let calm = Job::new();
    let every_step = ["--set", "checkpoint.every_steps=1", "--set", "checkpoint.keep=30"];
    calm.must_end(1, &every_step, 0);
    let mut named = Vec::new();
    for (cpus, fault) in
        [(1, "nan=2@0:7"), (2, "inf=2@0:7"), (3, "nan_gradient=2@2:7"), (4, "inf_gradient=2@2:7"), (4, "nan=2@2:7")]
    {
        let job = Job::new();
        let said = launch(&job, cpus, fault, &every_step).must_end(4, &["step 7: 1 numbers", "no rank has applied"]);
        let row = said.split("at rows ").nth(1).unwrap().split(';').next().unwrap().to_owned();
        assert!(row.starts_with("synthetic-"), "{said}");
        named.push(row);
        assert_eq!(job.steps(), 6, "{fault}");
        // The weights on the disk are of a step before: of step 6, or 5 where the save of 6 was cut short by the end.
        let step = job.newest_checkpoint();
        assert!(step == 5 || step == 6, "{fault}: {step}");
        for file in ["adapter_model.safetensors", "optimizer.safetensors"] {
            let bytes = |job: &Job| fs::read(job.path(&format!("run/checkpoint-{step}")).join(file)).unwrap();
            assert!(bytes(&job) == bytes(&calm), "{fault}: {file}");
        }
        job.must_end(2, &[], 0);
        job.must_equal_r();
    }
    assert!(named.iter().all(|row| *row == named[0]), "one row, whoever computed it: {named:?}");
}

#[test]
fn a_learning_rate_that_explodes_is_stopped_by_its_numbers() {
    let job = Job::new();
    let said =
        job.launch(2, &["--set", "train.learning_rate=1e30"]).must_end(4, &["step ", "not finite", "synthetic-"]);
    assert!(job.steps() < 5, "{said}");
}

#[test]
fn a_skipped_step_leaves_the_weights_and_is_the_same_on_any_ranks_and_after_any_kill() {
    let skip = ["--set", "train.on_nonfinite=skip", "--set", "train.max_skipped_steps=2"];
    let run = |cpus: u32, faults: &str, disturb: bool| {
        let job = Job::new();
        let launched = launch(&job, cpus, faults, &skip);
        if disturb {
            job.wait_for_step(8);
            signal("KILL", job.worker(1).unwrap());
        }
        launched.must_end(0, &["step 7 is not applied", "synthetic-"]);
        let adapter = fs::read(job.path("run/checkpoint-30/adapter_model.safetensors")).unwrap();
        job.must_leave_nothing();
        (lines(&job), blake3::hash(&adapter))
    };
    let (alone, adapter) = run(1, "nan=2@0:7!,inf_gradient=0@0:20!", false);
    assert_eq!(alone.len() as u64, STEPS);
    for (step, line) in (1..).zip(&alone) {
        let skipped = step == 7 || step == 20;
        assert_eq!(line.get("skipped_rows").is_some(), skipped, "{line}");
        assert_eq!(
            line["loss"].is_null() && line["grad_norm"].is_null() && line["entropy"].is_null(),
            skipped,
            "{line}"
        );
        assert_eq!(step > 1 && line["digest"] == alone[step - 2]["digest"], skipped, "step {step} moves the weights");
    }
    for (cpus, faults) in [(2, "nan=2@0:7!,inf_gradient=0@0:20!"), (3, "nan=2@2:7!,inf_gradient=0@0:20!")] {
        assert_eq!(run(cpus, faults, cpus == 2), (alone.clone(), adapter), "{cpus} ranks");
    }
}

#[test]
fn skipping_has_a_limit_and_a_stopped_run_may_be_told_to_skip() {
    let job = Job::new();
    let faults = "nan=0@0:7!,nan=0@0:9!,nan=0@0:11!";
    launch(&job, 2, faults, &[]).must_end(4, &["step 7: ", "train.on_nonfinite = \"skip\""]);
    let skip = ["--set", "train.on_nonfinite=skip", "--set", "train.max_skipped_steps=2"];
    let named = ["step 7 is not applied", "step 9 is not applied", "step 11: ", "after 2 skipped steps"];
    launch(&job, 2, faults, &skip).must_end(4, &named);
    assert_eq!(job.steps(), 10);
    job.must_leave_nothing();
}

/// Fault 17: one bit of rank 1's weights, or its reduced gradient, is altered once.
#[test]
fn a_rank_whose_weights_differ_is_named_and_the_run_goes_on_from_the_last_good_step() {
    for (cpus, fault, named, wrong) in [
        (3, "weight@1:7", "ranks [1] differ from those of the other 2", 1),
        (3, "gradient@0:8", "ranks [0] differ from those of the other 2", 0),
        (2, "gradient@1:9", "ranks [0, 1] differ, and no majority says which are right", 1),
    ] {
        let job = Job::new();
        let step = fault.rsplit(':').next().unwrap();
        let differ = format!("step {step}: weights and moments of {named}");
        let told = format!("step {step}, repeated, shows that ranks [{wrong}] were wrong");
        launch(&job, cpus, fault, &[]).must_end(0, &[&differ, &told]);
        job.must_equal_r();
    }
}

#[test]
fn a_rank_that_always_lies_ends_the_run() {
    let job = Job::new();
    launch(&job, 3, "weight@2:7!", &[]).must_end(4, &["ranks [2] differ", "restarts made no new step"]);
    assert_eq!(job.steps(), 6);
    job.must_end(3, &[], 0);
    job.must_equal_r();
}
