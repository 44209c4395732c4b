use std::collections::BTreeMap;
use std::fs;

use serde_json::Value;

use super::*;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures");

fn json(path: &str) -> Value {
    serde_json::from_slice(&fs::read(format!("{FIXTURES}/{path}")).unwrap()).unwrap()
}

/// Relative 1e-15: the same f64 formula in the same order; only the last bit of a cosine may differ between libraries.
#[track_caller]
fn check_lr(schedule: &Schedule, step: u64, expected: f64) {
    let lr = schedule.lr(step);
    assert!((lr - expected).abs() <= expected * 1e-15, "step {step}: {lr:e}, expected {expected:e} of {schedule:?}");
}

fn cosine(learning_rate: f64, warmup_steps: u64, total_steps: u64) -> Schedule {
    Schedule { scheduler: LrScheduler::Cosine, learning_rate, warmup_steps, total_steps }
}

#[test]
fn cosine_equals_transformers_at_every_recorded_step() {
    let recorded: BTreeMap<String, BTreeMap<u64, f64>> = serde_json::from_value(json("ops/schedule.json")).unwrap();
    assert_eq!(recorded.len(), 4);
    for (name, rates) in recorded {
        let numbers: Vec<u64> = name.split(['=', ',']).filter_map(|part| part.parse().ok()).collect();
        for (step, lr) in rates {
            check_lr(&cosine(1.2e-5, numbers[1], numbers[0]), step, lr);
        }
    }
}

#[test]
fn cosine_equals_the_training_traces() {
    for (case, variant) in [("case_a", "micro_mean_w1"), ("case_a", "global_tokens_w2"), ("case_b", "micro_mean_w1")] {
        let trace = json(&format!("{case}/trace.json"));
        let steps = trace[variant].as_array().unwrap();
        let schedule = cosine(trace["config"]["lr"].as_f64().unwrap(), 2, steps.len() as u64);
        assert_eq!(steps.len(), if variant.ends_with("w2") { 6 } else { 12 });
        for (step, line) in (0..).zip(steps) {
            check_lr(&schedule, step, line["learning_rate"].as_f64().unwrap());
        }
    }
}

#[test]
fn linear_and_constant_equal_transformers() {
    // transformers 4.57 and 5: get_linear_schedule_with_warmup, get_constant_schedule(_with_warmup), lr 8, warm-up 2 of 10.
    let at = |scheduler, step| Schedule { scheduler, learning_rate: 8.0, warmup_steps: 2, total_steps: 10 }.lr(step);
    let rates = |scheduler| [0, 1, 2, 6, 9, 10, 11].map(|step| at(scheduler, step));
    assert_eq!(rates(LrScheduler::Linear), [0.0, 4.0, 8.0, 4.0, 1.0, 0.0, 0.0]);
    assert_eq!(rates(LrScheduler::Constant), [8.0; 7]);
    assert_eq!(rates(LrScheduler::ConstantWithWarmup), [0.0, 4.0, 8.0, 8.0, 8.0, 8.0, 8.0]);
}

#[test]
fn a_run_shorter_than_its_warm_up_never_leaves_it() {
    assert_eq!(cosine(1.0, 10, 4).lr(3), 0.3);
    assert_eq!(cosine(1.0, 4, 4).lr(4), 1.0, "max(1, 0) steps of decay, the first of them at progress 0");
}
