//! Every byte of a prepared folder against the hashes of its manifest.
//! It never changes anything.

use std::path::Path;

use super::Progress;
use crate::store::failed;
use crate::{Error, Manifest, Result, Store};

/// Bytes read at a time.
const CHUNK: u64 = 8 << 20;

/// Reads the whole folder and compares every file's hash with the manifest.
///
/// # Errors
/// The first file that is not the one which was written.
pub fn verify(store: &dyn Store, folder: &Path, on_progress: &mut dyn FnMut(Progress)) -> Result<Manifest> {
    let manifest = Manifest::open(store, folder)?;
    let shards = manifest.shards.iter().map(|shard| (&shard.file, shard.bytes, &shard.blake3, shard.rows));
    let files = shards.chain(manifest.indexes().map(|index| (&index.file, index.bytes, &index.blake3, 0)));
    let total = files.clone().map(|(_, bytes, ..)| bytes).sum();
    let mut progress = Progress { total, ..Progress::default() };
    for (name, bytes, expected, rows) in files {
        let file = folder.join(name);
        let before = progress.done;
        let mut read = || {
            hash(store, &file, bytes, &mut |n| {
                progress.done += n;
                on_progress(progress);
            })
        };
        let mut found = read()?;
        if found != *expected && store.forget(&file) {
            found = read()?;
        }
        if found != *expected {
            return Err(Error::Shard { file, reason: "its hash is not the one in the manifest".into() });
        }
        progress.done = before + bytes;
        progress.rows += rows;
    }
    Ok(manifest)
}

/// blake3, in hex, of a file that must have so many bytes.
fn hash(store: &dyn Store, file: &Path, bytes: u64, on_bytes: &mut dyn FnMut(u64)) -> Result<String> {
    let wrong = |reason: String| Error::Shard { file: file.to_owned(), reason };
    let opened = store.open(file).map_err(|e| failed(file, &e, wrong))?;
    if opened.size() != bytes {
        return Err(wrong(format!("has {} bytes, the manifest says {bytes}", opened.size())));
    }
    let mut hasher = blake3::Hasher::new();
    for at in (0..bytes).step_by(CHUNK as usize) {
        let chunk = opened.read(at, CHUNK.min(bytes - at) as usize).map_err(|e| failed(file, &e, wrong))?;
        hasher.update(&chunk);
        on_bytes(chunk.len() as u64);
    }
    Ok(hasher.finalize().to_hex().to_string())
}
