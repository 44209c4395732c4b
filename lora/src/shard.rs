//! One safetensors file, read by position: its header checked in full, its tensors on demand.
//! It never maps the file and never allocates more than the file holds.

use crate::base::TensorHash;
use crate::{Dtype, Error, Result};
use safetensors::tensor::Metadata;
use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The largest header that any safetensors reader accepts.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// What is held of a tensor that is only hashed.
const SLICE_BYTES: usize = 4 << 20;

/// An open file whose header holds: no gap, no overlap, sizes that match shape and dtype, not a byte too many or too few.
#[derive(Debug)]
pub(crate) struct Shard {
    file: File,
    path: PathBuf,
    tensors: BTreeMap<String, Stored>,
    /// Tensors of a dtype that is not supported, and what to say of them.
    unreadable: BTreeMap<String, String>,
}

/// One tensor as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stored {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// Where its bytes are in the file.
    pub offsets: Range<u64>,
}

impl Shard {
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path, "open"))?;
        let file_bytes = file.metadata().map_err(Error::io(path, "stat"))?.len();
        let read = |range| read(&file, path, range);
        if file_bytes < 8 {
            return Err(Error::broken(path, format!("{file_bytes} bytes are no safetensors file")));
        }
        let length: [u8; 8] = read(0..8)?.try_into().expect("eight bytes were read");
        let header_bytes = u64::from_le_bytes(length);
        if header_bytes > MAX_HEADER_BYTES.min(file_bytes - 8) {
            return Err(Error::broken(path, format!("a header of {header_bytes} bytes in a file of {file_bytes}")));
        }
        let data = 8 + header_bytes;
        let header: Metadata = serde_json::from_slice(&read(8..data)?)
            .map_err(|e| Error::broken(path, format!("the safetensors header does not hold: {e}")))?;
        let expected_bytes = data + header.data_len() as u64;
        if expected_bytes != file_bytes {
            return Err(Error::broken(path, format!("{file_bytes} bytes, but its header says {expected_bytes}")));
        }
        let (tensors, unreadable) = tensors(&header, data);
        Ok(Self { file, path: path.to_owned(), tensors, unreadable })
    }

    pub fn tensors(&self) -> &BTreeMap<String, Stored> {
        &self.tensors
    }

    /// By key, the tensors that [`Shard::tensors`] leaves out, each with what is wrong with it.
    pub fn unreadable(&self) -> &BTreeMap<String, String> {
        &self.unreadable
    }

    pub fn holds(&self, key: &str) -> bool {
        self.tensors.contains_key(key) || self.unreadable.contains_key(key)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of the file; `range` lies within a tensor's offsets.
    pub fn read(&self, range: Range<u64>) -> Result<Vec<u8>> {
        read(&self.file, &self.path, range)
    }

    /// The hash of a tensor, and its first number that is not finite; `slice` is memory to read into.
    pub fn hash(&self, stored: &Stored, slice: &mut Vec<u8>) -> Result<(TensorHash, Option<usize>)> {
        let Stored { dtype, shape, offsets } = stored;
        let mut hasher = blake3::Hasher::new();
        let mut not_finite = None;
        slice.resize(SLICE_BYTES, 0);
        for at in offsets.clone().step_by(SLICE_BYTES) {
            let bytes = &mut slice[..SLICE_BYTES.min((offsets.end - at) as usize)];
            self.read_into(at, bytes)?;
            hasher.update(bytes);
            let before = (at - offsets.start) as usize / dtype.size();
            not_finite = not_finite.or_else(|| dtype.first_not_finite(bytes).map(|element| before + element));
        }
        let blake3 = hasher.finalize().to_hex().to_string();
        Ok((TensorHash { dtype: *dtype, shape: shape.clone(), blake3 }, not_finite))
    }

    /// Fills `bytes` from a place in the file on, within a tensor's offsets.
    pub fn read_into(&self, at: u64, bytes: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(bytes, at).map_err(Error::io(&self.path, "read"))
    }
}

fn tensors(header: &Metadata, data: u64) -> (BTreeMap<String, Stored>, BTreeMap<String, String>) {
    let (mut tensors, mut unreadable) = (BTreeMap::new(), BTreeMap::new());
    for (name, info) in header.tensors() {
        let (start, end) = info.data_offsets;
        match Dtype::try_from(info.dtype) {
            Ok(dtype) => {
                let offsets = data + start as u64..data + end as u64;
                tensors.insert(name, Stored { dtype, shape: info.shape.clone(), offsets });
            }
            Err(found) => {
                let problem = format!("{name}: dtype {found:?}, expected F32, BF16 or F16");
                unreadable.insert(name, problem);
            }
        }
    }
    (tensors, unreadable)
}

fn read(file: &File, path: &Path, range: Range<u64>) -> Result<Vec<u8>> {
    let mut bytes = vec![0; (range.end - range.start) as usize];
    file.read_exact_at(&mut bytes, range.start).map_err(Error::io(path, "read"))?;
    Ok(bytes)
}
