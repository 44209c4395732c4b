//! The only door through which files are published: what can be seen under its final name is complete and on the disk.
//! It never writes in place, never deletes the old before the new is durable, and knows nothing of what the files mean.

mod append;
mod disk;
#[cfg(any(test, feature = "faults"))]
pub mod faults;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

pub use append::Appended;

/// A failed attempt to publish; the old file or folder is still what it was.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {action} failed: {source}; {next}", path = path.display(), next = next(source))]
pub struct Error {
    path: PathBuf,
    action: &'static str,
    source: io::Error,
}

/// What is true after it, and what to do.
fn next(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::AlreadyExists => "what is there stays; remove it or choose another name",
        io::ErrorKind::NotFound => "nothing can be made there; choose another folder",
        io::ErrorKind::PermissionDenied => "the previous content is untouched; choose a place that you may write to",
        _ => "the previous content is untouched",
    }
}

type Result<T> = std::result::Result<T, Error>;

fn at<T>(path: &Path, action: &'static str, result: io::Result<T>) -> Result<T> {
    result.map_err(|source| Error { path: path.to_owned(), action, source })
}

/// Publishes one file: written beside its place, synced, renamed, and the folder synced.
///
/// # Errors
/// The failed action and its path; `dst` then has its previous content or, where only the last sync failed, the new one.
pub fn publish_file(dst: &Path, bytes: &[u8]) -> Result<()> {
    publish(dst, || write(&temporary(dst), bytes))
}

/// As [`publish_file`], for this user's eyes only from its first byte on.
///
/// # Errors
/// The failed action and its path; `dst` is then as [`publish_file`] leaves it.
pub fn publish_private_file(dst: &Path, bytes: &[u8]) -> Result<()> {
    let tmp = temporary(dst);
    publish(dst, || {
        let _ = disk::remove_file(&tmp); // The rest of a killed attempt; the new file must be nobody else's.
        let mut file = at(&tmp, "create", disk::create_private(&tmp))?;
        fill(&mut file, &tmp, bytes)
    })
}

fn publish(dst: &Path, write: impl FnOnce() -> Result<()>) -> Result<()> {
    let tmp = temporary(dst);
    let result = write().and_then(|()| rename(&tmp, dst));
    if result.is_err() {
        let _ = disk::remove_file(&tmp); // The attempt is abandoned whole; its rest is of no use.
    }
    result
}

/// Publishes a file that was written piece by piece as `tmp` in the folder of `dst`: synced, renamed, and the folder synced.
///
/// # Errors
/// The failed action and its path; `tmp` is still there then, and `dst` has its previous content.
pub fn publish_written(tmp: &Path, dst: &Path) -> Result<()> {
    at(tmp, "fsync", disk::sync(tmp))?;
    rename(tmp, dst)
}

/// A file that is written under a temporary name, however large it is, and becomes visible when it is whole.
/// Dropped without [`StagedFile::publish`], it is removed.
#[derive(Debug)]
pub struct StagedFile {
    file: File,
    tmp: PathBuf,
    dst: PathBuf,
    published: bool,
}

impl StagedFile {
    /// Begins the file `dst` beside its place; a rest of an earlier attempt of the same name is overwritten.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn new(dst: &Path) -> Result<Self> {
        let tmp = temporary(dst);
        let file = at(&tmp, "create", disk::create(&tmp))?;
        Ok(Self { file, tmp, dst: dst.to_owned(), published: false })
    }

    /// Makes the file visible under its final name: its bytes synced, then the name.
    ///
    /// # Errors
    /// The failed action; `dst` then still has its previous content, and the temporary file is removed.
    pub fn publish(mut self) -> Result<()> {
        at(&self.tmp, "fsync", disk::sync_file(&self.file, &self.tmp))?;
        rename(&self.tmp, &self.dst)?;
        self.published = true;
        Ok(())
    }
}

impl Write for StagedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        disk::write(&mut self.file, &self.tmp, bytes).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        if !self.published {
            let _ = disk::remove_file(&self.tmp); // Nothing may be left that looks like a result.
        }
    }
}

/// A folder that is filled under a temporary name and becomes visible all at once.
/// Dropped without [`StagedDir::publish`], it is removed.
#[derive(Debug)]
pub struct StagedDir {
    tmp: PathBuf,
    dst: PathBuf,
    published: bool,
    /// Held while the folder is filled, where another process could want to go on with it.
    _lock: Option<File>,
}

impl StagedDir {
    /// Begins the folder `dst` beside its place; a rest of an earlier attempt of the same name is removed.
    ///
    /// # Errors
    /// `dst` exists already, or the folder cannot be made.
    pub fn new(dst: &Path) -> Result<Self> {
        let tmp = temporary(dst);
        if !dst.exists() && tmp.exists() {
            at(&tmp, "remove", disk::remove(&tmp))?;
        }
        Self::begin(&tmp, dst)?;
        Ok(Self { tmp, dst: dst.to_owned(), published: false, _lock: None })
    }

    /// As [`StagedDir::new`], but what a killed attempt has left is kept: the caller must look at each file before it
    /// believes in it. No other process can do the same meanwhile.
    ///
    /// # Errors
    /// `dst` exists already, somebody else is filling it, or the folder cannot be made.
    pub fn resume(dst: &Path) -> Result<Self> {
        let tmp = temporary(dst);
        if dst.exists() || !tmp.is_dir() {
            Self::begin(&tmp, dst)?;
        }
        let lock = at(&tmp, "open", File::open(&tmp))?;
        at(&tmp, "lock", lock.try_lock().map_err(io::Error::from))?;
        Ok(Self { tmp, dst: dst.to_owned(), published: false, _lock: Some(lock) })
    }

    fn begin(tmp: &Path, dst: &Path) -> Result<()> {
        if dst.exists() {
            return at(dst, "create", Err(io::Error::from(io::ErrorKind::AlreadyExists)));
        }
        create_dir(parent(dst))?;
        at(tmp, "create", disk::create_dir(tmp))
    }

    /// Removes all that is in the folder.
    ///
    /// # Errors
    /// The failed action and its path.
    pub fn clear(&self) -> Result<()> {
        for entry in at(&self.tmp, "list", fs::read_dir(&self.tmp))? {
            let path = at(&self.tmp, "list", entry)?.path();
            at(&path, "remove", disk::remove(&path))?;
        }
        Ok(())
    }

    /// Removes one file of the folder.
    ///
    /// # Errors
    /// The failed action and its path.
    pub fn remove(&self, name: &str) -> Result<()> {
        let path = self.tmp.join(name);
        at(&path, "remove", disk::remove_file(&path))
    }

    /// Where files of this folder are written until it is published.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.tmp
    }

    /// Writes one file of the folder and syncs its bytes; returns their blake3 hash.
    ///
    /// # Errors
    /// The failed action; the whole attempt should then be dropped: the bytes of a file whose sync failed are lost, and
    /// a second sync that succeeds says nothing of them.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<blake3::Hash> {
        write(&self.tmp.join(name), bytes)?;
        Ok(blake3::hash(bytes))
    }

    /// Makes the folder visible under its final name: every file synced, then the folder, then the name.
    ///
    /// # Errors
    /// The failed action; nothing is visible then, and the temporary folder is removed.
    pub fn publish(mut self) -> Result<()> {
        for entry in at(&self.tmp, "list", fs::read_dir(&self.tmp))? {
            let path = at(&self.tmp, "list", entry)?.path();
            at(&path, "fsync", disk::sync(&path))?;
        }
        at(&self.tmp, "fsync", disk::sync(&self.tmp))?;
        let named = rename(&self.tmp, &self.dst);
        if named.is_err() && self.dst.exists() {
            remove_dir(&self.dst)?; // Its name may not outlive a power cut, so nobody may believe in it.
        }
        self.published = named.is_ok();
        named
    }
}

impl Drop for StagedDir {
    fn drop(&mut self) {
        if !self.published {
            let _ = disk::remove(&self.tmp); // Nothing may be left that looks like a result.
        }
    }
}

/// Makes a folder and those above it that are missing, each with a name that outlives a power cut.
///
/// # Errors
/// The failed action and its path.
pub fn create_dir(dir: &Path) -> Result<()> {
    if dir.as_os_str().is_empty() || dir.is_dir() {
        return Ok(());
    }
    create_dir(parent(dir))?;
    match disk::create_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {} // Another rank was faster.
        made => at(dir, "create", made)?,
    }
    at(parent(dir), "fsync", disk::sync(parent(dir)))
}

/// Removes a folder that was published: its name goes first, so that half a folder is never seen under it.
///
/// # Errors
/// The failed action; the folder is then whole under its name, or gone from it.
pub fn remove_dir(dir: &Path) -> Result<()> {
    let hidden = temporary(dir);
    if hidden.exists() {
        at(&hidden, "remove", disk::remove(&hidden))?;
    }
    at(dir, "rename", disk::rename(dir, &hidden))?;
    at(&hidden, "remove", disk::remove(&hidden))
}

/// Removes what earlier, killed attempts have left in `dir`; nobody else may be publishing there.
///
/// # Errors
/// The failed action and its path.
pub fn sweep(dir: &Path) -> Result<()> {
    for entry in at(dir, "list", fs::read_dir(dir))? {
        let path = at(dir, "list", entry)?.path();
        if path.file_name().is_some_and(|name| is_temporary(&name.to_string_lossy())) {
            at(&path, "remove", disk::remove(&path))?;
        }
    }
    Ok(())
}

/// Bytes that may still be written on the disk of `dir`, as far as the file system knows (it knows no quotas).
///
/// # Errors
/// The folder is not there or cannot be asked.
pub fn free_bytes(dir: &Path) -> Result<u64> {
    at(dir, "asking for free space", disk::free_bytes(dir))
}

const UNFINISHED: &str = ".unfinished";

fn is_temporary(name: &str) -> bool {
    name.starts_with('.') && name.ends_with(UNFINISHED)
}

/// Name of the unfinished `dst`: in the same folder (a rename never crosses file systems), hidden, recognisable.
fn temporary(dst: &Path) -> PathBuf {
    let name = dst.file_name().unwrap_or_default().to_string_lossy().into_owned();
    parent(dst).join(format!(".{name}{UNFINISHED}"))
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = at(path, "create", disk::create(path))?;
    fill(&mut file, path, bytes)
}

fn fill(file: &mut File, path: &Path, bytes: &[u8]) -> Result<()> {
    at(path, "write", disk::write(file, path, bytes))?;
    at(path, "fsync", disk::sync_file(file, path))
}

fn rename(tmp: &Path, dst: &Path) -> Result<()> {
    at(dst, "rename", disk::rename(tmp, dst))?;
    at(parent(dst), "fsync", disk::sync(parent(dst)))
}

#[cfg(test)]
mod tests;
