//! JSON rows whose pages are in archives beside them: which files those are, and one archive at a time, as all of them
//! together may be larger than the disk. It never removes a file that was in the cache before it was asked for.

use std::fs;
use std::path::{Path, PathBuf};

use super::download;
use super::listing::RemoteFile;
use super::{Error, Result, Wanted};
use crate::HubId;

const JSON: [&str; 2] = [".json", ".jsonl"];
const ARCHIVES: [&str; 3] = [".tar.gz", ".tar", ".tgz"];

/// What [`super::wanted`] says where that is parquet, or where there are no archives; else the one JSON file and the
/// archives of its folder.
pub(super) fn wanted(id: &HubId, files: Vec<RemoteFile>) -> Result<Vec<RemoteFile>> {
    let ends = |file: &RemoteFile, ends: &[&str]| ends.iter().any(|end| file.path.ends_with(end));
    let pattern = id.files.as_deref().and_then(|files| glob::Pattern::new(files).ok());
    let is_meant = |file: &RemoteFile| pattern.as_ref().is_none_or(|pattern| pattern.matches(&file.path));
    let json: Vec<RemoteFile> = files.iter().filter(|file| ends(file, &JSON) && is_meant(file)).cloned().collect();
    let folder = |file: &RemoteFile| Path::new(&file.path).parent().map(Path::to_owned);
    let beside =
        |file: &&RemoteFile| ends(file, &ARCHIVES) && json.first().is_some_and(|json| folder(json) == folder(file));
    let archives: Vec<RemoteFile> = files.iter().filter(beside).cloned().collect();
    let usable = super::wanted(id, files);
    let is_parquet = usable.as_ref().is_ok_and(|files| files.iter().any(|file| ends(file, &[".parquet"])));
    match json.as_slice() {
        _ if is_parquet || archives.is_empty() => usable,
        [json] => Ok(std::iter::once(json.clone()).chain(archives).collect()),
        many => {
            let names = many.iter().map(|file| file.path.clone()).collect();
            Err(Error::ManyJson { id: Box::new(id.clone()), names })
        }
    }
}

impl Wanted {
    /// Path of each file within the repository.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(|file| file.path.as_str())
    }

    /// Where file `at` will lie.
    #[must_use]
    pub fn path(&self, at: usize) -> PathBuf {
        self.cache.snapshot(&self.commit).join(&self.files[at].path)
    }

    /// Bytes of file `at`.
    #[must_use]
    pub fn size(&self, at: usize) -> u64 {
        self.files[at].size
    }

    /// Bytes of file `at` that are not in the cache yet.
    #[must_use]
    pub fn missing(&self, at: usize) -> u64 {
        self.cache.missing_bytes(&self.files[at])
    }

    /// Room for so many bytes more.
    ///
    /// # Errors
    /// There is less.
    pub fn require_space(&self, bytes: u64) -> Result<()> {
        self.cache.require_space(bytes)
    }

    /// Downloads file `at` as far as it is missing, verifies it if it is not known to be good, and returns its path.
    ///
    /// # Errors
    /// As [`Wanted::fetch`].
    pub fn fetch_one(&self, at: usize) -> Result<PathBuf> {
        let file = &self.files[at];
        download::one(self, file, &|_| {})?;
        self.cache.link(&self.commit, file)
    }

    /// As [`Wanted::fetch_one`], of a file that [`Wanted::give_back`] removes again if it was not there before.
    ///
    /// # Errors
    /// As there.
    pub fn borrow(&self, at: usize) -> Result<PathBuf> {
        let file = &self.files[at];
        if !self.cache.blob(file).exists() {
            self.cache.require_space(self.missing(at))?;
            storage::publish_file(&self.cache.borrowed(file)?, b"")?;
        }
        self.fetch_one(at)
    }

    /// Removes file `at` if it was borrowed, in this process or in an earlier one.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn give_back(&self, at: usize) -> Result<()> {
        let file = &self.files[at];
        let mark = self.cache.borrowed(file)?;
        if !mark.exists() {
            return Ok(());
        }
        let _lock = self.cache.lock(file)?;
        for path in [self.path(at), self.cache.blob(file), mark] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::file(&path, "remove")(error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}
