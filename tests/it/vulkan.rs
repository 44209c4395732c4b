//! The engine for GPUs on any device of Vulkan; in CI that is the CPU through Mesa's software driver, so that the compiler
//! and the kernels which GPUs get are tested without one. Where there is no driver, each test says that it was skipped.
//!
//! Tolerances are those of the CPU engine (tests/it/forward.rs, traces.rs): they allow for other orders of sums.

use std::process::{Command, Output};

use model::engine::{self, DeviceError, Precision, Vulkan};

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
