//! What a worker may see of its surroundings: rank variables in, secrets out.
//! It never changes the environment of this process.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use crate::Error;
use crate::cluster::parse_hex;
use crate::workers::Group;

/// Parts of names whose values no worker needs and no log may ever show.
const SECRET_PARTS: [&str; 9] =
    ["TOKEN", "SECRET", "PASSWORD", "PASSWD", "PASSPHRASE", "CREDENTIAL", "APIKEY", "PRIVATE_KEY", "AUTHORIZATION"];
/// A shorter value of a secret variable is not looked for in others: it may be a common word. Nor is a path.
const SHORT: usize = 8;

/// The environment of the worker with `rank` of `group`: the given one without secrets, with the ranks' own variables.
/// `MASTER_PORT` 0 says that the address comes over the control pipe.
pub fn of_worker(
    given: impl Iterator<Item = (OsString, OsString)>,
    rank: u32,
    group: Group,
) -> BTreeMap<OsString, OsString> {
    let (secrets, rest): (Vec<_>, Vec<_>) = given
        .map(|(name, value)| (name, value.clone(), value.to_string_lossy().into_owned()))
        .partition(|(name, _, text)| is_secret(&name.to_string_lossy()) || has_password(text));
    // A secret's value may stand in another variable, too, as in `GIT_CONFIG_PARAMETERS`.
    let values: Vec<&str> =
        secrets.iter().map(|(.., text)| text.as_str()).filter(|t| t.len() >= SHORT && !t.starts_with('/')).collect();
    let repeats = |text: &str| values.iter().any(|value| text.contains(value));
    let mut variables: BTreeMap<_, _> =
        rest.into_iter().filter(|(.., text)| !repeats(text)).map(|(name, value, _)| (name, value)).collect();
    for (name, value) in [
        ("RANK", rank.to_string()),
        ("LOCAL_RANK", (rank - group.first_rank + group.first_local_rank).to_string()),
        ("WORLD_SIZE", group.world_size.to_string()),
        ("LOCAL_WORLD_SIZE", group.local_world_size.to_string()),
        ("MASTER_ADDR", "127.0.0.1".to_owned()),
        ("MASTER_PORT", "0".to_owned()),
        ("RAYON_NUM_THREADS", threads_per_worker(group.local_world_size).to_string()),
    ] {
        variables.insert(name.into(), value.into());
    }
    variables
}

/// Threads of each of `n_workers` on this machine: an even share of the cores, at least one.
fn threads_per_worker(n_workers: u32) -> usize {
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

/// Whether a variable's name says that its value is a secret.
fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    name.ends_with("_KEY") || name.ends_with("_KEY_ID") || SECRET_PARTS.iter().any(|part| name.contains(part))
}

/// Whether a value is an address with a password in it, `scheme://user:password@host`.
fn has_password(value: &str) -> bool {
    let user = |rest: &str| {
        rest.split(['/', '?', '#', ' ']).next().and_then(|host| Some(host.rsplit_once('@')?.0.contains(':')))
    };
    value.split("://").skip(1).any(|rest| user(rest) == Some(true))
}

/// blake3 of the running program, which all ranks must share; zeros for a job of one rank, which meets nobody.
pub fn program_hash(world_size: u32) -> Result<[u8; 32], Error> {
    if world_size == 1 {
        return Ok([0; 32]);
    }
    let program = this_program()?;
    let mut hasher = blake3::Hasher::new();
    let read = std::fs::File::open(&program).and_then(|file| hasher.update_reader(file).map(drop));
    read.map_err(Error::file(&program, "read"))?;
    Ok(hasher.finalize().into())
}

/// This program, to start it again as a worker or a step of the demo: the very file that runs, even when another one
/// has been installed over it since, so that a restart gives the same bits.
pub fn this_program() -> Result<PathBuf, Error> {
    let running = PathBuf::from("/proc/self/exe");
    if running.exists() {
        return Ok(running);
    }
    std::env::current_exe().map_err(|source| Error::Process { what: "this program", source })
}

#[cfg(test)]
mod tests;
