//! What this process has used of the machine so far, as Linux counts it; elsewhere nothing is known.

use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

/// Time on a processor of all threads that are alive.
pub fn cpu_time() -> Option<Duration> {
    let mut total = Duration::ZERO;
    for thread in std::fs::read_dir("/proc/self/task").ok()? {
        let spent = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        total += Duration::from_nanos(spent.split_whitespace().next()?.parse().ok()?);
    }
    Some(total)
}

/// Time of this thread on a processor; by the clock where the system does not tell.
pub fn thread_time() -> Duration {
    static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
    thread::yield_now(); // The count of a running thread is brought up to date when it yields.
    let spent = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let spent = spent.and_then(|text| text.split_whitespace().next()?.parse().ok());
    spent.map_or_else(|| BEGAN.elapsed(), Duration::from_nanos)
}

/// Most memory ever resident, in MiB.
pub fn peak_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kib / 1024.0)
}
