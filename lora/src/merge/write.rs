//! The merged weights, tensor by tensor: read, merged and written on all cores, each thread a slice at a time; then read again.
//! It never holds a whole tensor, and never says that a file is finished before its bytes are on the disk and as computed.

use super::delta::Delta;
use super::plan::{PlannedFile, PlannedTensor};
use super::{Change, MergeOptions};
use crate::base::{Base, BaseHashes, TensorHash, TensorInfo};
use crate::shard::Shard;
use crate::{Adapter, Error, Result, names};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// How many numbers of a tensor are held at once (or one row, if that is more): what is done to them stays in a core's cache.
const SLICE_NUMBERS: usize = 1 << 17;

/// What is merged, and how.
pub(super) struct Merge<'a> {
    pub base: &'a Base,
    pub adapter: &'a Adapter,
    /// Hub names of the modules that have an adapter.
    pub adapted: BTreeSet<&'a str>,
    /// What the adapter was trained on, if it says so.
    pub trained_on: Option<&'a BaseHashes>,
    pub options: MergeOptions,
}

/// What a tensor was and what it became.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Written {
    pub base: TensorHash,
    pub merged: TensorHash,
    /// Only if an adapter was added.
    pub change: Option<Change>,
}

/// The tensors of one file by hub name.
pub(super) type WrittenFile = BTreeMap<String, Written>;

/// Memory of one thread.
#[derive(Default)]
struct Buffers {
    bytes: Vec<u8>,
    numbers: Vec<f32>,
    product: Vec<f32>,
}

impl Merge<'_> {
    /// Writes one file into `dir` and reads it again.
    pub fn write_file(&self, dir: &Path, planned: &PlannedFile) -> Result<WrittenFile> {
        let path = dir.join(&planned.name);
        let out = File::create(&path).map_err(Error::io(&path, "create"))?;
        out.write_all_at(&planned.header, 0).map_err(Error::io(&path, "write"))?;
        let tensors: Vec<(String, Written)> = planned
            .tensors
            .par_iter()
            .with_max_len(1)
            .map_init(Buffers::default, |buffers, tensor| {
                let written = self.write_tensor(tensor, &out, &path, buffers)?;
                Ok((tensor.name.clone(), written))
            })
            .collect::<Result<_>>()?;
        out.sync_all().map_err(Error::io(&path, "fsync"))?;
        let tensors = tensors.into_iter().collect();
        require_written(&path, &tensors)?;
        Ok(tensors)
    }

    /// Copies, converts or merges one tensor, some rows at a time.
    fn write_tensor(&self, planned: &PlannedTensor, out: &File, path: &Path, buffers: &mut Buffers) -> Result<Written> {
        let PlannedTensor { name, dtype, .. } = planned;
        let info = &self.base.tensors()[name];
        let module = names::linear(name).filter(|module| self.adapted.contains(module));
        let delta = module.map(|module| Delta::read(self.adapter, module, info.shape[1])).transpose()?;
        let mut change = Change::default();
        let mut hashers = [blake3::Hasher::new(), blake3::Hasher::new()];
        let mut at = planned.at;
        for rows in slices(info) {
            buffers.bytes.resize(rows.len() * info.dtype.size(), 0);
            self.base.read_into(info, rows.start * info.dtype.size(), &mut buffers.bytes)?;
            hashers[0].update(&buffers.bytes);
            if delta.is_some() || *dtype != info.dtype {
                buffers.numbers.resize(rows.len(), 0.0);
                let numbers = &mut buffers.numbers[..];
                info.dtype.decode_into(&buffers.bytes, numbers);
                if let Some(delta) = &delta {
                    let first_row = rows.start / info.shape[1];
                    change.add(delta.add_to(first_row, numbers, &mut buffers.product, *dtype, self.options.rounding));
                }
                buffers.bytes.resize(rows.len() * dtype.size(), 0);
                dtype.encode_into(numbers, &mut buffers.bytes);
            }
            if let Some(element) = dtype.first_not_finite(&buffers.bytes) {
                let (file, key) = (self.base.dir().to_owned(), format!("{name} as {}", dtype.torch_name()));
                return Err(Error::NotFinite { file, key, element: rows.start + element });
            }
            hashers[1].update(&buffers.bytes);
            out.write_all_at(&buffers.bytes, at).map_err(Error::io(path, "write"))?;
            at += buffers.bytes.len() as u64;
        }
        let [base, merged] = hashers.map(|hasher| hasher.finalize().to_hex().to_string());
        let base = TensorHash { dtype: info.dtype, shape: info.shape.clone(), blake3: base };
        self.require_trained_on(name, &base)?;
        let merged = TensorHash { dtype: *dtype, shape: info.shape.clone(), blake3: merged };
        Ok(Written { base, merged, change: delta.map(|_| change) })
    }

    /// Refuses numbers that the adapter was not trained on, as soon as they are met.
    fn require_trained_on(&self, name: &str, found: &TensorHash) -> Result<()> {
        let expected = self.trained_on.and_then(|hashes| hashes.tensors().get(name));
        if expected.is_none_or(|expected| expected == found) {
            return Ok(());
        }
        let (base, adapter) = (self.base.dir().to_owned(), self.adapter.dir().to_owned());
        let differences = vec![format!("{name}: other numbers")];
        Err(Error::OtherBase { base, adapter, hashes: found.blake3.clone(), differences })
    }

    /// Whether a file that an earlier attempt has finished is on the disk, and would become the same again.
    pub fn is_finished(&self, dir: &Path, planned: &PlannedFile, written: &WrittenFile) -> Result<bool> {
        if require_written(&dir.join(&planned.name), written).is_err() {
            return Ok(false);
        }
        let is_same = |name: &String, written: &Written| Ok(self.base.hash(name)? == written.base);
        written.par_iter().map(|(name, written)| is_same(name, written)).try_reduce(|| true, |x, y| Ok(x && y))
    }
}

/// Reads a file from the disk's side: its header, and every tensor, must be what was written.
fn require_written(path: &Path, tensors: &WrittenFile) -> Result<()> {
    let shard = Shard::open(path)?;
    let lies = |what: &str| Error::broken(path, format!("{what} is not read back as it was written"));
    if !shard.tensors().keys().eq(tensors.keys()) {
        return Err(lies("its list of tensors"));
    }
    shard.tensors().par_iter().try_for_each_init(Vec::new, |slice, (name, stored)| {
        let (found, _) = shard.hash(stored, slice)?;
        if found == tensors[name].merged { Ok(()) } else { Err(lies(name)) }
    })
}

/// A tensor's numbers, some rows at a time.
fn slices(info: &TensorInfo) -> impl Iterator<Item = Range<usize>> {
    let width = info.shape.last().copied().unwrap_or(1).max(1);
    let n_numbers: usize = info.shape.iter().product();
    let at_once = (SLICE_NUMBERS / width).max(1) * width;
    (0..n_numbers).step_by(at_once).map(move |start| start..n_numbers.min(start + at_once))
}
