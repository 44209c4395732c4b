//! Instructions of a training step, counted by callgrind and kept in `instructions.txt`: a regression is seen without a
//! timed test. valgrind knows no AVX-512, so every machine counts the AVX2 kernels, on one thread.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;

/// A count may grow by this factor. Compilers and caches of other sizes (the matrix product cuts its blocks to them) move
/// it by less; a copy or a recompute more than there was moves it further.
const GROWTH: f64 = 1.15;

/// What is counted: arguments of `bench step --preset tiny`.
const STEPS: [(&str, &[&str]); 2] = [
    ("step", &["--checkpointing", "none"]),
    ("step-checkpointed-with-dropout", &["--checkpointing", "block", "--set", "lora.dropout=0.05"]),
];

/// Why nothing can be counted here.
fn reason() -> Option<&'static str> {
    let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    if !(flags.contains("avx2") && flags.contains("fma")) {
        return Some("this processor has no AVX2, for which they are kept");
    }
    let found = Command::new("valgrind").arg("--version").output().is_ok_and(|output| output.status.success());
    (!found).then_some("there is no valgrind; install it (Debian: apt install valgrind)")
}

/// Instructions of a whole process that makes `steps` measured steps.
fn count(args: &[&str], steps: &str) -> f64 {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", env!("CARGO_BIN_EXE_ecg-train-under-test")])
        .args(["bench", "step", "--here", "--preset", "tiny", "--steps", steps])
        .args(args)
        .env("RAYON_NUM_THREADS", "1")
        .output()
        .expect("valgrind starts");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    let count = told.lines().find_map(|line| line.split("Collected : ").nth(1));
    count.and_then(|n| n.trim().parse().ok()).unwrap_or_else(|| panic!("callgrind counted nothing:\n{told}"))
}

#[test]
fn a_step_takes_no_more_instructions_than_it_did() {
    if let Some(reason) = reason() {
        eprintln!("skipped: instructions of a step; {reason}");
        return;
    }
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/it/instructions.txt"));
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    let kept: BTreeMap<&str, f64> = kept
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(name, n)| Some((name, n.parse().ok()?)))
        .collect();
    let (mut found, mut grown) = (String::new(), Vec::new());
    for (name, args) in STEPS {
        // One step against three (two warm up): what the process does beside its steps falls out.
        let n = ((count(args, "2") - count(args, "1")) / 2.0).round();
        let before = kept.get(name).copied().unwrap_or(0.0);
        eprintln!("{name}: {n} instructions, {:.3} of the {before} kept", n / before);
        writeln!(found, "{name} {n}").unwrap();
        if n > before * GROWTH {
            grown.push(name);
        }
    }
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        storage::publish_file(&path, found.as_bytes()).unwrap();
        return;
    }
    assert!(grown.is_empty(), "{grown:?} grew; if it must, UPDATE_GOLDEN=1 keeps the new counts:\n{found}");
}
