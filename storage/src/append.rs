//! A file that grows, such as one of answers: what was said to be appended outlives a power cut.
//! It never changes what stands before its end; what a killed writer left behind the last whole piece is cut by its owner.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::{Result, at, disk, parent};

/// A file that only this process appends to.
#[derive(Debug)]
pub struct Appended {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl Appended {
    /// Opens or begins the file, and reads what it holds.
    ///
    /// # Errors
    /// It cannot be opened or read, or another process appends to it.
    pub fn open(path: &Path) -> Result<(Self, Vec<u8>)> {
        let is_new = !path.exists();
        let open = OpenOptions::new().create(true).read(true).append(true).open(path);
        let mut file = at(path, "open", open)?;
        // Where a file system has no locks, there is nothing to be locked out by.
        if matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
            return at(path, "locking", Err(io::Error::new(io::ErrorKind::ResourceBusy, "another process writes it")));
        }
        if is_new {
            at(parent(path), "fsync", disk::sync(parent(path)))?;
        }
        let mut held = Vec::new();
        at(path, "read", file.read_to_end(&mut held))?;
        Ok((Self { path: path.to_owned(), file, bytes: held.len() as u64 }, held))
    }

    /// Cuts what stands behind the first `bytes`.
    ///
    /// # Errors
    /// The file keeps its length then.
    pub fn cut(&mut self, bytes: u64) -> Result<()> {
        if bytes < self.bytes {
            at(&self.path, "cut", self.file.set_len(bytes))?;
            self.bytes = bytes;
        }
        Ok(())
    }

    /// Appends and returns when the bytes are on the disk.
    ///
    /// # Errors
    /// The file then ends where it did, or holds a torn end if even that fails.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let written = disk::write(&mut self.file, &self.path, bytes);
        let synced = written.and_then(|()| disk::sync_file(&self.file, &self.path));
        if synced.is_err() {
            let _ = self.file.set_len(self.bytes); // The error below is the one to report.
        }
        at(&self.path, "append", synced)?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }
}
