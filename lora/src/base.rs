//! A base model's folder: `config.json` beside `model.safetensors`, or beside shards and their index.
//! It never lets a folder through that lacks a tensor or has one too many, and never reads more than is asked for.

use crate::shard::Shard;
use crate::{Dtype, Error, Module, Result, all_linear, names};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

pub(crate) const CONFIG_FILE: &str = "config.json";
pub(crate) const SINGLE_FILE: &str = "model.safetensors";
pub(crate) const INDEX_FILE: &str = "model.safetensors.index.json";

/// `config.json` is a few kB, the index of a large model some hundred kB.
const MAX_JSON_BYTES: u64 = 64 << 20;
/// More layers than any model has; a bound before names are made.
const MAX_LAYERS: u64 = 4096;
/// How much of a tensor is held when two are compared.
const COMPARE_BYTES: u64 = 8 << 20;

/// One tensor of the base.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// The file of the folder that holds it.
    pub file: String,
    /// Its name in that file, of whichever generation.
    pub key: String,
    /// How its numbers are stored.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Where its bytes are in that file.
    pub offsets: Range<u64>,
}

/// An open base folder that has every tensor of the model its `config.json` describes, each once, and no other.
#[derive(Debug)]
pub struct Base {
    dir: PathBuf,
    shards: BTreeMap<String, Shard>,
    tensors: BTreeMap<String, TensorInfo>,
}

impl Base {
    /// Opens a folder and checks every header in it; a tied head that is stored as well must be the embedding's copy, and is left out.
    ///
    /// # Errors
    /// A file that is missing or broken; or, all of them at once, tensors that are missing, unexpected or doubled.
    pub fn open(dir: &Path) -> Result<Self> {
        let (n_text_layers, n_vision_layers) = layer_counts(&dir.join(CONFIG_FILE))?;
        let shards = open_shards(dir)?;
        let mut base = Self { dir: dir.to_owned(), shards, tensors: BTreeMap::new() };
        let mut problems = base.name_tensors();
        let expected = names::all(n_text_layers, n_vision_layers);
        let found: BTreeSet<String> = base.tensors.keys().filter(|n| *n != names::TIED_HEAD).cloned().collect();
        problems.extend(found.difference(&expected).map(|n| format!("unexpected: {}", base.tensors[n].key)));
        problems.extend(expected.difference(&found).map(|n| format!("missing: {n}")));
        Error::unless_empty(dir, problems)?;
        base.untie()?;
        Ok(base)
    }

    /// The folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// All tensors by hub name, whatever they are called in the files.
    #[must_use]
    pub fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.tensors
    }

    /// Every linear: what `all-linear` adapts, by name.
    #[must_use]
    pub fn linears(&self) -> Vec<Module> {
        all_linear(self.tensors.iter().map(|(name, info)| (name.as_str(), info.shape.as_slice())))
    }

    /// A tensor's numbers, row-major.
    ///
    /// # Errors
    /// There is no such tensor, or the file cannot be read.
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        Ok(self.info(name)?.dtype.decode(&self.read_bytes(name)?))
    }

    /// A tensor's bytes as stored: little-endian, row-major.
    ///
    /// # Errors
    /// There is no such tensor, or the file cannot be read.
    pub fn read_bytes(&self, name: &str) -> Result<Vec<u8>> {
        let length = byte_count(self.info(name)?);
        self.read_range(name, 0..length)
    }

    /// Part of a tensor's bytes, counted from its first.
    pub(crate) fn read_range(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
        let info = self.info(name)?;
        self.shards[&info.file].read(info.offsets.start + range.start..info.offsets.start + range.end)
    }

    fn info(&self, name: &str) -> Result<&TensorInfo> {
        let missing = || Error::Tensors { place: self.dir.clone(), problems: vec![format!("missing: {name}")] };
        self.tensors.get(name).ok_or_else(missing)
    }

    /// Gives every tensor of the shards its hub name; returns what has none, has an impossible shape or shares its name.
    fn name_tensors(&mut self) -> Vec<String> {
        let mut problems = Vec::new();
        for (file, shard) in &self.shards {
            for (key, stored) in shard.tensors() {
                let Some(name) = names::canonical(key) else {
                    problems.push(format!("unexpected: {key}"));
                    continue;
                };
                let is_linear = names::linear(&name).is_some();
                if stored.shape.contains(&0) || (is_linear && stored.shape.len() != 2) {
                    let expected = if is_linear { "[out, in]" } else { "at least one number" };
                    problems.push(format!("{key}: shape {:?}, expected {expected}", stored.shape));
                }
                let info = TensorInfo {
                    file: file.clone(),
                    key: key.clone(),
                    dtype: stored.dtype,
                    shape: stored.shape.clone(),
                    offsets: stored.offsets.clone(),
                };
                if let Some(other) = self.tensors.insert(name, info) {
                    problems.push(format!("doubled: {key} in {file} and {} in {}", other.key, other.file));
                }
            }
        }
        problems
    }

    /// Leaves out a stored head after a check that it is the embedding, as Gemma 3's tied head is.
    fn untie(&mut self) -> Result<()> {
        let Some(head) = self.tensors.get(names::TIED_HEAD) else { return Ok(()) };
        let embedding = self.info(names::EMBEDDING)?;
        let mut same = (head.dtype, &head.shape) == (embedding.dtype, &embedding.shape);
        let length = byte_count(embedding);
        let mut at = 0;
        while same && at < length {
            let range = at..length.min(at + COMPARE_BYTES);
            same = self.read_range(names::TIED_HEAD, range.clone())?
                == self.read_range(names::EMBEDDING, range.clone())?;
            at = range.end;
        }
        if !same {
            let problem = format!("{}: differs from {}; only a tied head is supported", head.key, embedding.key);
            return Error::unless_empty(&self.dir, vec![problem]);
        }
        self.tensors.remove(names::TIED_HEAD);
        Ok(())
    }
}

fn byte_count(info: &TensorInfo) -> u64 {
    info.offsets.end - info.offsets.start
}

/// Opens `model.safetensors`, or the shards of the index, which must name each tensor of each shard and no other.
fn open_shards(dir: &Path) -> Result<BTreeMap<String, Shard>> {
    let (single, index) = (dir.join(SINGLE_FILE), dir.join(INDEX_FILE));
    match (single.exists(), index.exists()) {
        (true, true) => Err(Error::broken(dir, format!("has both {SINGLE_FILE} and {INDEX_FILE}, which may differ"))),
        (false, false) => Err(Error::broken(dir, format!("has neither {SINGLE_FILE} nor {INDEX_FILE}"))),
        (true, false) => Ok(BTreeMap::from([(SINGLE_FILE.to_owned(), Shard::open(&single)?)])),
        (false, true) => open_indexed(dir, &index),
    }
}

fn open_indexed(dir: &Path, index: &Path) -> Result<BTreeMap<String, Shard>> {
    let weight_map = weight_map(index)?;
    let mut problems = Vec::new();
    let mut shards = BTreeMap::new();
    for file in weight_map.values().collect::<BTreeSet<_>>() {
        let path = dir.join(file);
        if path.exists() {
            shards.insert(file.clone(), Shard::open(&path)?);
        } else {
            problems.push(format!("missing shard: {file}"));
        }
    }
    for (key, file) in &weight_map {
        if shards.get(file).is_some_and(|shard| !shard.tensors().contains_key(key)) {
            problems.push(format!("{key}: the index says {file}, which does not hold it"));
        }
    }
    for (file, shard) in &shards {
        let unlisted = shard.tensors().keys().filter(|key| weight_map.get(*key) != Some(file));
        problems.extend(unlisted.map(|key| format!("{key}: in {file}, but the index does not say so")));
    }
    Error::unless_empty(index, problems)?;
    Ok(shards)
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

#[cfg(test)]
mod tests;
