//! What a base is known by: a hash of every tensor's numbers, and one over all of them. How the files are sharded, and which
//! generation of names they use, changes neither. It never takes a tensor's word for another's.

use super::{Base, TensorInfo, read_json};
use crate::{Dtype, Error, Result};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Of the file's layout.
const FORMAT: u32 = 1;

/// One tensor, whatever it lies in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorHash {
    /// How its numbers are stored.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<usize>,
    /// blake3 of its bytes, little-endian and row-major, in hex.
    pub blake3: String,
}

/// Every tensor of a base by hub name; a stored copy of the tied head is not one of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseHashes {
    tensors: BTreeMap<String, TensorHash>,
}

/// The file's content.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    format: u32,
    /// blake3 over all tensors, which are listed for themselves below.
    blake3: String,
    tensors: BTreeMap<String, TensorHash>,
}

impl BaseHashes {
    /// The file of an adapter's folder that says which base it belongs to. PEFT does not look at it.
    pub const FILE: &str = "base_hashes.json";

    /// Of these tensors.
    #[must_use]
    pub fn new(tensors: BTreeMap<String, TensorHash>) -> Self {
        Self { tensors }
    }

    /// By hub name.
    #[must_use]
    pub fn tensors(&self) -> &BTreeMap<String, TensorHash> {
        &self.tensors
    }

    /// One hash over name, dtype, shape and numbers of every tensor.
    #[must_use]
    pub fn total(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        for (name, TensorHash { dtype, shape, blake3 }) in &self.tensors {
            hasher.update(format!("{name} {dtype:?} {shape:?} {blake3}\n").as_bytes());
        }
        hasher.finalize()
    }

    /// The bytes of [`BaseHashes::FILE`].
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let blake3 = self.total().to_hex().to_string();
        let document = Document { format: FORMAT, blake3, tensors: self.tensors.clone() };
        serde_json::to_vec_pretty(&document).expect("texts and numbers are JSON")
    }

    /// What an adapter's folder says of its base; `None` if it says nothing, as PEFT's do.
    ///
    /// # Errors
    /// The file is there and cannot be read, or does not have the hash it says it has.
    pub fn open(adapter_dir: &Path) -> Result<Option<Self>> {
        let path = adapter_dir.join(Self::FILE);
        if !path.exists() {
            return Ok(None);
        }
        let document: Document =
            serde_json::from_slice(&read_json(&path)?).map_err(|error| Error::broken(&path, error))?;
        let hashes = Self { tensors: document.tensors };
        if (document.format, document.blake3.as_str()) != (FORMAT, hashes.total().to_hex().as_str()) {
            return Err(Error::broken(&path, "is not as it was written"));
        }
        Ok(Some(hashes))
    }

    /// Refuses numbers other than those that an adapter was trained on.
    ///
    /// # Errors
    /// [`Error::OtherBase`], with every tensor that differs.
    pub fn require(&self, base_dir: &Path, adapter_dir: &Path, trained_on: &Self) -> Result<()> {
        let differences = trained_on.differences(self);
        if differences.is_empty() {
            return Ok(());
        }
        Err(Error::OtherBase {
            base: base_dir.to_owned(),
            adapter: adapter_dir.to_owned(),
            hashes: format!("blake3 {}, this one has {}", trained_on.total().to_hex(), self.total().to_hex()),
            differences,
        })
    }

    /// Whether a base has these tensors by its headers alone: names, dtypes, shapes.
    pub(crate) fn has_headers_of(&self, base: &Base) -> bool {
        let same = |(x, hash): (&String, &TensorHash), (y, info): (&String, &TensorInfo)| {
            (x, hash.dtype, &hash.shape) == (y, info.dtype, &info.shape)
        };
        self.tensors.len() == base.tensors.len() && self.tensors.iter().zip(&base.tensors).all(|(x, y)| same(x, y))
    }

    /// One line for each tensor that `found` has otherwise.
    fn differences(&self, found: &Self) -> Vec<String> {
        let names: BTreeSet<&String> = self.tensors.keys().chain(found.tensors.keys()).collect();
        let difference = |name: &String| match (self.tensors.get(name), found.tensors.get(name)) {
            (Some(_), None) => Some(format!("{name}: is missing")),
            (None, _) => Some(format!("{name}: was not there")),
            (Some(x), Some(y)) if (x.dtype, &x.shape) != (y.dtype, &y.shape) => {
                Some(format!("{name}: {:?} {:?}, was {:?} {:?}", y.dtype, y.shape, x.dtype, x.shape))
            }
            (Some(x), Some(y)) => (x.blake3 != y.blake3).then(|| format!("{name}: other numbers")),
        };
        names.into_iter().filter_map(difference).collect()
    }
}

impl Base {
    /// Reads every number once; the second list says which tensors have some that are not finite.
    pub(crate) fn hashes(&self) -> Result<(BaseHashes, Vec<String>)> {
        let mut largest_first: Vec<(&String, &TensorInfo)> = self.tensors.iter().collect();
        largest_first.sort_by_key(|(_, info)| std::cmp::Reverse(info.byte_count()));
        let read: Vec<(String, TensorHash, Option<String>)> = largest_first
            .into_par_iter()
            .with_max_len(1)
            .map_init(Vec::new, |slice, (name, info)| {
                let (hash, not_finite) = self.shards[&info.file].hash(&info.stored(), slice)?;
                let problem = not_finite.map(|element| format!("{}: element {element} is not finite", info.key));
                Ok((name.clone(), hash, problem))
            })
            .collect::<Result<_>>()?;
        let mut problems: Vec<String> = read.iter().filter_map(|(.., problem)| problem.clone()).collect();
        problems.sort();
        Ok((BaseHashes { tensors: read.into_iter().map(|(name, hash, _)| (name, hash)).collect() }, problems))
    }

    /// Of one tensor.
    pub(crate) fn hash(&self, name: &str) -> Result<TensorHash> {
        let info = self.info(name)?;
        Ok(self.shards[&info.file].hash(&info.stored(), &mut Vec::new())?.0)
    }
}

#[cfg(test)]
mod tests;
