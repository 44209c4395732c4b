//! The engine for GPUs on any device of Vulkan; in CI that is the CPU through Mesa's software driver, so that the compiler
//! and the kernels which GPUs get are tested without one. Where there is no driver, each test says that it was skipped.
//!
//! Tolerances are those of the CPU engine (tests/it/forward.rs, traces.rs): they allow for other orders of sums.

use std::process::{Command, Output};

use burn::backend::Flex;
use model::engine::{self, Burn, DeviceError, Precision, Vulkan};
use model::ops::{Dropout, Ops, Uniform};
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
fn random_weights_have_the_bits_of_their_function() {
    let Some(ops) = engine(Precision::F32) else { return };
    for (key, bound) in [(0, 1.0), (u64::MAX, 0.019_764), (0x0123_4567_89ab_cdef, 0.03)] {
        let (numbers, shape) = (Uniform::new(key, bound), [301, 257]);
        let found = ops.download(&ops.random_weight(numbers, shape));
        let expected = numbers.numbers(shape);
        assert!(found.iter().zip(&expected).all(|(f, e)| f.to_bits() == e.to_bits()), "key {key:x}");
        let inside = |x: &f32| (-bound..bound).contains(x);
        // Of a uniform distribution: 0 on average, a third of the bound's square as variance, each within 2 %.
        let mean =
            |of: fn(f64) -> f64| found.iter().map(|&x| of(f64::from(x / bound))).sum::<f64>() / found.len() as f64;
        assert!(found.iter().all(inside) && mean(|x| x).abs() < 0.02 && (mean(|x| x * x) - 1.0 / 3.0).abs() < 0.02);
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

/// Numbers between -1 and 1 without a pattern.
fn numbers(key: u32, n: usize) -> Vec<f32> {
    let bits = |i: u32| (i ^ key.wrapping_mul(0x9e37_79b9)).wrapping_mul(0x846c_a68b);
    (0..n as u32).map(|i| (bits(bits(i) >> 7) as i32) as f32 / 2.0_f32.powi(31)).collect()
}

/// The largest difference is at most `tolerance` of the largest number.
#[track_caller]
fn check_near(what: &str, found: &[f32], expected: &[f64], tolerance: f64) {
    let largest = expected.iter().fold(0.0_f64, |largest, e| largest.max(e.abs()));
    let off = found.iter().zip(expected).map(|(f, e)| (f64::from(*f) - e).abs()).fold(0.0_f64, f64::max);
    assert!(found.len() == expected.len() && off <= tolerance * largest, "{what}: {off:e} of {largest:e}");
}

/// Against the plain form in f64, at widths around a cube's, the model's, and at more rows than a grid has in a line. The
/// tolerance is a few roundings of f32; in bf16 one of its own, of half a unit in 8 bits.
#[test]
fn norms_by_kernels_equal_their_plain_form() {
    let Some(f32) = engine(Precision::F32) else { return };
    let Some(bf16) = engine(Precision::Bf16) else { return };
    let exact = Burn::<Flex>::exact(Default::default());
    for [rows, heads, width] in
        [[7, 1, 3], [5, 4, 16], [70_000, 1, 4], [7, 2, 255], [9, 8, 256], [2, 1, 257], [6, 1, 2560]]
    {
        let shape = [rows, heads * width];
        let numbers = |key| numbers(key, rows * heads * width);
        let gain: Vec<f32> = self::numbers(3, width).iter().map(|w| 1.0 + w).collect();
        let [x, dy] = [1, 2].map(|key| exact.upload(numbers(key), shape));
        let g = exact.upload(gain.clone(), [1, width]);
        let y = exact.download_f64(&exact.rms_norm(&x, &g, 1e-6));
        let dx = exact.download_f64(&exact.rms_norm_backward(&dy, &x, &g, 1e-6));
        for (ops, tolerance) in [(&f32, 2e-6), (&bf16, 1.0 / 256.0)] {
            let what = format!("{rows} x {heads} x {width} to {tolerance:e}");
            let [x, dy] = [1, 2].map(|key| ops.upload(numbers(key), shape));
            let g = ops.upload(gain.clone(), [1, width]);
            let again = || [ops.rms_norm(&x, &g, 1e-6), ops.rms_norm_backward(&dy, &x, &g, 1e-6)];
            let [found, found_dx] = again().map(|x| ops.download(&x));
            check_near(&what, &found, &y, tolerance);
            check_near(&format!("gradient of {what}"), &found_dx, &dx, tolerance);
            assert!([found, found_dx] == again().map(|x| ops.download(&x)), "{what}: another time, other bits");
        }
    }
}

/// Against the plain form in f64, for small and large logits, equal ones, and rows shorter and longer than a cube.
#[test]
fn cross_entropy_by_kernel_equals_its_plain_form() {
    let Some(ops) = engine(Precision::F32) else { return };
    let exact = Burn::<Flex>::exact(Default::default());
    for (n, width, size) in [(1, 2, 1.0), (5, 50, 10.0), (3, 1023, 0.0), (4, 1025, 1e4), (3, 40_000, 30.0)] {
        let mut logits = numbers(7, n * width);
        // The largest twice, and a target on it, before it, behind it and at both ends.
        let targets: Vec<u32> = (0..n).map(|row| [width / 3, 0, width - 1, width / 2, 1][row] as u32).collect();
        for row in logits.chunks_mut(width) {
            (row[width / 3], row[width / 2]) = (1.0, 1.0);
            row.iter_mut().for_each(|l| *l *= size);
        }
        let what = format!("{n} x {width}, logits to {size:e}");
        let upload = || ops.upload(logits.clone(), [n, width]);
        let expected = exact.cross_entropy(exact.upload(logits.clone(), [n, width]), &targets, 0.25);
        let found = ops.cross_entropy(upload(), &targets, 0.25);
        let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
        check_near(&format!("loss of {what}"), &found.loss, &wide(&expected.loss), 1e-6);
        check_near(&format!("entropy of {what}"), &found.entropy, &wide(&expected.entropy), 4e-6);
        let dlogits = ops.download(&found.dlogits);
        check_near(&format!("gradient of {what}"), &dlogits, &exact.download_f64(&expected.dlogits), 2e-6);
        let first = if size == 0.0 { 0 } else { width / 3 };
        assert!(found.predicted.iter().all(|&id| id as usize == first), "{what}: the first of the largest");
        // What somebody else still holds is not written over, and a repetition has the same bits.
        let held = upload();
        let again = ops.cross_entropy(held.clone(), &targets, 0.25);
        assert_eq!(ops.download(&held), logits, "{what}: held");
        assert!((again.loss, again.entropy) == (found.loss, found.entropy), "{what}: another time, other bits");
        assert!(ops.download(&again.dlogits) == dlogits, "{what}: another time, other bits");
    }
    // A logit that is no number makes the loss none.
    for bad in [f32::NAN, f32::INFINITY] {
        let ce = ops.cross_entropy(ops.upload(vec![0.0, bad, 1.0], [1, 3]), &[0], 1.0);
        assert!(!ce.loss[0].is_finite() && ce.predicted[0] < 3, "{bad}: {:?}, {:?}", ce.loss, ce.predicted);
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
