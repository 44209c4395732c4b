//! What the result will look like, before a byte of it is written: which tensor in which file, headers, the index.
//! It never depends on a number of a tensor.

use crate::base::SINGLE_FILE;
use crate::{Dtype, Error, Result};
use safetensors::tensor::Metadata;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// All files of weights, in order.
pub(super) struct Plan {
    pub files: Vec<PlannedFile>,
}

pub(super) struct PlannedFile {
    pub name: String,
    /// The header with its length before it.
    pub header: Vec<u8>,
    /// In the order of the file.
    pub tensors: Vec<PlannedTensor>,
    /// Bytes of the tensors.
    pub bytes: u64,
}

pub(super) struct PlannedTensor {
    /// Hub name.
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// Where its bytes begin in the file.
    pub at: u64,
}

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

/// Dtype and shape of each tensor of a result, by hub name.
pub(crate) type Headers = BTreeMap<String, (Dtype, Vec<usize>)>;

impl Plan {
    /// Of files of at most `max_shard_bytes` each in `dir`, which is for messages.
    pub fn new(headers: Headers, max_shard_bytes: u64, dir: &Path) -> Result<Self> {
        let sizes = headers.iter().map(|(name, (dtype, shape))| (name.clone(), byte_count(*dtype, shape)));
        let shards = shards(sizes, max_shard_bytes);
        let n_shards = shards.len();
        let file = |(i, names): (usize, Vec<String>)| {
            let name = match n_shards {
                1 => SINGLE_FILE.to_owned(),
                _ => format!("model-{:05}-of-{n_shards:05}.safetensors", i + 1),
            };
            let mut tensors: Vec<PlannedTensor> = names
                .into_iter()
                .map(|name| (headers[&name].clone(), name))
                .map(|((dtype, shape), name)| PlannedTensor { name, dtype, shape, at: 0 })
                .collect();
            // The order of the safetensors library: the wider dtype first, for alignment.
            tensors.sort_by(|x, y| y.dtype.size().cmp(&x.dtype.size()).then_with(|| x.name.cmp(&y.name)));
            let header = header(&tensors).map_err(|reason| Error::broken(&dir.join(&name), reason))?;
            let mut end = header.len() as u64;
            for tensor in &mut tensors {
                tensor.at = end;
                end += tensor.bytes();
            }
            Ok(PlannedFile { name, bytes: end - header.len() as u64, header, tensors })
        };
        Ok(Self { files: shards.into_iter().enumerate().map(file).collect::<Result<_>>()? })
    }

    /// Bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// The index of several files; `None` where there is one.
    pub fn index(&self) -> Option<Vec<u8>> {
        if self.files.len() < 2 {
            return None;
        }
        let tensors = || self.files.iter().flat_map(|file| file.tensors.iter().map(move |t| (t, &file.name)));
        let weight_map: BTreeMap<&String, &String> = tensors().map(|(tensor, file)| (&tensor.name, file)).collect();
        let numbers: usize = tensors().map(|(tensor, _)| tensor.shape.iter().product::<usize>()).sum();
        let metadata = serde_json::json!({ "total_parameters": numbers, "total_size": self.bytes() });
        let index = serde_json::json!({ "metadata": metadata, "weight_map": weight_map });
        Some(format!("{index:#}\n").into_bytes())
    }
}

impl PlannedTensor {
    pub fn bytes(&self) -> u64 {
        byte_count(self.dtype, &self.shape)
    }
}

fn byte_count(dtype: Dtype, shape: &[usize]) -> u64 {
    (shape.iter().product::<usize>() * dtype.size()) as u64
}

/// The header with its length before it, padded to 8 bytes.
fn header(tensors: &[PlannedTensor]) -> std::result::Result<Vec<u8>, String> {
    let mut end = 0;
    let mut infos = Vec::new();
    for tensor in tensors {
        let start = end;
        end += tensor.bytes() as usize;
        let (dtype, shape) = (tensor.dtype.into(), tensor.shape.clone());
        infos.push((tensor.name.clone(), safetensors::tensor::TensorInfo { dtype, shape, data_offsets: (start, end) }));
    }
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let metadata = Metadata::new(Some(format), infos).map_err(|e| e.to_string())?;
    let mut json = serde_json::to_vec(&metadata).map_err(|e| e.to_string())?;
    json.resize(json.len().next_multiple_of(8), b' ');
    Ok([&(json.len() as u64).to_le_bytes(), &json[..]].concat())
}
