//! `manifest.json` of a checkpoint: size and hash of every file, and a hash over itself.
//! It never takes a name from the disk that leads out of the checkpoint's folder.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};

use super::{MANIFEST, STATE, State, read_bounded};

/// Of the layout of a checkpoint.
const FORMAT: u32 = 1;
const MAX_MANIFEST_BYTES: u64 = 1 << 20;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    format: u32,
    step: u64,
    fingerprint: String,
    files: BTreeMap<String, Entry>,
    /// blake3 of this manifest with an empty seal.
    seal: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    bytes: u64,
    blake3: String,
}

impl Manifest {
    /// Of files given as name, bytes and hash.
    pub(super) fn new<'a>(state: &State, files: impl IntoIterator<Item = (&'a str, usize, blake3::Hash)>) -> Self {
        let entry = |bytes, hash: blake3::Hash| Entry { bytes: bytes as u64, blake3: hash.to_hex().to_string() };
        let manifest = Self {
            format: FORMAT,
            step: state.step,
            fingerprint: state.fingerprint.clone(),
            files: files.into_iter().map(|(name, bytes, hash)| (name.to_owned(), entry(bytes, hash))).collect(),
            seal: String::new(),
        };
        manifest.sealed()
    }

    fn sealed(mut self) -> Self {
        self.seal.clear();
        self.seal = blake3::hash(&self.to_json()).to_hex().to_string();
        self
    }

    pub(super) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("texts and numbers are JSON")
    }

    /// The manifest in `dir`, if every byte of it is as it was written; else what is wrong.
    pub(super) fn read(dir: &Path) -> Result<Self, String> {
        let wrong = |what: &dyn std::fmt::Display| format!("{MANIFEST}: {what}");
        let bytes = read_bounded(&dir.join(MANIFEST), MAX_MANIFEST_BYTES).map_err(|e| wrong(&e))?;
        let manifest: Self = serde_json::from_slice(&bytes).map_err(|e| wrong(&e))?;
        if manifest.format != FORMAT {
            return Err(wrong(&format!("is of format {}, expected {FORMAT}", manifest.format)));
        }
        if manifest.to_json() != bytes || manifest.clone().sealed() != manifest {
            return Err(wrong(&"does not have the hash it says it has"));
        }
        let inside = |name: &String| Path::new(name).components().eq([Component::Normal(name.as_ref())]);
        if let Some(name) = manifest.files.keys().find(|name| !inside(name)) {
            return Err(wrong(&format!("{name:?} is no name of a file in this folder")));
        }
        if !manifest.files.contains_key(STATE) {
            return Err(wrong(&format!("does not name {STATE}")));
        }
        Ok(manifest)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// Compares a file with its size and its hash, without holding it in memory.
    pub(super) fn verify(&self, dir: &Path, name: &str) -> Result<(), String> {
        let entry = self.entry(name)?;
        let path = dir.join(name);
        let bytes = fs::metadata(&path).map_err(|e| format!("{name}: {e}"))?.len();
        if bytes != entry.bytes {
            return Err(format!("{name}: has {bytes} bytes, the manifest says {}", entry.bytes));
        }
        let mut hasher = blake3::Hasher::new();
        File::open(&path).and_then(|file| hasher.update_reader(file).map(drop)).map_err(|e| format!("{name}: {e}"))?;
        entry.require(name, hasher.finalize())
    }

    /// The bytes of a file, if they have the hash of the manifest.
    pub(super) fn read_file(&self, dir: &Path, name: &str) -> Result<Vec<u8>, String> {
        let entry = self.entry(name)?;
        let bytes = read_bounded(&dir.join(name), entry.bytes).map_err(|e| format!("{name}: {e}"))?;
        entry.require(name, blake3::hash(&bytes))?;
        Ok(bytes)
    }

    fn entry(&self, name: &str) -> Result<&Entry, String> {
        self.files.get(name).ok_or_else(|| format!("{name}: is not in the manifest"))
    }
}

impl Entry {
    fn require(&self, name: &str, found: blake3::Hash) -> Result<(), String> {
        if found.to_hex().as_str() == self.blake3 {
            return Ok(());
        }
        Err(format!("{name}: its blake3 is {found}, the manifest says {}", self.blake3))
    }
}
