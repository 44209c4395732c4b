//! The files of a base's folder: which there are, and what index and configuration say of them.
//! It never follows a name out of the folder, and never stops at the first file that is missing.

use crate::shard::Shard;
use crate::{Error, Result, names};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

pub(crate) const CONFIG_FILE: &str = "config.json";
pub(crate) const SINGLE_FILE: &str = "model.safetensors";
pub(crate) const INDEX_FILE: &str = "model.safetensors.index.json";

/// `config.json` is a few kB, the index of a large model some hundred kB.
const MAX_JSON_BYTES: u64 = 64 << 20;
/// More layers than any model has; a bound before names are made.
const MAX_LAYERS: u64 = 4096;

/// The weights of a folder.
#[derive(Default)]
pub(super) struct Files {
    pub shards: BTreeMap<String, Shard>,
    pub problems: Vec<String>,
    /// Hub names of the tensors of shards that are missing.
    pub lost: BTreeSet<String>,
}

/// Opens `model.safetensors`, or the shards of the index, which must name each tensor of each shard and no other.
pub(super) fn open(dir: &Path) -> Result<Files> {
    let (single, index) = (dir.join(SINGLE_FILE), dir.join(INDEX_FILE));
    match (single.exists(), index.exists()) {
        (true, true) => Err(Error::broken(dir, format!("has both {SINGLE_FILE} and {INDEX_FILE}, which may differ"))),
        (false, false) => Err(Error::broken(dir, format!("has neither {SINGLE_FILE} nor {INDEX_FILE}"))),
        (true, false) => {
            let shards = BTreeMap::from([(SINGLE_FILE.to_owned(), Shard::open(&single)?)]);
            Ok(Files { shards, ..Files::default() })
        }
        (false, true) => open_indexed(dir, &index),
    }
}

fn open_indexed(dir: &Path, index: &Path) -> Result<Files> {
    let weight_map = weight_map(index)?;
    let mut files = Files::default();
    let Files { shards, problems, lost } = &mut files;
    for file in weight_map.values().collect::<BTreeSet<_>>() {
        let path = dir.join(file);
        if path.exists() {
            shards.insert(file.clone(), Shard::open(&path)?);
        } else {
            problems.push(format!("missing shard: {file}"));
        }
    }
    for (key, file) in &weight_map {
        match shards.get(file) {
            None => lost.extend(names::canonical(key)),
            Some(shard) if shard.holds(key) => {}
            Some(_) => problems.push(format!("{key}: the index says {file}, which does not hold it")),
        }
    }
    for (file, shard) in &*shards {
        let unlisted = shard.tensors().keys().filter(|key| weight_map.get(*key) != Some(file));
        problems.extend(unlisted.map(|key| format!("{key}: in {file}, but the index does not say so")));
    }
    Ok(files)
}

/// The hub names of the tensors that a folder's `config.json` asks for.
pub(super) fn expected_names(dir: &Path) -> Result<BTreeSet<String>> {
    let (n_text_layers, n_vision_layers) = layer_counts(&dir.join(CONFIG_FILE))?;
    Ok(names::all(n_text_layers, n_vision_layers))
}

/// Which file holds which tensor, by the index. A file name must be plain: an index cannot lead out of its folder.
fn weight_map(index: &Path) -> Result<BTreeMap<String, String>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let parsed: Index = serde_json::from_slice(&read_json(index)?).map_err(|e| Error::broken(index, e))?;
    match parsed.weight_map.values().find(|file| file.contains(['/', '\\']) || !file.ends_with(".safetensors")) {
        Some(file) => Err(Error::broken(index, format!("{file:?} is no safetensors file of this folder"))),
        None => Ok(parsed.weight_map),
    }
}

/// The numbers of text and vision layers of a `config.json`.
fn layer_counts(config: &Path) -> Result<(usize, usize)> {
    let json: serde_json::Value = serde_json::from_slice(&read_json(config)?).map_err(|e| Error::broken(config, e))?;
    let count = |part: &str| {
        let found = &json[part]["num_hidden_layers"];
        let refused = || Error::Config {
            file: config.to_owned(),
            field: format!("{part}.num_hidden_layers"),
            found: found.to_string(),
            expected: format!("must be a number of layers up to {MAX_LAYERS}"),
        };
        found.as_u64().filter(|n| *n <= MAX_LAYERS).map(|n| n as usize).ok_or_else(refused)
    };
    Ok((count("text_config")?, count("vision_config")?))
}

/// A JSON file's bytes, refused when it is larger than such a file can be.
pub(crate) fn read_json(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(Error::io(path, "open"))?;
    file.take(MAX_JSON_BYTES + 1).read_to_end(&mut bytes).map_err(Error::io(path, "read"))?;
    if bytes.len() as u64 > MAX_JSON_BYTES {
        let length = fs::metadata(path).map_err(Error::io(path, "stat"))?.len();
        return Err(Error::broken(path, format!("{length} bytes are too many for this file")));
    }
    Ok(bytes)
}
