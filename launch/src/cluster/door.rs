//! How the nodes of one job find and trust each other: the job key and node 0's address, from the command line, from
//! variables, or through the run folder that all of them share. The key is never shown, and no log or error holds it.

use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::rand::{GetRandomFlags, getrandom};
use serde::{Deserialize, Serialize};

use super::Error;
use super::interface::Endpoint;

/// In the run folder, for this user's eyes only, while the job runs.
const NAME: &str = ".rendezvous";
/// Longest file that is read.
const MAX_BYTES: u64 = 4096;

/// Thirty-two bytes that nobody can guess: a connection without them does not belong to the job. No `Debug`.
pub type Key = [u8; 32];

/// What is known of the way to the other nodes before anybody is met.
pub struct Door {
    /// `ECG_TRAIN_JOB_KEY` or `--job-key-file`; none: node 0 makes one.
    pub key: Option<Key>,
    /// `--rdzv-endpoint`, or MASTER_ADDR and MASTER_PORT; none: node 0 says where it listens.
    pub endpoint: Option<Endpoint>,
    /// Of this start of the job: what another one left behind is not taken for it.
    pub job: String,
    /// The run folder.
    pub run_dir: PathBuf,
}

/// The content of the file: what is not on the command line or in variables.
#[derive(Serialize, Deserialize)]
struct Note {
    job: String,
    endpoint: SocketAddr,
    /// 64 hexadecimal digits.
    key: Option<String>,
}

/// The file of node 0, removed with it.
pub struct Open {
    path: Option<PathBuf>,
    pub key: Key,
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = fs::remove_file(path); // A rest does no harm: the next node 0 replaces it.
        }
    }
}

impl Door {
    /// Of node 0, which listens on `addr`: leaves for the others what they cannot know otherwise.
    ///
    /// # Errors
    /// The file cannot be published, or the system has no random numbers.
    pub fn open(&self, addr: SocketAddr) -> Result<Open, Error> {
        let key = self.key.map_or_else(new_key, Ok)?;
        if self.key.is_some() && self.endpoint.is_some() {
            return Ok(Open { path: None, key });
        }
        let told = self.key.is_none().then(|| to_hex(&key));
        let note = Note { job: self.job.clone(), endpoint: addr, key: told };
        let path = self.run_dir.join(NAME);
        storage::publish_private_file(&path, &serde_json::to_vec(&note).unwrap_or_default())?;
        Ok(Open { path: Some(path), key })
    }

    /// Of another node: the key and node 0's address, as far as they are known by now; none: not yet.
    ///
    /// # Errors
    /// The file is not this user's own, or the endpoint's name does not resolve.
    pub fn look(&self) -> Result<Option<(Key, SocketAddr)>, Error> {
        let note = match (&self.key, &self.endpoint) {
            (Some(_), Some(_)) => None,
            _ => match self.read_note()? {
                Some(note) => Some(note),
                None => return Ok(None),
            },
        };
        let addr = match (&self.endpoint, &note) {
            (Some(endpoint), _) => endpoint.resolve()?[0],
            (None, Some(note)) => note.endpoint,
            (None, None) => return Ok(None),
        };
        let told = || parse_hex(note.as_ref()?.key.as_ref()?);
        Ok(self.key.or_else(told).map(|key| (key, addr)))
    }

    fn read_note(&self) -> Result<Option<Note>, Error> {
        let path = self.run_dir.join(NAME);
        let bytes = match read_private(&path) {
            Err(Error::KeyFile { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read?,
        };
        let note: Option<Note> = serde_json::from_slice(&bytes).ok();
        Ok(note.filter(|note| note.job == self.job))
    }

    /// In words, for a node that waited in vain.
    pub fn place(&self) -> String {
        match (&self.key, &self.endpoint) {
            (Some(_), Some(Endpoint { host, port })) => format!("{host}:{port}"),
            _ => self.run_dir.join(NAME).display().to_string(),
        }
    }
}

/// The key in a file: 64 hexadecimal digits, readable by this user alone.
///
/// # Errors
/// The file cannot be read, is not this user's own, or holds something else.
pub fn read_key(path: &Path) -> Result<Key, Error> {
    let text = read_private(path)?;
    std::str::from_utf8(&text).ok().and_then(|text| parse_hex(text.trim())).ok_or_else(|| Error::NoKey(path.to_owned()))
}

/// A file that others can read is no secret, and one that others own is not ours.
fn read_private(path: &Path) -> Result<Vec<u8>, Error> {
    let failed = |source| Error::KeyFile { path: path.to_owned(), source };
    let file = OpenOptions::new().read(true).open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    let is_ours = metadata.uid() == rustix::process::geteuid().as_raw() && metadata.mode() & 0o077 == 0;
    if !metadata.is_file() || !is_ours {
        return Err(Error::NotPrivate { path: path.to_owned(), mode: metadata.mode() & 0o777, uid: metadata.uid() });
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// A new key.
///
/// # Errors
/// The system has no random numbers.
pub fn new_key() -> Result<Key, Error> {
    let mut key = [0; 32];
    match getrandom(&mut key[..], GetRandomFlags::empty()) {
        Ok(n) if n == key.len() => Ok(key),
        Ok(_) => Err(Error::Random(io::ErrorKind::UnexpectedEof.into())),
        Err(errno) => Err(Error::Random(errno.into())),
    }
}

fn to_hex(key: &Key) -> String {
    key.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// 64 hexadecimal digits.
pub fn parse_hex(text: &str) -> Option<Key> {
    let mut key = [0; 32];
    if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    for (i, byte) in key.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(key)
}

#[cfg(test)]
mod tests;
