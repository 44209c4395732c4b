//! The merged weights as files: which tensor in which, their headers, the index; written slice by slice.
//! It never holds a whole tensor.

use super::delta::Delta;
use super::{Change, MergeOptions, MergeReport};
use crate::base::{Base, INDEX_FILE, SINGLE_FILE, TensorInfo};
use crate::{Adapter, Dtype, Error, Result, names};
use safetensors::tensor::Metadata;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::Write;
use std::path::Path;

/// How many numbers of a tensor are held at once (or one row, if that is more).
const SLICE_NUMBERS: usize = 1 << 20;

/// Splits tensors, given as (name, bytes) in their order, over files of at most `max_bytes`, as transformers' `save_pretrained`
/// does (`split_state_dict_into_shards_factory` of huggingface_hub): a tensor that is larger has a file of its own.
pub fn shards(tensors: impl IntoIterator<Item = (String, u64)>, max_bytes: u64) -> Vec<Vec<String>> {
    let mut shards = Vec::new();
    let (mut current, mut current_bytes) = (Vec::new(), 0);
    for (name, bytes) in tensors {
        if bytes > max_bytes {
            shards.push(vec![name]);
            continue;
        }
        if current_bytes + bytes > max_bytes {
            shards.push(std::mem::take(&mut current));
            current_bytes = 0;
        }
        current.push(name);
        current_bytes += bytes;
    }
    if !current.is_empty() {
        shards.push(current);
    }
    shards
}

/// Writes `model.safetensors`, or several files and their index, into `dir`.
pub(super) fn write(base: &Base, adapter: &Adapter, dir: &Path, options: MergeOptions) -> Result<MergeReport> {
    let merge = Merge { base, adapter, adapted: adapter.modules().collect(), options };
    let sizes = base.tensors().iter().map(|(name, info)| (name.clone(), merge.byte_count(info)));
    let shards = shards(sizes, options.max_shard_bytes);
    let n_shards = shards.len();
    let mut report = MergeReport { tensors: base.tensors().len(), bytes: 0, files: n_shards, changed: BTreeMap::new() };
    let mut weight_map = BTreeMap::new();
    for (i, names) in (1..).zip(shards) {
        let file_name = match n_shards {
            1 => SINGLE_FILE.to_owned(),
            _ => format!("model-{i:05}-of-{n_shards:05}.safetensors"),
        };
        report.bytes += merge.write_shard(&dir.join(&file_name), &names, &mut report.changed)?;
        weight_map.extend(names.into_iter().map(|name| (name, file_name.clone())));
    }
    if n_shards > 1 {
        let numbers: usize = base.tensors().values().map(|info| info.shape.iter().product::<usize>()).sum();
        let metadata = serde_json::json!({ "total_parameters": numbers, "total_size": report.bytes });
        let index = serde_json::json!({ "metadata": metadata, "weight_map": weight_map });
        let file = dir.join(INDEX_FILE);
        let mut out = File::create(&file).map_err(Error::io(&file, "create"))?;
        writeln!(out, "{index:#}").map_err(Error::io(&file, "write"))?;
    }
    Ok(report)
}

/// What is merged, and how.
struct Merge<'a> {
    base: &'a Base,
    adapter: &'a Adapter,
    /// Hub names of the modules that have an adapter.
    adapted: BTreeSet<&'a str>,
    options: MergeOptions,
}

impl Merge<'_> {
    fn dtype(&self, info: &TensorInfo) -> Dtype {
        self.options.dtype.unwrap_or(info.dtype)
    }

    fn byte_count(&self, info: &TensorInfo) -> u64 {
        (info.shape.iter().product::<usize>() * self.dtype(info).size()) as u64
    }

    /// Writes one file; returns the bytes of its tensors.
    fn write_shard(&self, file: &Path, names: &[String], changed: &mut BTreeMap<String, Change>) -> Result<u64> {
        let mut tensors: Vec<(&String, &TensorInfo)> =
            names.iter().map(|name| (name, &self.base.tensors()[name])).collect();
        // The order of the safetensors library: the wider dtype first, for alignment.
        tensors.sort_by_key(|(name, info)| (std::cmp::Reverse(self.dtype(info).size()), *name));
        let (header, bytes) = self.header(file, &tensors)?;
        let mut out = File::create(file).map_err(Error::io(file, "create"))?;
        out.write_all(&header).map_err(Error::io(file, "write"))?;
        for (name, info) in tensors {
            let module = names::linear(name).filter(|module| self.adapted.contains(module));
            let delta = module.map(|module| Delta::read(self.adapter, module, info.shape[1])).transpose()?;
            let change = self.write_tensor(name, info, delta.as_ref(), file, &mut out)?;
            if delta.is_some() {
                changed.insert(name.clone(), change);
            }
        }
        Ok(bytes)
    }

    /// The header with its length before it, padded to 8 bytes; and the bytes of the tensors that follow.
    fn header(&self, file: &Path, tensors: &[(&String, &TensorInfo)]) -> Result<(Vec<u8>, u64)> {
        let mut end = 0;
        let mut infos = Vec::new();
        for (name, info) in tensors {
            let start = end;
            end += self.byte_count(info) as usize;
            let (dtype, shape) = (self.dtype(info).into(), info.shape.clone());
            infos.push(((*name).clone(), safetensors::tensor::TensorInfo { dtype, shape, data_offsets: (start, end) }));
        }
        let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        let metadata = Metadata::new(Some(format), infos).map_err(|e| Error::broken(file, e))?;
        let mut json = serde_json::to_vec(&metadata).map_err(|e| Error::broken(file, e))?;
        json.resize(json.len().next_multiple_of(8), b' ');
        let header = [&(json.len() as u64).to_le_bytes(), &json[..]].concat();
        Ok((header, end as u64))
    }

    /// Copies, converts or merges one tensor, some rows at a time.
    fn write_tensor(
        &self,
        name: &str,
        info: &TensorInfo,
        delta: Option<&Delta>,
        file: &Path,
        out: &mut File,
    ) -> Result<Change> {
        let mut change = Change::default();
        let dtype = self.dtype(info);
        let width = info.shape.last().copied().unwrap_or(1).max(1);
        let n_rows = info.shape.iter().product::<usize>() / width;
        let rows_at_once = (SLICE_NUMBERS / width).max(1);
        for row in (0..n_rows).step_by(rows_at_once) {
            let numbers = row * width..n_rows.min(row + rows_at_once) * width;
            let size = info.dtype.size();
            let mut bytes = self.base.read_range(name, (numbers.start * size) as u64..(numbers.end * size) as u64)?;
            if delta.is_some() || dtype != info.dtype {
                let mut weights = info.dtype.decode(&bytes);
                match delta {
                    Some(delta) => change.add(delta.add_to(row, &mut weights, dtype, self.options.rounding)),
                    None => dtype.round(&mut weights),
                }
                if let Some(at) = weights.iter().position(|w| !w.is_finite()) {
                    let (file, key) = (self.base.dir().to_owned(), format!("{name} as {}", dtype.torch_name()));
                    return Err(Error::NotFinite { file, key, element: numbers.start + at });
                }
                bytes = dtype.encode(&weights);
            }
            out.write_all(&bytes).map_err(Error::io(file, "write"))?;
        }
        Ok(change)
    }
}
