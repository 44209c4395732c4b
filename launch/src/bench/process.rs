//! What this process has used of the machine so far, as Linux counts it; elsewhere nothing is known.

use std::time::Duration;

/// Time on a processor of all threads that are alive.
pub fn cpu_time() -> Option<Duration> {
    let mut total = Duration::ZERO;
    for thread in std::fs::read_dir("/proc/self/task").ok()? {
        let spent = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        total += Duration::from_nanos(spent.split_whitespace().next()?.parse().ok()?);
    }
    Some(total)
}

/// Most memory ever resident, in MiB.
pub fn peak_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kib / 1024.0)
}
