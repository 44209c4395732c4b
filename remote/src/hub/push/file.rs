//! A file to be pushed, with the hashes by which the hub knows it. It is read once for both, and never held whole unless
//! it is small.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::super::listing::RemoteFile;
use super::{Error, Result};

/// How much of a file's beginning the hub looks at to tell text from bytes.
const SAMPLE: u64 = 512;
/// A small file is held in memory; the hub calls none small that is larger.
const MAX_SMALL: u64 = 64 << 20;

/// A file of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalFile {
    /// Where it lies.
    pub path: PathBuf,
    /// Its name in the repository.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// As hexadecimal digits: how the hub names a large file.
    pub sha256: String,
    /// Of the git blob: how it names a small one.
    pub git_sha1: String,
}

impl LocalFile {
    /// Reads a file for its hashes.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read_hashes(path: &Path, name: &str) -> Result<Self> {
        let failed = || Error::file(path, "read");
        let mut file = File::open(path).map_err(failed())?;
        let size = file.metadata().map_err(failed())?.len();
        let (mut sha256, mut sha1) = (Sha256::new(), Sha1::new().chain_update(format!("blob {size}\0")));
        let mut buffer = vec![0; 1 << 20];
        loop {
            match file.read(&mut buffer).map_err(failed())? {
                0 => break,
                n => {
                    sha256.update(&buffer[..n]);
                    sha1.update(&buffer[..n]);
                }
            }
        }
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let (sha256, git_sha1) = (hex(&sha256.finalize()), hex(&sha1.finalize()));
        Ok(Self { path: path.to_owned(), name: name.to_owned(), size, sha256, git_sha1 })
    }

    /// Whether a repository has it, byte for byte.
    pub(super) fn is_among(&self, files: &[RemoteFile]) -> bool {
        let same = |file: &RemoteFile| {
            let hash = if file.hash.len() == self.sha256.len() { &self.sha256 } else { &self.git_sha1 };
            file.path == self.name && file.size == self.size && file.hash == *hash
        };
        files.iter().any(same)
    }

    /// Its beginning.
    pub(super) fn sample(&self) -> Result<Vec<u8>> {
        self.read_up_to(SAMPLE)
    }

    /// All of it, if it is small.
    pub(super) fn read(&self) -> Result<Vec<u8>> {
        if self.size > MAX_SMALL {
            return Err(Error::file(&self.path, "read")(io::ErrorKind::FileTooLarge.into()));
        }
        self.read_up_to(self.size)
    }

    fn read_up_to(&self, n: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let read = File::open(&self.path).and_then(|file| file.take(n).read_to_end(&mut bytes));
        read.map(|_| bytes).map_err(Error::file(&self.path, "read"))
    }
}
