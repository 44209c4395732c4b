//! System calls of a program as strace sees them, and a kill at any one of them.

use std::fs;
use std::path::Path;
use std::process::Command;

/// A tool that is needed, or the reason why the test is skipped.
pub fn has(tool: &str, why: &str) -> bool {
    let found = Command::new(tool).arg("--version").output().is_ok_and(|output| output.status.success());
    if !found {
        eprintln!("skipped: {tool} is not installed ({why})");
    }
    found
}

/// The changes that strace saw, as (system call, which of its kind in its thread).
pub fn changes(log: &Path) -> Vec<(String, usize)> {
    let mut seen: Vec<(String, String)> = Vec::new();
    for line in fs::read_to_string(log).unwrap().lines() {
        let Some((thread, call)) = line.split_once(' ') else { continue };
        let Some((name, _)) = call.trim_start().split_once('(') else { continue };
        if name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            seen.push((thread.to_owned(), name.to_owned()));
        }
    }
    (0..seen.len()).map(|i| (seen[i].1.clone(), seen[..=i].iter().filter(|other| **other == seen[i]).count())).collect()
}

/// Those that change a disk.
pub const CALLS: &str = "write,fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,rmdir";
