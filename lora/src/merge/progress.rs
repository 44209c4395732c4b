//! What a merge has finished, kept in its unfinished folder so that a killed one goes on.
//! It never believes that a file is as it was left: it only says what must be found there.

use super::write::{Merge, WrittenFile};
use crate::adapter::{self, Adapter};
use crate::base::{BaseHashes, read_json};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// Changes whenever the bytes of a result could.
const FORMAT: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Progress {
    /// Of everything that the result depends on but the numbers of the base, which each file has for itself.
    plan: String,
    pub files: BTreeMap<String, WrittenFile>,
}

impl Progress {
    /// Its file; removed before the folder is published.
    pub const FILE: &str = ".merge_progress.json";

    /// What an earlier attempt at the same merge has left in `dir`; else nothing is finished.
    pub fn open(dir: &Path, plan: blake3::Hash) -> Self {
        let plan = plan.to_hex().to_string();
        let found = read_json(&dir.join(Self::FILE)).ok().and_then(|json| serde_json::from_slice::<Self>(&json).ok());
        found.filter(|found| found.plan == plan).unwrap_or(Self { plan, files: BTreeMap::new() })
    }

    /// Says on the disk what is finished.
    pub fn save(&self, dir: &Path) -> Result<()> {
        let json = serde_json::to_vec(self).expect("texts and numbers are JSON");
        Ok(storage::publish_file(&dir.join(Self::FILE), &json)?)
    }
}

/// A hash over the base's headers, what the adapter was trained on, its files, and what was asked for.
pub(super) fn plan_hash(merge: &Merge) -> Result<blake3::Hash> {
    let Merge { base, adapter, options, trained_on, .. } = merge;
    let mut hasher = blake3::Hasher::new();
    hasher.update(format!("{FORMAT} {} {options:?}\n", env!("CARGO_PKG_VERSION")).as_bytes());
    hasher.update(format!("{:?}\n", trained_on.map(BaseHashes::total)).as_bytes());
    for (name, info) in base.tensors() {
        hasher.update(format!("{name} {:?} {:?}\n", info.dtype, info.shape).as_bytes());
    }
    hasher.update(adapter_hash(adapter)?.as_bytes());
    let config = adapter.dir().join(adapter::CONFIG_FILE);
    hasher.update(&read_json(&config)?);
    Ok(hasher.finalize())
}

/// blake3 of `adapter_model.safetensors`.
pub(super) fn adapter_hash(adapter: &Adapter) -> Result<blake3::Hash> {
    let path = adapter.dir().join(adapter::MODEL_FILE);
    let mut hasher = blake3::Hasher::new();
    let file = std::fs::File::open(&path).map_err(Error::io(&path, "open"))?;
    hasher.update_reader(file).map_err(Error::io(&path, "read"))?;
    Ok(hasher.finalize())
}
