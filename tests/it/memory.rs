//! The memory that is computed is the memory that is used: the program measures its own peak beside its prediction, in a
//! process for each variant. A layer that keeps more than `model::memory` knows of fails here.
//!
//! Buffers are given back to the system when they are freed (MALLOC_MMAP_THRESHOLD_), so that the peak is that of the
//! step and not of the allocator's habits; program and libraries take what the tiny preset takes.

use std::process::Command;

use serde_json::Value;

/// `peak_mib` and `predicted_mib` of each variant.
fn bench(args: &[&str]) -> Vec<(String, f64, f64)> {
    let output = Command::new(env!("CARGO_BIN_EXE_ecg-train-under-test"))
        .args(["bench", "step", "--json", "--steps", "1"])
        .args(args)
        .env("MALLOC_MMAP_THRESHOLD_", "65536")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let figure = |found: &Value, key: &str| found[key].as_f64().unwrap_or_else(|| panic!("no {key}"));
    let name = |found: &Value| format!("{args:?} {} {}", found["checkpointing"], found["rows_per_page"]);
    found.iter().map(|f| (name(f), figure(f, "peak_mib"), figure(f, "predicted_mib"))).collect()
}

#[test]
fn a_steps_peak_is_predicted_within_a_tenth() {
    if !cfg!(all(target_os = "linux", target_env = "gnu")) {
        eprintln!("skipped: peaks are read from /proc and depend on the allocator");
        return;
    }
    let all = "none,vision,block";
    let (_, tiny, predicted) = bench(&["--preset", "tiny", "--checkpointing", "none"]).remove(0);
    let program = tiny - predicted;
    assert!((0.0..60.0).contains(&program), "the program itself takes {program} MiB");
    let found = [
        bench(&["--preset", "cpu-mid", "--checkpointing", all]),
        bench(&["--preset", "cpu-mid", "--checkpointing", "none", "--set", "data.max_seq_len=96"]),
        bench(&["--preset", "cpu-mid", "--checkpointing", "none", "--set", "lora.r=128", "--set", "lora.dropout=0.1"]),
        bench(&["--preset", "tower", "--checkpointing", all, "--rows-per-page", "2", "--set", "data.max_seq_len=80"]),
    ];
    let mut wrong = Vec::new();
    for (name, peak, predicted) in found.into_iter().flatten() {
        let ratio = predicted / (peak - program);
        println!("{name}: {predicted:.0} MiB predicted, {:.0} measured, ratio {ratio:.3}", peak - program);
        if (ratio - 1.0).abs() > 0.1 {
            wrong.push(format!("{name}: {predicted:.0} MiB predicted, {:.0} measured", peak - program));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
