//! A base model's folder: `config.json` beside `model.safetensors`, or beside shards and their index.
//! It never lets a folder through that lacks a tensor or has one too many, and never reads more than is asked for.

mod files;
mod hashes;

pub use hashes::{BaseHashes, TensorHash};

use crate::shard::{Shard, Stored};
use crate::{Dtype, Error, Module, Result, all_linear, names};
use files::Files;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

pub(crate) use files::{CONFIG_FILE, INDEX_FILE, SINGLE_FILE, read_json};

/// How much of a tensor is held when two are compared.
const COMPARE_BYTES: u64 = 8 << 20;

/// Every tensor of a model by hub name, as a matrix: a vector is one row, a filter `[d, 3, patch, patch]` has its columns
/// flattened.
pub type Shapes = BTreeMap<String, [usize; 2]>;

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

impl TensorInfo {
    /// Bytes of its numbers as stored.
    #[must_use]
    pub fn byte_count(&self) -> u64 {
        self.offsets.end - self.offsets.start
    }

    fn stored(&self) -> Stored {
        Stored { dtype: self.dtype, shape: self.shape.clone(), offsets: self.offsets.clone() }
    }
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
    /// A file that is broken; or, all of them at once, tensors that are missing, unexpected, doubled or of a foreign dtype.
    pub fn open(dir: &Path) -> Result<Self> {
        let (base, mut problems) = Self::look(dir, &files::expected_names(dir)?)?;
        problems.extend(base.without_matrix());
        Error::unless_empty(dir, problems)?;
        Ok(base)
    }

    /// As [`Base::open`], for a model with tensors of exactly these shapes.
    ///
    /// # Errors
    /// As [`Base::open`]; tensors of another shape are in the same list.
    pub fn open_shaped(dir: &Path, shapes: &Shapes) -> Result<Self> {
        let (base, mut problems) = Self::look(dir, &names_of(shapes))?;
        problems.extend(base.misshapen(shapes));
        Error::unless_empty(dir, problems)?;
        Ok(base)
    }

    /// As [`Base::open_shaped`], and reads every number: on all cores, a few MB at a time.
    ///
    /// # Errors
    /// As [`Base::open_shaped`]; tensors with a number that is not finite are in the same list.
    pub fn open_read(dir: &Path, shapes: &Shapes) -> Result<(Self, BaseHashes)> {
        let (base, mut problems) = Self::look(dir, &names_of(shapes))?;
        problems.extend(base.misshapen(shapes));
        let (hashes, not_finite) = base.hashes()?;
        problems.extend(not_finite);
        Error::unless_empty(dir, problems)?;
        Ok((base, hashes))
    }

    /// Compares what there is with a model of these shapes.
    ///
    /// # Errors
    /// All tensors that are missing, unexpected or of another shape.
    pub fn require(&self, shapes: &Shapes) -> Result<()> {
        let names = self.misnamed(&names_of(shapes), &self.tensors.keys().cloned().collect());
        Error::unless_empty(&self.dir, [names, self.misshapen(shapes)].concat())
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
        let info = self.info(name)?;
        self.shards[&info.file].read(info.offsets.clone())
    }

    /// Fills `bytes` with part of a tensor, from its byte `at` on.
    pub(crate) fn read_into(&self, info: &TensorInfo, at: usize, bytes: &mut [u8]) -> Result<()> {
        self.shards[&info.file].read_into(info.offsets.start + at as u64, bytes)
    }

    fn info(&self, name: &str) -> Result<&TensorInfo> {
        let missing = || Error::Tensors { place: self.dir.clone(), problems: vec![format!("missing: {name}")] };
        self.tensors.get(name).ok_or_else(missing)
    }

    /// Opens what there is; what does not fit a model with tensors of these names is in the list.
    fn look(dir: &Path, expected: &BTreeSet<String>) -> Result<(Self, Vec<String>)> {
        let Files { shards, mut problems, lost } = files::open(dir)?;
        let mut base = Self { dir: dir.to_owned(), shards, tensors: BTreeMap::new() };
        let unreadable = base.name_tensors(&mut problems);
        problems.extend(base.untie()?);
        let listed = base.tensors.keys().cloned().chain(unreadable).chain(lost).collect();
        problems.extend(base.misnamed(expected, &listed));
        Ok((base, problems))
    }

    /// Tensors that the model does not have, and those it lacks: all but the `listed` ones.
    fn misnamed(&self, expected: &BTreeSet<String>, listed: &BTreeSet<String>) -> Vec<String> {
        let unexpected = self.tensors.iter().filter(|(name, _)| !expected.contains(*name));
        let missing = expected.difference(listed).map(|name| format!("missing: {name}"));
        unexpected.map(|(_, info)| format!("unexpected: {}", info.key)).chain(missing).collect()
    }

    /// Tensors of another shape than the model's.
    fn misshapen(&self, shapes: &Shapes) -> Vec<String> {
        let shaped = self.tensors.iter().filter_map(|(name, info)| Some((info, *shapes.get(name)?)));
        let wrong = shaped.filter(|(info, shape)| !fits(&info.shape, *shape));
        let one = |(info, [rows, columns]): (&TensorInfo, [usize; 2])| {
            format!("{}: shape {:?}, expected {rows} x {columns}", info.key, info.shape)
        };
        wrong.map(one).collect()
    }

    /// Tensors that can be of no model: empty ones, and linears that are no matrix.
    fn without_matrix(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (name, info) in &self.tensors {
            let is_linear = names::linear(name).is_some();
            if info.shape.contains(&0) || (is_linear && info.shape.len() != 2) {
                let expected = if is_linear { "[out, in]" } else { "at least one number" };
                problems.push(format!("{}: shape {:?}, expected {expected}", info.key, info.shape));
            }
        }
        problems
    }

    /// Gives every tensor of the shards its hub name. What has none, shares one or has numbers that cannot be read goes to
    /// `problems`; returns the names of the latter.
    fn name_tensors(&mut self, problems: &mut Vec<String>) -> BTreeSet<String> {
        let mut unreadable = BTreeSet::new();
        for (file, shard) in &self.shards {
            for (key, problem) in shard.unreadable() {
                problems.push(problem.clone());
                unreadable.extend(names::canonical(key));
            }
            for (key, stored) in shard.tensors() {
                let Some(name) = names::canonical(key) else {
                    problems.push(format!("unexpected: {key}"));
                    continue;
                };
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
        unreadable
    }

    /// Leaves out a stored head; says so if it is not the embedding, as Gemma 3's tied head is.
    fn untie(&mut self) -> Result<Option<String>> {
        let Some(head) = self.tensors.remove(names::TIED_HEAD) else { return Ok(None) };
        let Some(embedding) = self.tensors.get(names::EMBEDDING) else { return Ok(None) }; // It is listed as missing.
        let mut same = (head.dtype, &head.shape) == (embedding.dtype, &embedding.shape);
        let (of_head, of_embedding) = (&self.shards[&head.file], &self.shards[&embedding.file]);
        let mut at = 0;
        while same && at < head.byte_count() {
            let end = head.byte_count().min(at + COMPARE_BYTES);
            let part = |info: &TensorInfo| info.offsets.start + at..info.offsets.start + end;
            same = of_head.read(part(&head))? == of_embedding.read(part(embedding))?;
            at = end;
        }
        let differs = || format!("{}: differs from {}; only a tied head is supported", head.key, embedding.key);
        Ok((!same).then(differs))
    }
}

fn names_of(shapes: &Shapes) -> BTreeSet<String> {
    shapes.keys().cloned().collect()
}

/// Whether a stored shape is that of a matrix of [`Shapes`].
fn fits(shape: &[usize], [rows, columns]: [usize; 2]) -> bool {
    let found_rows = if shape.len() == 1 { 1 } else { shape.first().copied().unwrap_or(0) };
    (found_rows, shape.iter().product()) == (rows, rows * columns)
}

#[cfg(test)]
mod tests;
