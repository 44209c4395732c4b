//! The only door through which files are published: what can be seen under its final name is complete and on the disk.
//! It never writes in place, never deletes the old before the new is durable, and knows nothing of what the files mean.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A failed attempt to publish; the old file or folder is still what it was.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {action} failed: {source}; the previous content is untouched", path = path.display())]
pub struct Error {
    path: PathBuf,
    action: &'static str,
    source: io::Error,
}

type Result<T> = std::result::Result<T, Error>;

fn at<T>(path: &Path, action: &'static str, result: io::Result<T>) -> Result<T> {
    result.map_err(|source| Error { path: path.to_owned(), action, source })
}

/// Publishes one file: written beside its place, synced, renamed, and the folder synced.
///
/// # Errors
/// The failed action and its path; `dst` then still has its previous content.
pub fn publish_file(dst: &Path, bytes: &[u8]) -> Result<()> {
    let tmp = temporary(dst);
    let result = (|| {
        let mut file = at(&tmp, "create", File::create(&tmp))?;
        at(&tmp, "write", file.write_all(bytes))?;
        at(&tmp, "fsync", file.sync_all())?;
        rename(&tmp, dst)
    })();
    if result.is_err() {
        let _ = fs::remove_file(&tmp); // The attempt is abandoned whole; its rest is of no use.
    }
    result
}

/// Publishes a file that was written piece by piece as `tmp` in the folder of `dst`: synced, renamed, and the folder synced.
///
/// # Errors
/// The failed action and its path; `tmp` is still there then, and `dst` has its previous content.
pub fn publish_written(tmp: &Path, dst: &Path) -> Result<()> {
    at(tmp, "fsync", File::open(tmp).and_then(|file| file.sync_all()))?;
    rename(tmp, dst)
}

/// A folder that is filled under a temporary name and becomes visible all at once.
/// Dropped without [`StagedDir::publish`], it is removed.
#[derive(Debug)]
pub struct StagedDir {
    tmp: PathBuf,
    dst: PathBuf,
    published: bool,
}

impl StagedDir {
    /// Begins the folder `dst` beside its place; a rest of an earlier attempt of the same name is removed.
    ///
    /// # Errors
    /// `dst` exists already, or the folder cannot be made.
    pub fn new(dst: &Path) -> Result<Self> {
        if dst.exists() {
            return at(dst, "create", Err(io::Error::from(io::ErrorKind::AlreadyExists)));
        }
        let tmp = temporary(dst);
        if tmp.exists() {
            at(&tmp, "remove", fs::remove_dir_all(&tmp))?;
        }
        at(&tmp, "create", fs::create_dir_all(&tmp))?;
        Ok(Self { tmp, dst: dst.to_owned(), published: false })
    }

    /// Where files of this folder are written until it is published.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.tmp
    }

    /// Writes one file of the folder and syncs its bytes; returns their blake3 hash.
    ///
    /// # Errors
    /// The failed action; the whole attempt should then be dropped.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<blake3::Hash> {
        let path = self.tmp.join(name);
        let mut file = at(&path, "create", File::create(&path))?;
        at(&path, "write", file.write_all(bytes))?;
        at(&path, "fsync", file.sync_all())?;
        Ok(blake3::hash(bytes))
    }

    /// Makes the folder visible under its final name: every file synced, then the folder, then the name.
    ///
    /// # Errors
    /// The failed action; nothing is visible then, and the temporary folder is removed.
    pub fn publish(mut self) -> Result<()> {
        for entry in at(&self.tmp, "list", fs::read_dir(&self.tmp))? {
            let path = at(&self.tmp, "list", entry)?.path();
            at(&path, "fsync", File::open(&path).and_then(|f| f.sync_all()))?;
        }
        at(&self.tmp, "fsync", File::open(&self.tmp).and_then(|f| f.sync_all()))?;
        rename(&self.tmp, &self.dst)?;
        self.published = true;
        Ok(())
    }
}

impl Drop for StagedDir {
    fn drop(&mut self) {
        if !self.published {
            let _ = fs::remove_dir_all(&self.tmp); // Nothing may be left that looks like a result.
        }
    }
}

/// Removes what earlier, killed attempts have left in `dir`; nobody else may be publishing there.
///
/// # Errors
/// The failed action and its path.
pub fn sweep(dir: &Path) -> Result<()> {
    for entry in at(dir, "list", fs::read_dir(dir))? {
        let path = at(dir, "list", entry)?.path();
        if !path.file_name().is_some_and(|name| is_temporary(&name.to_string_lossy())) {
            continue;
        }
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        at(&path, "remove", removed)?;
    }
    Ok(())
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

#[expect(clippy::disallowed_methods, reason = "this is the door")]
fn rename(tmp: &Path, dst: &Path) -> Result<()> {
    at(dst, "rename", fs::rename(tmp, dst))?;
    at(parent(dst), "fsync", File::open(parent(dst)).and_then(|f| f.sync_all()))
}

#[cfg(test)]
mod tests;
