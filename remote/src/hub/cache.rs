//! The cache folder of huggingface_hub: `models--owner--name/{blobs,refs,snapshots}` and `.locks` beside it.
//! It never replaces a good file, and removes only what is not what its name says.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::listing::{Listing, RemoteFile, is_hex};
use super::{Error, Result};
use crate::{HubId, Kind};

/// Deepest folder of a snapshot that is looked at.
const MAX_DEPTH: usize = 8;

#[derive(Debug)]
pub(super) struct Cache {
    root: PathBuf,
    repo: PathBuf,
    locks: PathBuf,
}

impl Cache {
    pub fn new(root: &Path, id: &HubId) -> Self {
        let kind = if id.kind == Kind::Model { "models" } else { "datasets" };
        let name = format!("{kind}--{}", id.name.replace('/', "--"));
        Self { root: root.to_owned(), repo: root.join(&name), locks: root.join(".locks").join(&name) }
    }

    pub fn blob(&self, file: &RemoteFile) -> PathBuf {
        self.repo.join("blobs").join(&file.hash)
    }

    /// Where a download lies until it is whole; the name is huggingface_hub's.
    pub fn partial(&self, file: &RemoteFile) -> PathBuf {
        self.repo.join("blobs").join(format!("{}.incomplete", file.hash))
    }

    pub fn partial_bytes(&self, file: &RemoteFile) -> u64 {
        fs::metadata(self.partial(file)).map_or(0, |meta| meta.len())
    }

    /// Bytes of a file that are not here yet.
    pub fn missing_bytes(&self, file: &RemoteFile) -> u64 {
        if self.blob(file).exists() { 0 } else { file.size - self.partial_bytes(file).min(file.size) }
    }

    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.repo.join("snapshots").join(commit)
    }

    /// Is there while a file is in the cache only until its reader has done with it.
    pub fn borrowed(&self, file: &RemoteFile) -> Result<PathBuf> {
        make_folder(&self.locks)?;
        Ok(self.locks.join(format!("{}.borrowed", file.hash)))
    }

    /// Holds off every other process that would download the same file, of this program or of Python; waits for it.
    pub fn lock(&self, file: &RemoteFile) -> Result<File> {
        make_folder(&self.locks)?;
        make_folder(&self.repo.join("blobs"))?;
        let path = self.locks.join(format!("{}.lock", file.hash));
        let lock = OpenOptions::new().create(true).append(true).open(&path).map_err(Error::file(&path, "open"))?;
        lock.lock().map_err(Error::file(&path, "lock"))?;
        Ok(lock)
    }

    /// Remembers which commit a branch or tag means, for the day when nobody can be asked.
    pub fn note_revision(&self, revision: &str, commit: &str) -> Result<()> {
        if revision == commit || !revision.split('/').all(|part| !part.is_empty() && !part.starts_with('.')) {
            return Ok(());
        }
        let path = self.repo.join("refs").join(revision);
        if fs::read_to_string(&path).is_ok_and(|known| known == commit) {
            return Ok(());
        }
        make_folder(path.parent().unwrap_or(&self.repo))?;
        Ok(storage::publish_file(&path, commit.as_bytes())?)
    }

    /// The files of a revision as far as they are here; `None` if there is nothing of it.
    pub fn listing(&self, revision: &str) -> Result<Option<Listing>> {
        let noted = fs::read_to_string(self.repo.join("refs").join(revision)).ok().map(|text| text.trim().to_owned());
        let commit = noted.unwrap_or_else(|| revision.to_owned());
        if !is_hex(&commit, 40) || !self.snapshot(&commit).is_dir() {
            return Ok(None);
        }
        let mut files = Vec::new();
        list(&self.snapshot(&commit), "", MAX_DEPTH, &mut files)?;
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok((!files.is_empty()).then_some(Listing { commit, files }))
    }

    /// The file's name in the snapshot of `commit`, a relative link to its blob.
    pub fn link(&self, commit: &str, file: &RemoteFile) -> Result<PathBuf> {
        let path = self.snapshot(commit).join(&file.path);
        let up = "../".repeat(2 + file.path.matches('/').count());
        let target = PathBuf::from(format!("{up}blobs/{}", file.hash));
        if fs::read_link(&path).is_ok_and(|found| found == target) {
            return Ok(path);
        }
        make_folder(path.parent().unwrap_or(&self.repo))?;
        match symlink(&target, &path) {
            // A copy instead of a link, as huggingface_hub makes where links are not to be had; or another process's link.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                match fs::canonicalize(&path).ok() == fs::canonicalize(self.blob(file)).ok() {
                    true => Ok(path),
                    false => {
                        fs::remove_file(&path).map_err(Error::file(&path, "remove"))?;
                        symlink(&target, &path).map_err(Error::file(&path, "link"))?;
                        Ok(path)
                    }
                }
            }
            result => result.map(|()| path.clone()).map_err(Error::file(&path, "link")),
        }
    }

    /// Whether the file's bytes are what its hash says; read once, then known by its size and time.
    pub fn is_good(&self, file: &RemoteFile, path: &Path) -> Result<bool> {
        let meta = fs::metadata(path).map_err(Error::file(path, "read"))?;
        if meta.len() != file.size {
            return Ok(false);
        }
        let mark = self.locks.join(format!("{}.verified", file.hash));
        let seen = format!("{} {} {}", meta.len(), meta.mtime(), meta.mtime_nsec());
        if fs::read_to_string(&mark).is_ok_and(|known| known == seen) {
            return Ok(true);
        }
        let good = hash(path, file).map_err(Error::file(path, "read"))? == file.hash;
        if good {
            storage::publish_file(&mark, seen.as_bytes())?;
        }
        Ok(good)
    }

    pub fn require_space(&self, needed: u64) -> Result<()> {
        make_folder(&self.root)?;
        let stat = rustix::fs::statvfs(&self.root).map_err(|e| Error::file(&self.root, "measure")(e.into()))?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        match needed > free {
            true => Err(Error::Space { folder: self.root.clone(), needed, free }),
            false => Ok(()),
        }
    }
}

/// sha256 for a hash of 64 digits, git's sha1 of a blob for one of 40.
fn hash(path: &Path, file: &RemoteFile) -> io::Result<String> {
    let mut reader = File::open(path)?;
    Ok(match file.hash.len() {
        64 => digest(Sha256::new(), &mut reader)?,
        _ => digest(Sha1::new().chain_update(format!("blob {}\0", file.size)), &mut reader)?,
    })
}

pub(super) fn digest(mut digest: impl Digest, reader: &mut impl Read) -> io::Result<String> {
    let mut buffer = vec![0; 1 << 20];
    loop {
        match reader.read(&mut buffer)? {
            0 => break,
            n => digest.update(&buffer[..n]),
        }
    }
    Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The links of a snapshot whose blobs are there.
fn list(folder: &Path, prefix: &str, depth: usize, files: &mut Vec<RemoteFile>) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(Error::file(folder, "list"))? {
        let entry = entry.map_err(Error::file(folder, "list"))?;
        let (path, name) = (entry.path(), format!("{prefix}{}", entry.file_name().to_string_lossy()));
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) && depth > 0 {
            list(&path, &format!("{name}/"), depth - 1, files)?;
        }
        let blob = fs::read_link(&path).ok().and_then(|to| Some(to.file_name()?.to_str()?.to_owned()));
        let blob = blob.filter(|hash| is_hex(hash, 64) || is_hex(hash, 40));
        if let (Some(hash), Ok(meta)) = (blob, fs::metadata(&path)) {
            files.push(RemoteFile { path: name, size: meta.len(), hash });
        }
    }
    Ok(())
}

fn make_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(Error::file(path, "create"))
}
