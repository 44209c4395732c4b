//! What a worker may see of its surroundings: rank variables in, secrets out.
//! It never changes the environment of this process.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use crate::Error;

/// Parts of names whose values no worker needs and no log may ever show.
const SECRET_PARTS: [&str; 5] = ["TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL"];

/// The environment of the worker with `rank`: the given one without secrets, with the ranks' own variables.
/// `MASTER_PORT` 0 says that the address comes over the control pipe.
pub fn of_worker(
    given: impl Iterator<Item = (OsString, OsString)>,
    rank: u32,
    world_size: u32,
    n_threads: usize,
) -> BTreeMap<OsString, OsString> {
    let mut variables: BTreeMap<_, _> = given.filter(|(name, _)| !is_secret(&name.to_string_lossy())).collect();
    for (name, value) in [
        ("RANK", rank.to_string()),
        ("LOCAL_RANK", rank.to_string()),
        ("WORLD_SIZE", world_size.to_string()),
        ("LOCAL_WORLD_SIZE", world_size.to_string()),
        ("MASTER_ADDR", "127.0.0.1".to_owned()),
        ("MASTER_PORT", "0".to_owned()),
        ("RAYON_NUM_THREADS", n_threads.to_string()),
    ] {
        variables.insert(name.into(), value.into());
    }
    variables
}

/// Threads of each of `n_workers` on this machine: an even share of the cores, at least one.
pub fn threads_per_worker(n_workers: u32) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (cores / n_workers as usize).max(1)
}

/// The value of a variable that a worker started by hand needs.
pub fn required<T: std::str::FromStr>(name: &'static str, expected: &'static str) -> Result<T, Error> {
    optional(name, expected)?.ok_or(Error::Variable { name, actual: "not set".to_owned(), expected })
}

/// The value of a variable, if it is set.
pub fn optional<T: std::str::FromStr>(name: &'static str, expected: &'static str) -> Result<Option<T>, Error> {
    let Some(text) = std::env::var_os(name) else { return Ok(None) };
    let parsed = text.to_str().and_then(|text| text.parse().ok());
    parsed.map(Some).ok_or_else(|| Error::Variable { name, actual: format!("{text:?}"), expected })
}

/// The job key of workers started by hand: 64 hexadecimal digits, the same for every rank.
pub fn job_key() -> Result<[u8; 32], Error> {
    let wrong = |actual: &str| Error::Variable {
        name: "ECG_TRAIN_JOB_KEY",
        actual: actual.to_owned(),
        expected: "64 hexadecimal digits, the same for every rank, e.g. from `openssl rand -hex 32`",
    };
    let text = std::env::var("ECG_TRAIN_JOB_KEY").map_err(|_| wrong("not set"))?;
    parse_hex(&text).ok_or_else(|| wrong("something else")) // Never the text: it may be a mistyped key.
}

fn parse_hex(text: &str) -> Option<[u8; 32]> {
    let mut key = [0; 32];
    if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    for (i, byte) in key.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(key)
}

/// Whether a variable's name says that its value is a secret.
fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    name.ends_with("_KEY") || name.ends_with("_KEY_ID") || SECRET_PARTS.iter().any(|part| name.contains(part))
}

/// This program, to start it again as a worker or a step of the demo.
pub fn this_program() -> Result<PathBuf, Error> {
    std::env::current_exe().map_err(|source| Error::Process { what: "this program", source })
}

#[cfg(test)]
mod tests;
