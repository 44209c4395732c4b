//! Twelve optimizer steps on the reference's own micro-batches, in every variant it was run in: loss, gradient norm,
//! learning rate, accuracy, entropy, token counts and final adapters.
//!
//! Tolerances: the library's trainer differs from the reference's plain loop by 1e-6 in loss, 4e-7 in gradient norm and
//! 1e-5 in the adapters after 12 steps (tests/reference/REFERENCE.md); other summation orders add a few 1e-6. We allow
//! 1e-5 in loss and 1e-4 (relative) in the norm, 5e-5 in the adapters of case_a; counts are exact. AdamW's first steps
//! divide gradients by their own size, so elements near 0 amplify rounding in proportion to the learning rate: that is
//! what the adapters' tolerance is for, and why case_b, with a rate of 2e-2 for 4e-3, has 1e-4: 5e-3 of the rate.

use std::collections::BTreeMap;

use model::engine::Precision;
use model::{Checkpointing, LossNorm, Ops, Place, Stat, StepSums, Sums};
use serde::Deserialize;

use trainer::optimizer::{AdamW, AdamWSettings, clip_coefficient, grad_norm};
use trainer::schedule::{LrScheduler, Schedule};

use crate::fixture::{self, Tensors, check};
use crate::forward::{Case, Rows, pages};

/// One step of a trace.
#[derive(Deserialize)]
struct Step {
    loss: f64,
    grad_norm: f64,
    learning_rate: f64,
    num_items: i64,
    num_tokens: i64,
    micro: Vec<Micro>,
}

/// One micro-batch of a step.
#[derive(Deserialize)]
struct Micro {
    valid: i64,
    correct: i64,
    loss: f64,
    entropy_targets: f64,
    tokens: i64,
}

/// How far a run may be from its trace.
struct Tolerance {
    loss: f64,
    norm: f64,
    /// Predictions that may fall the other way, a micro-batch.
    correct: i64,
}

const F32: Tolerance = Tolerance { loss: 1e-5, norm: 1e-4, correct: 0 };
/// Autocast on another machine rounds in other places: REFERENCE.md says 1e-2; argmaxes near a tie flip.
const BF16: Tolerance = Tolerance { loss: 2e-2, norm: 2e-2, correct: 3 };

/// Replays `variant` of a case on as many micro-batches a step as its ranks had; returns the final adapters.
fn replay<O: Ops>(mut case: Case<O>, variant: &str, tolerance: &Tolerance) -> BTreeMap<String, Vec<f32>> {
    let name = &case.name.clone();
    let trace: serde_json::Value =
        serde_json::from_slice(&std::fs::read(fixture::path(&format!("{name}/trace.json"))).unwrap()).unwrap();
    let steps: Vec<Step> = serde_json::from_value(trace[variant].clone()).unwrap();
    let settings = |key: &str| trace["config"][key].as_f64().unwrap();
    let (layout, flat, config) = case.adapt("adapter_init");
    let betas = [0.9, 0.999];
    let mut optim = AdamW::new(flat, AdamWSettings { betas, eps: 1e-8, weight_decay: settings("weight_decay") });
    let schedule = Schedule {
        scheduler: LrScheduler::Cosine,
        learning_rate: settings("lr"),
        warmup_steps: 2,
        total_steps: steps.len() as u64,
    };
    let norm = if variant.starts_with("micro_mean") { LossNorm::MicroMean } else { LossNorm::GlobalTokens };
    let mut micro_batches = micro_batches(name);
    let mut num_tokens = 0;
    for (i, step) in steps.iter().enumerate() {
        let mut sums = Sums::new(StepSums::zero(layout.len()));
        for (expected, rows) in step.micro.iter().zip(micro_batches.by_ref()) {
            check_micro(&case, &rows, norm, expected, tolerance, &mut sums);
        }
        let sums = case.ops.collect(sums);
        let what = format!("{name} {variant} step {}", i + 1);
        let grads = sums.gradients(norm.divisor(&sums));
        let grad_norm = grad_norm(&grads);
        num_tokens += sums.counted(Stat::Tokens);
        assert_eq!((sums.counted(Stat::Supervised), num_tokens), (step.num_items, step.num_tokens), "{what}: tokens");
        let loss = norm.loss(&sums);
        assert!((loss - step.loss).abs() <= tolerance.loss, "{what}: loss {loss}, expected {}", step.loss);
        let off = (grad_norm / step.grad_norm - 1.0).abs();
        assert!(off <= tolerance.norm, "{what}: gradient norm {grad_norm}, expected {}", step.grad_norm);
        let lr = schedule.lr(i as u64);
        assert!((lr - step.learning_rate).abs() <= 1e-15, "{what}: learning rate {lr}");
        optim.update(&grads, lr, clip_coefficient(grad_norm, 1.0));
        case.model.adapt(&case.ops, &layout, optim.params(), config.scaling(), 0.0);
    }
    let modules = layout.modules().iter().enumerate();
    modules
        .flat_map(|(i, module)| [("A", layout.a(i)), ("B", layout.b(i))].map(|side| (module, side)))
        .map(|(module, (side, range))| {
            let inside = module.name.replacen("language_model.model.", "language_model.", 1);
            (format!("base_model.model.model.{inside}.lora_{side}.weight"), optim.params()[range].to_vec())
        })
        .collect()
}

/// The micro-batches of a case, in order.
fn micro_batches(name: &str) -> impl Iterator<Item = Rows> + use<> {
    let train = Tensors::open(&format!("{name}/train.safetensors"));
    let pool = train.get("pool.pixel_values").clone();
    let page = pool.shape[1] * pool.shape[2] * pool.shape[3];
    (0..36).map(move |i| {
        let get = |key: &str| train.get(&format!("micro.{i}.{key}"));
        let index = get("image_index").ids();
        let data = index.iter().flat_map(|&n| pool.data[n as usize * page..][..page].to_vec()).collect();
        let pixels = fixture::Tensor { shape: [&[index.len()], &pool.shape[1..]].concat(), data };
        Rows::new(get("input_ids"), get("attention_mask"), get("labels"), pages(&pixels))
    })
}

fn check_micro<O: Ops>(
    case: &Case<O>,
    rows: &Rows,
    norm: LossNorm,
    expected: &Micro,
    tolerance: &Tolerance,
    sums: &mut Sums<O::DeviceSums>,
) {
    let before = sums.host.clone();
    let at = Place::Train { seed: 0, step: 0, micro_batch: 0 };
    case.model.forward_backward(&case.ops, &rows.input(), at, (norm, Checkpointing::None), sums).unwrap();
    let sums = &sums.host;
    let counted = |stat| sums.counted(stat) - before.counted(stat);
    let mean = |stat| (sums.sum(stat) - before.sum(stat)) / expected.valid as f64;
    assert_eq!((counted(Stat::Supervised), counted(Stat::Tokens)), (expected.valid, expected.tokens));
    assert!((counted(Stat::Correct) - expected.correct).abs() <= tolerance.correct, "correct tokens");
    for (found, expected) in [(mean(Stat::Loss), expected.loss), (mean(Stat::Entropy), expected.entropy_targets)] {
        assert!((found - expected).abs() <= tolerance.loss, "found {found}, expected {expected}");
    }
}

fn check_final(found: &BTreeMap<String, Vec<f32>>, expected: &Tensors, prefix: &str, tolerance: f64) {
    for (key, numbers) in found {
        check(key, numbers, expected.get(&format!("{prefix}{key}")), tolerance);
    }
}

/// Follows every variant of a case's trace.
pub fn check_case(name: &str) {
    let finals = Tensors::open(&format!("{name}/final.safetensors"));
    let open = || Case::open(name, Precision::F32);
    check_one_rank(open());
    check_final(&replay(open(), "global_tokens_w1", &F32), &finals, "global_tokens_w1/", tolerance(name));
    check_final(&replay(open(), "micro_mean_w2", &F32), &finals, "micro_mean_w2/", tolerance(name));
    replay(open(), "global_tokens_w2", &F32);
    replay(Case::open(name, Precision::Bf16), "micro_mean_w1_bf16", &BF16);
}

/// Follows the trace of one rank to its final adapters.
pub fn check_one_rank<O: Ops>(case: Case<O>) {
    let name = case.name.clone();
    let finals = Tensors::open(&format!("{name}/adapter_final/adapter_model.safetensors"));
    check_final(&replay(case, "micro_mean_w1", &F32), &finals, "", tolerance(&name));
}

/// Of the final adapters of a case.
fn tolerance(name: &str) -> f64 {
    let trace = std::fs::read(fixture::path(&format!("{name}/trace.json"))).unwrap();
    let trace: serde_json::Value = serde_json::from_slice(&trace).unwrap();
    5e-5_f64.max(5e-3 * trace["config"]["lr"].as_f64().unwrap())
}

#[test]
fn case_a_follows_every_trace() {
    check_case("case_a");
}

#[test]
fn case_b_follows_every_trace() {
    check_case("case_b"); // Two pages, none, decay, a clip that is sometimes inactive.
}
