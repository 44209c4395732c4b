//! `bench` measures what it says it measures: the figures fit each other, and what cannot be measured is refused first.

use std::process::Command;

use serde_json::Value;

use crate::journey::{program, succeed};

fn figures(args: &[&str]) -> Value {
    serde_json::from_str(&succeed(&[&["bench"], args, &["--json"]].concat())).unwrap()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// Equal to a millionth.
#[track_caller]
fn check_equal(a: f64, b: f64) {
    assert!((a - b).abs() <= 1e-6 * a.abs().max(b.abs()), "{a} is not {b}");
}

#[test]
fn products_of_a_step_are_counted_by_shape() {
    let all = figures(&["gemm", "--preset", "tiny", "--rounds", "1", "--peak-tflops", "2"]);
    let products = all["products"].as_array().unwrap();
    let mut ms = 0.0;
    let mut tflop = 0.0;
    for product in products {
        let [m, k, n, times] = ["m", "k", "n", "times"].map(|key| number(&product[key]));
        let once = 2e-12 * m * k * n;
        check_equal(number(&product["forward_tflops"]) * number(&product["forward_ms"]) / 1e3, once);
        check_equal(number(&product["by_input_tflops"]) * number(&product["by_input_ms"]) / 1e3, once);
        let adapter = 3.0 * 2e-12 * m * 8.0 * (k + n);
        let is_adapted = product["adapter_ms"].is_number();
        ms += times * (number(&product["forward_ms"]) + number(&product["by_input_ms"]));
        ms += times * product["adapter_ms"].as_f64().unwrap_or(0.0);
        tflop += times * (2.0 * once + if is_adapted { adapter } else { 0.0 });
        let of_base = ["lm_head", "patch_embedding"].contains(&product["linears"].as_str().unwrap());
        assert_eq!(is_adapted, !of_base, "{product}");
    }
    check_equal(number(&all["micro_batch_ms"]), ms);
    check_equal(number(&all["micro_batch_tflop"]), tflop);
    check_equal(number(&all["share_of_peak"]), number(&all["tflops"]) / 2.0);
    let table = succeed(&["bench", "gemm", "--preset", "tiny", "--rounds", "1"]);
    assert!(table.contains("x lm_head: [") && table.contains("all of a micro-batch: "), "{table}");
}

#[test]
fn sums_over_ranks_are_measured_by_size() {
    let all = figures(&["allreduce", "--ranks", "3", "--numbers", "10,100000", "--rounds", "2"]);
    let sizes: Vec<f64> = all.as_array().unwrap().iter().map(|of| number(&of["bytes"])).collect();
    assert_eq!(sizes, [80.0, 800_000.0]);
    assert!(all.as_array().unwrap().iter().all(|of| of["over"] == "tcp"));
    for of in all.as_array().unwrap() {
        check_equal(number(&of["gb_per_second"]), number(&of["bytes"]) / number(&of["ms_median"]) / 1e6);
        assert!(number(&of["ms_min"]) <= number(&of["ms_median"]));
    }
}

/// On a driver and an NCCL that have no GPU: ranks are threads, and device memory is the host's.
#[test]
fn sums_between_gpus_go_over_nccl_where_they_are_long() {
    let dir = tempfile::tempdir().unwrap();
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../trainer/src/collective/nccl/stub.c");
    let driver = dir.path().join("libcuda.so.1");
    let made = Command::new("cc").args(["-O1", "-shared", "-fPIC", source, "-lpthread", "-o"]).arg(&driver).status();
    assert!(made.unwrap().success(), "the stub compiles");
    std::os::unix::fs::symlink(&driver, dir.path().join("libnccl.so.2")).unwrap();
    let bench = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ecg-train-under-test"));
        command.args(["bench", "allreduce", "--rounds", "2", "--json"]).args(more);
        command.env("LD_LIBRARY_PATH", dir.path()).env_remove("CUDA_VISIBLE_DEVICES").output().unwrap()
    };
    let output = bench(&["--gpus", "3", "--numbers", "10,300000"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let all: Value = serde_json::from_slice(&output.stdout).unwrap();
    let over: Vec<&Value> = all.as_array().unwrap().iter().map(|of| &of["over"]).collect();
    assert_eq!(over, ["tcp", "nccl"]);
    assert_eq!(number(&all[1]["ranks"]), 3.0);
    let output = bench(&["--gpus", "9"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && said.contains("Device 7"), "{said}");
}

#[test]
fn a_step_says_its_rows_and_its_share_of_the_peak() {
    let all = figures(&["step", "--preset", "tiny", "--steps", "1", "--checkpointing", "none", "--peak-tflops", "0.5"]);
    let of = &all[0];
    assert_eq!((&of["device"], &of["precision"], &of["device_mib"]), (&"cpu".into(), &"f32".into(), &Value::Null));
    check_equal(number(&of["rows_per_second"]), 2e3 / number(&of["wall_ms_median"]));
    check_equal(number(&of["share_of_peak"]), number(&of["gflop_per_second"]) / 500.0);
    let table = succeed(&["bench", "step", "--preset", "tiny", "--steps", "1", "--checkpointing", "none"]);
    assert!(table.contains("tiny on cpu: f32") && table.contains("rows/s"), "{table}");
}

/// The published run's step wants a GPU, or a machine with as much memory.
#[test]
fn a_step_that_does_not_fit_is_refused_before_memory_is_filled() {
    let many = ["--set", "train.micro_batch_size=4000", "--set", "train.global_batch_size=4000"];
    let output =
        program(&[&["bench", "step", "--preset", "medgemma-4b", "--checkpointing", "none"], &many[..]].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("GB of memory and") && said.contains("--gpus 1"), "{said}");
    if !cfg!(any(feature = "vulkan")) {
        let output = program(&["bench", "step", "--preset", "tiny", "--gpus", "1", "--backend", "vulkan"]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && said.contains("--features vulkan"), "{said}");
    }
}
