//! The engine for GPUs on any device of Vulkan; in CI that is the CPU through Mesa's software driver, so that the compiler
//! and the kernels which GPUs get are tested without one. Where there is no driver, each test says that it was skipped.
//!
//! Tolerances are those of the CPU engine (tests/it/forward.rs, traces.rs): they allow for other orders of sums.

use std::process::{Command, Output};

use model::engine::{self, DeviceError, Precision, Vulkan};
use model::ops::{Dropout, Ops};
use model::{Stat, StepSums, Sums};

use crate::forward::{self, Case};
use crate::journey::Run;
use crate::traces;

/// The first device; `None`, said aloud, where there is none.
pub fn engine(precision: Precision) -> Option<Vulkan> {
    match engine::vulkan(0, precision) {
        Ok(engine) => Some(engine),
        Err(DeviceError::NoVulkan) => {
            eprintln!("skipped: no device of Vulkan here (Debian: apt install libvulkan1 mesa-vulkan-drivers)");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// A reference model on the device.
fn case(name: &str, precision: Precision) -> Option<Case<Vulkan>> {
    Some(Case::on(engine(precision)?, name))
}

#[test]
fn every_intermediate_equals_the_reference() {
    for name in ["case_a", "case_b"] {
        let Some(case) = case(name, Precision::F32) else { return };
        forward::check_intermediates(&case);
        forward::check_losses(&case);
    }
}

#[test]
fn every_lora_gradient_equals_the_reference() {
    for name in ["case_a", "case_b"] {
        let Some(case) = case(name, Precision::F32) else { return };
        forward::check_lora(case);
    }
}

#[test]
fn checkpointing_and_repetition_give_the_same_bits() {
    let Some(case) = case("case_b", Precision::F32) else { return };
    forward::check_bits(case);
}

#[test]
fn twelve_steps_follow_the_reference() {
    let Some(case) = case("case_a", Precision::F32) else { return };
    traces::check_one_rank(case);
}

/// A device needs no type bf16 for it: numbers are rounded to bf16 and multiplied in f32.
#[test]
fn bf16_is_as_near_as_bf16_is() {
    let Some(case) = case("case_a", Precision::Bf16) else { return };
    forward::check_bf16_forward(&case);
    forward::check_bf16_gradients(case);
}

#[test]
fn a_dropout_mask_has_the_bits_of_its_function() {
    let Some(ops) = engine(Precision::F32) else { return };
    let shape = [301, 257];
    let n = shape[0] * shape[1];
    for (key, p) in [(0, 0.05), (u64::MAX, 0.3), (0x0123_4567_89ab_cdef, 0.0), (7, 0.999)] {
        let mask = Dropout::new(key, p);
        let x: Vec<f32> = (0..n).map(|i| (i as f32 - 40_000.0) / 7.0).collect();
        let found = ops.download(&ops.dropout(&ops.upload(x.clone(), shape), mask));
        let expected = x.iter().enumerate().map(|(i, x)| x * mask.factor(i as u32));
        assert!(found.iter().map(|f| f.to_bits()).eq(expected.map(f32::to_bits)), "key {key:x}, p {p}");
    }
}

#[test]
fn rounding_to_bf16_is_to_nearest_ties_to_even() {
    let Some(ops) = engine(Precision::Bf16) else { return };
    let ties = (0..1 << 16).map(|high: u32| f32::from_bits((high << 16) | 0x8000));
    let beside = (0..1 << 16).map(|high: u32| f32::from_bits((high << 16) | (0x7fff + (high & 2))));
    // Whether a device keeps numbers below the least normal one is its own affair.
    let x: Vec<f32> = ties.chain(beside).filter(|x| x.is_normal() || *x == 0.0 || !x.is_finite()).collect();
    let found = ops.download(&ops.upload_weight(x.clone(), [1, x.len()]));
    for (x, found) in x.iter().zip(found) {
        let expected = ops.rounded(*x);
        let same = found.to_bits() == expected.to_bits() || (found.is_nan() && expected.is_nan());
        assert!(same, "{x:e} ({:08x}): {found:e} for {expected:e}", x.to_bits());
    }
}

/// Gradients that are hard to add: around every power of two half units, ties and their neighbours, all that is not a number,
/// the ends of the range, and bits without a pattern.
fn hard_gradients() -> Vec<f32> {
    let powers = (0..=255).flat_map(|exponent| {
        [0, 1, 2, 3, 0x3f_ffff, 0x40_0000, 0x40_0001, 0x7f_fffe, 0x7f_ffff]
            .map(|rest| f32::from_bits(exponent << 23 | rest))
    });
    let halves = (0..64).map(|n| (n as f32 + 0.5) * 2.0_f32.powi(-40));
    let patterns = (0..1 << 14).map(|n: u32| f32::from_bits(n.wrapping_mul(0x9e37_79b9) ^ n));
    powers.chain(halves).chain(patterns).flat_map(|x| [x, -x]).collect()
}

/// In two ranges that lie the other way round among the sums, three times with other neighbours and signs.
#[test]
fn gradients_add_up_on_the_device_to_the_bits_of_the_host() {
    let Some(ops) = engine(Precision::F32) else { return };
    let mut gradient = hard_gradients();
    let (n, first) = (gradient.len(), 1001);
    let ranges = [n - first + 5..n + 5, 5..n - first + 5];
    let mut expected = StepSums::zero(n + 8);
    let mut sums = Sums::new(StepSums::zero(n + 8));
    for round in 0..5 {
        expected.add_gradients(&ranges, &gradient);
        ops.add_gradient(&mut sums, &ranges, &ops.upload(gradient.clone(), [n / 2, 2]));
        ops.count_not_finite(&mut sums);
        let counted = expected.counted(Stat::NotFinite);
        assert!(counted > 0 && sums.host.counted(Stat::NotFinite) == counted, "round {round}");
        // The same again, so that sums overflow, and then others.
        if round > 2 {
            gradient.rotate_right(7);
        }
    }
    let mut found = ops.collect(sums);
    for (i, (found, expected)) in found.as_mut_slice().iter().zip(expected.as_mut_slice()).enumerate() {
        assert_eq!(found, expected, "sum {i}");
    }
}

/// `launch --gpus N --backend vulkan` on a synthetic run.
fn launch(run: &Run, gpus: &str, changes: &[&str], drivers: Option<&str>) -> Output {
    let config = run.path("config.toml");
    let mut command = Command::new(env!("CARGO_BIN_EXE_ecg-train-under-test"));
    command.args(["launch", "--gpus", gpus, "--backend", "vulkan", "--config", &config]);
    for change in changes {
        command.args(["--set", change]);
    }
    // A layer of Mesa's for desktops complains where there is none.
    command.env("NODEVICE_SELECT", "1");
    if let Some(drivers) = drivers {
        command.env("VK_DRIVER_FILES", drivers).env("VK_ICD_FILENAMES", drivers);
    }
    command.output().expect("the program starts")
}

#[track_caller]
fn must(output: &Output) {
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ended with {}:\n{told}", output.status);
}

#[test]
fn a_run_goes_on_to_the_same_bits() {
    if engine(Precision::F32).is_none() {
        return;
    }
    let settings = ["data.shuffle=true", "lora.dropout=0.1", "train.max_steps=4", "checkpoint.every_steps=2"];
    let (whole, cut) = (Run::synthetic(), Run::synthetic());
    must(&launch(&whole, "1", &settings, None));
    must(&launch(&cut, "1", &settings, None));
    std::fs::remove_dir_all(cut.path("run/checkpoint-4")).unwrap();
    must(&launch(&cut, "1", &settings, None));
    assert_eq!(whole.bits(4), cut.bits(4), "steps 3 and 4 were made again");

    // The same run on the CPU's engine, to the tolerance of the traces.
    let cpu = Run::synthetic();
    cpu.must_launch(1, &settings);
    for (gpu, cpu) in whole.journal().iter().zip(cpu.journal()) {
        assert!((gpu.loss - cpu.loss).abs() <= 1e-5, "step {}: {} for {}", cpu.step, gpu.loss, cpu.loss);
        assert!((gpu.grad_norm / cpu.grad_norm - 1.0).abs() <= 1e-4, "step {}", cpu.step);
        assert_eq!((gpu.correct_tokens, gpu.num_tokens), (cpu.correct_tokens, cpu.num_tokens));
    }
}

#[track_caller]
fn check_refused(output: &Output, said: &[&str]) {
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(said.iter().all(|part| told.contains(part)), "{told}");
    assert_eq!(told.trim_end().lines().count(), 1, "one line: {told}");
}

#[test]
fn what_there_is_no_device_for_is_refused_in_one_line_before_any_worker_starts() {
    let run = Run::synthetic();
    let none = run.path("no-such-driver.json");
    check_refused(&launch(&run, "1", &[], Some(&none)), &["no Vulkan device", "libvulkan.so.1", "mesa-vulkan-drivers"]);
    if engine(Precision::F32).is_some() {
        check_refused(&launch(&run, "1000", &[], None), &["1000 GPUs are asked for, and vulkan has", "--gpus"]);
    }
    assert!(!std::path::Path::new(&run.path("run")).exists(), "nothing was begun");
}
