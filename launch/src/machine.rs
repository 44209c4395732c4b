//! What a run is computed with, in one line for its events: program, system, processor, memory, devices.
//! Nothing depends on it, and it names neither user nor host.

use std::fs;

use indicatif::BinaryBytes;

use crate::counted;

/// Of this machine; what the system does not tell is left out.
pub fn described(n_workers: u32, on_gpus: bool, n_nodes: u32, program: [u8; 32]) -> String {
    let hash = blake3::Hash::from(program).to_hex();
    let mut said = vec![format!("ecg-train {} ({})", env!("CARGO_PKG_VERSION"), &hash[..12])];
    let device = if on_gpus { "GPU" } else { "CPU worker" };
    let nodes = if n_nodes > 1 { format!(" on each of {n_nodes} nodes") } else { String::new() };
    said.push(format!("{}{nodes}", counted(n_workers as usize, device)));
    said.extend(field("/proc/cpuinfo", "model name"));
    said.extend(std::thread::available_parallelism().ok().map(|cores| counted(cores.get(), "core")));
    said.extend(bytes("/proc/meminfo", "MemTotal").map(|bytes| format!("{} of memory", BinaryBytes(bytes))));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").ok();
    said.extend(kernel.map(|kernel| format!("{} {}", std::env::consts::OS, kernel.trim())));
    said.join(", ")
}

/// The first `name: value` of a file of the system.
fn field(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':'))?;
    Some(value.trim().to_owned())
}

/// A `name: N kB` of a file of the system, in bytes; none where the system does not tell.
pub fn bytes(file: &str, name: &str) -> Option<u64> {
    let kib: u64 = field(file, name)?.trim_end_matches("kB").trim().parse().ok()?;
    Some(kib * 1024)
}
