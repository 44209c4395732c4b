//! Blocks of objects in a folder of this machine, for all processes that are given the same one; never larger than its limit.
//! A block proves by its hash that it is the one which was kept; one that does not is gone. A cache that cannot be written is
//! done without. Blocks are removed by name, so whoever has one open reads it to its end.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

/// Of the hash before each block.
const HASH: usize = 32;
/// The file that is locked by who changes the folder; it holds the bytes of all blocks.
const LEDGER: &str = "ledger";
/// Before the names of files that are being written.
const UNFINISHED: &str = ".unfinished-";
/// How long another process's change is waited for; then the block is not kept.
const LOCK_TRIES: u32 = 200;
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// What a block is known by: object, version of it, place in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key(blake3::Hash);

impl Key {
    pub fn new(url: &str, version: &str, block: u64) -> Self {
        let mut hasher = blake3::Hasher::new();
        for part in [url.as_bytes(), version.as_bytes(), &block.to_le_bytes()] {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
        Self(hasher.finalize())
    }

    /// The first byte: a number for spreading.
    pub fn spread(&self) -> usize {
        self.0.as_bytes()[0].into()
    }
}

#[derive(Debug)]
pub(super) struct Cache {
    folder: PathBuf,
    limit: u64,
    /// This process has seen for itself how much is there.
    counted: AtomicBool,
}

impl Cache {
    pub fn new(folder: PathBuf, limit: u64) -> Self {
        Self { folder, limit, counted: AtomicBool::new(false) }
    }

    /// A block of at most `most` bytes, if it is here and whole.
    pub fn get(&self, key: &Key, most: usize) -> Option<Bytes> {
        let path = self.path(key);
        let mut file = File::open(&path).ok()?;
        let mut bytes = Vec::new();
        let read = (&mut file).take((HASH + most) as u64 + 1).read_to_end(&mut bytes);
        let whole = read.is_ok() && bytes.len() >= HASH && hash(key, &bytes[HASH..]).as_bytes() == &bytes[..HASH];
        if !whole {
            self.remove(key);
            return None;
        }
        let _ = file.set_modified(SystemTime::now()); // What was used last is removed last.
        Some(Bytes::from(bytes).slice(HASH..))
    }

    /// Keeps a block, if that can be done; older ones make room.
    pub fn put(&self, key: &Key, block: &[u8]) {
        let _ = self.try_put(key, block);
    }

    /// Lets go of a block.
    pub fn remove(&self, key: &Key) {
        let _ = fs::remove_file(self.path(key)); // The ledger counts too much then, until the next count.
    }

    fn try_put(&self, key: &Key, block: &[u8]) -> io::Result<()> {
        let bytes = (HASH + block.len()) as u64;
        if bytes > self.limit {
            return Ok(());
        }
        let path = self.path(key);
        fs::create_dir_all(path.parent().unwrap_or(&self.folder))?;
        let ledger = self.lock()?;
        if path.exists() {
            return Ok(());
        }
        let mut used = [0; 8];
        let known = self.counted.load(Ordering::Relaxed) && ledger.read_exact_at(&mut used, 0).is_ok();
        let mut used = if known { u64::from_le_bytes(used) } else { self.shrink(self.limit)? };
        self.counted.store(true, Ordering::Relaxed);
        if used.saturating_add(bytes) > self.limit {
            // An eighth at a time: the folder is not looked through for every block.
            used = self.shrink((self.limit - bytes).min(self.limit - self.limit / 8))?;
        }
        // Before the block: killed in between, the ledger says too much and not too little.
        ledger.write_all_at(&(used + bytes).to_le_bytes(), 0)?;
        place(&path, &[hash(key, block).as_bytes(), block])
    }

    /// Removes what was not used for longest until no more than `most` bytes are left; how many there are.
    /// Under the lock nobody is writing, so an unfinished file is what a killed process has left.
    fn shrink(&self, most: u64) -> io::Result<u64> {
        let mut blocks = Vec::new();
        let mut used = 0;
        for folder in fs::read_dir(&self.folder)?.filter_map(|entry| fs::read_dir(entry.ok()?.path()).ok()) {
            for entry in folder.flatten() {
                let path = entry.path();
                let Ok(meta) = entry.metadata() else { continue };
                match is_unfinished(&path) {
                    true => drop(fs::remove_file(path)),
                    false => {
                        used += meta.len();
                        blocks.push((meta.modified().unwrap_or(SystemTime::UNIX_EPOCH), meta.len(), path));
                    }
                }
            }
        }
        blocks.sort();
        for (_, bytes, path) in blocks {
            if used <= most {
                break;
            }
            if fs::remove_file(path).is_ok() {
                used -= bytes;
            }
        }
        Ok(used)
    }

    fn lock(&self) -> io::Result<File> {
        let ledger =
            OpenOptions::new().create(true).truncate(false).read(true).write(true).open(self.folder.join(LEDGER))?;
        for _ in 0..LOCK_TRIES {
            match ledger.try_lock() {
                Ok(()) => return Ok(ledger),
                Err(TryLockError::WouldBlock) => thread::sleep(LOCK_PAUSE),
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn path(&self, key: &Key) -> PathBuf {
        let name = key.0.to_hex();
        self.folder.join(&name[..2]).join(&name[2..])
    }
}

/// Makes a file visible whole or not at all. It need not outlive a power cut, so nothing is synced: who reads it looks at
/// every byte.
fn place(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    static ATTEMPTS: AtomicU64 = AtomicU64::new(0);
    let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_nanos());
    let attempt = ATTEMPTS.fetch_add(1, Ordering::Relaxed);
    // Two containers may share the folder and each have a process of this number.
    let unfinished = path.with_file_name(format!("{UNFINISHED}{}-{attempt}-{nanos}", std::process::id()));
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
        parts.iter().try_for_each(|part| file.write_all(part))?;
        fs::hard_link(&unfinished, path)
    };
    let written = write();
    let _ = fs::remove_file(&unfinished);
    written
}

fn is_unfinished(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(UNFINISHED))
}

/// Of the block under its key: one that was put under another's name is no block.
fn hash(key: &Key, block: &[u8]) -> blake3::Hash {
    blake3::keyed_hash(key.0.as_bytes(), block)
}

/// Where the cache of a user's programs lies, by `XDG_CACHE_HOME` or `HOME`.
#[must_use]
pub fn default_folder(variable: &dyn Fn(&str) -> Option<std::ffi::OsString>) -> PathBuf {
    let path = |name: &str| variable(name).filter(|value| Path::new(value).is_absolute()).map(PathBuf::from);
    let cache = path("XDG_CACHE_HOME").or_else(|| Some(path("HOME")?.join(".cache")));
    cache.unwrap_or_else(std::env::temp_dir).join("ecg-train")
}

#[cfg(test)]
mod tests;
