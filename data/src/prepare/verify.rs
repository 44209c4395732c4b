//! Every byte of a prepared folder against the hashes of its manifest.
//! It never changes anything.

use std::path::Path;

use super::Progress;
use crate::{Disk, Error, Manifest, Result, Store};

/// Bytes read at a time.
const CHUNK: u64 = 8 << 20;

/// Reads the whole folder and compares every file's hash with the manifest.
///
/// # Errors
/// The first file that is not the one which was written.
pub fn verify(folder: &Path, on_progress: &mut dyn FnMut(Progress)) -> Result<Manifest> {
    let manifest = Manifest::open(&Disk, folder)?;
    let shards = manifest.shards.iter().map(|shard| (&shard.file, shard.bytes, &shard.blake3, shard.rows));
    let files = shards.chain(manifest.index.iter().map(|index| (&index.file, index.bytes, &index.blake3, 0)));
    let total = files.clone().map(|(_, bytes, ..)| bytes).sum();
    let mut progress = Progress { total, ..Progress::default() };
    for (name, bytes, expected, rows) in files {
        let file = folder.join(name);
        let wrong = |reason: String| Error::Shard { file: file.clone(), reason };
        let opened = Disk.open(&file).map_err(|e| wrong(e.to_string()))?;
        if opened.size() != bytes {
            return Err(wrong(format!("has {} bytes, the manifest says {bytes}", opened.size())));
        }
        let mut hasher = blake3::Hasher::new();
        for at in (0..bytes).step_by(CHUNK as usize) {
            let chunk = opened.read(at, CHUNK.min(bytes - at) as usize).map_err(|e| wrong(e.to_string()))?;
            hasher.update(&chunk);
            progress.done += chunk.len() as u64;
            on_progress(progress);
        }
        if *hasher.finalize().to_hex() != **expected {
            return Err(wrong("its hash is not the one in the manifest".into()));
        }
        progress.rows += rows;
    }
    Ok(manifest)
}
