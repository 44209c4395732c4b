//! Where bytes are: files opened by path and read by range, on a disk or wherever a [`Store`] finds them.
//! It never reads more than it is asked for, and knows nothing of what the bytes mean.

use std::fmt::Debug;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::reader::{ChunkReader, Length};

use crate::Error;

/// Opens files by path. A path of an object store is its URL.
pub trait Store: Debug + Send + Sync {
    /// Bytes of a file, without opening it.
    ///
    /// # Errors
    /// What the disk or the network says.
    fn size(&self, path: &Path) -> io::Result<u64>;

    /// A file to be read by range.
    ///
    /// # Errors
    /// What the disk or the network says.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn Ranges>>;

    /// Told that bytes of a file are not those that were written: whatever is kept of it is dropped. Whether reading it
    /// again can give others.
    fn forget(&self, path: &Path) -> bool {
        let _ = path;
        false
    }
}

/// A store that takes files, too: what `prepare` writes to.
pub trait Shelf: Store {
    /// Whether no file lies in a folder.
    ///
    /// # Errors
    /// What the network says.
    fn is_empty(&self, folder: &Path) -> io::Result<bool>;

    /// Makes a file of some bytes; it is seen whole or not at all.
    ///
    /// # Errors
    /// What the network says.
    fn put(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;

    /// Makes a file of one of this machine, as [`Shelf::put`]; when it returns, the store has all of its bytes.
    ///
    /// # Errors
    /// What the disk or the network says.
    fn put_file(&self, path: &Path, file: &Path) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// What the network says.
    fn remove(&self, path: &Path) -> io::Result<()>;
}

/// Inside the [`io::Error`] of a store that does not answer or refuses: that says nothing about the file.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unreachable(pub String);

/// What a failed access to `file` comes to; `otherwise` where the store answered.
pub(crate) fn failed(file: &Path, error: &io::Error, otherwise: impl FnOnce(String) -> Error) -> Error {
    match unreachable(error) {
        Some(Unreachable(reason)) => Error::Store { file: file.to_owned(), reason: reason.clone() },
        None => otherwise(error.to_string()),
    }
}

/// Whether a file is there.
///
/// # Errors
/// The store does not answer.
pub(crate) fn exists(store: &dyn Store, file: &Path) -> Result<bool, Error> {
    match store.size(file) {
        Ok(_) => Ok(true),
        Err(error) => match unreachable(&error) {
            Some(Unreachable(reason)) => Err(Error::Store { file: file.to_owned(), reason: reason.clone() }),
            None => Ok(false),
        },
    }
}

pub(crate) fn unreachable(error: &io::Error) -> Option<&Unreachable> {
    error.get_ref()?.downcast_ref()
}

/// Whether a path is the address of something in a store.
#[must_use]
pub fn is_url(path: &Path) -> bool {
    path.to_str().and_then(|path| path.split_once("://")).is_some_and(|(scheme, _)| !scheme.contains('/'))
}

/// An open file. Reads on several threads do not disturb each other.
pub trait Ranges: Debug + Send + Sync {
    /// Its bytes.
    fn size(&self) -> u64;

    /// Exactly the bytes `offset..offset + length`.
    ///
    /// # Errors
    /// What the disk or the network says; a file that is shorter.
    fn read(&self, offset: u64, length: usize) -> io::Result<Bytes>;
}

/// The file systems of this machine.
#[derive(Debug, Clone, Copy)]
pub struct Disk;

impl Store for Disk {
    fn size(&self, path: &Path) -> io::Result<u64> {
        Ok(fs::metadata(path)?.len())
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn Ranges>> {
        let file = File::open(path)?;
        let size = file.metadata()?.len();
        Ok(Arc::new(OnDisk { file, size }))
    }
}

#[derive(Debug)]
struct OnDisk {
    file: File,
    size: u64,
}

impl Ranges for OnDisk {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, offset: u64, length: usize) -> io::Result<Bytes> {
        within(self.size, offset, length)?;
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes.into())
    }
}

/// Refuses a range that a file of `size` bytes does not have, before anything is allocated for it.
fn within(size: u64, offset: u64, length: usize) -> io::Result<()> {
    match offset.checked_add(length as u64) {
        Some(end) if end <= size => Ok(()),
        _ => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file ends before the bytes that were asked for")),
    }
}

/// An open file as the parquet reader takes it, with the end of the file in memory where that was read before.
#[derive(Debug, Clone)]
pub(crate) struct Chunks {
    file: Arc<dyn Ranges>,
    tail: Bytes,
}

impl Chunks {
    pub(crate) fn new(file: Arc<dyn Ranges>) -> Self {
        Self { file, tail: Bytes::new() }
    }

    /// `tail`: the last bytes of the file.
    pub(crate) fn with_tail(file: Arc<dyn Ranges>, tail: Bytes) -> Self {
        Self { file, tail }
    }

    fn read(&self, offset: u64, length: usize) -> io::Result<Bytes> {
        let size = self.file.size();
        within(size, offset, length)?;
        match offset.checked_sub(size - self.tail.len() as u64) {
            Some(at) => Ok(self.tail.slice(at as usize..at as usize + length)),
            None => self.file.read(offset, length),
        }
    }
}

impl Length for Chunks {
    fn len(&self) -> u64 {
        self.file.size()
    }
}

impl ChunkReader for Chunks {
    type T = BufReader<From>;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        Ok(BufReader::new(From { chunks: self.clone(), at: start }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        self.read(start, length).map_err(|e| ParquetError::External(e.into()))
    }
}

/// Reads on from a place.
#[derive(Debug)]
pub(crate) struct From {
    chunks: Chunks,
    at: u64,
}

impl Read for From {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let left = self.chunks.len().saturating_sub(self.at);
        let n = out.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        out[..n].copy_from_slice(&self.chunks.read(self.at, n)?);
        self.at += n as u64;
        Ok(n)
    }
}
