//! Pages out of `shard_*.tar.gz`, streamed once from first to last: nothing is unpacked to the disk.
//! It never keeps more than one member, takes regular files alone, and matches names without ever following one.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::MultiGzDecoder;
use tar::{Archive, Entry, EntryType};

use crate::{Error, Result};

/// Largest member that is read.
const MAX_MEMBER: u64 = 256 << 20;

/// The archives of a folder, `shard_2` before `shard_10`.
pub(crate) fn in_folder(folder: &Path) -> Vec<PathBuf> {
    let is_archive = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        [".tar", ".tar.gz", ".tgz"].iter().any(|end| name.ends_with(end)) && path.is_file()
    };
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(is_archive).collect();
    found.sort_by_cached_key(|path| numbered(&path.to_string_lossy()));
    found
}

/// A text cut into letters and numbers, so that 2 stands before 10: by it archives are in their order.
#[must_use]
pub fn numbered(text: &str) -> Vec<(String, u64)> {
    let mut parts = vec![(String::new(), 0_u64)];
    let mut in_number = false;
    for c in text.chars() {
        let digit = c.to_digit(10);
        if in_number && digit.is_none() {
            parts.push((String::new(), 0));
        }
        in_number = digit.is_some();
        if let Some((letters, number)) = parts.last_mut() {
            match digit {
                Some(digit) => *number = number.saturating_mul(10).saturating_add(u64::from(digit)),
                None => letters.push(c),
            }
        }
    }
    parts
}

/// A member of an archive.
pub(crate) struct Member {
    /// Which it is in its archive, from 0.
    pub number: u64,
    /// Its name, as rows write it.
    pub name: String,
}

/// Reads one archive from its beginning; `read_bytes` counts its compressed bytes on the way.
/// `wanted` says whether a member is worth reading, `take` gets its bytes and says whether to go on; both see `state`.
pub(crate) fn stream<S>(
    file: &Path,
    read_bytes: &Arc<AtomicU64>,
    wanted: &mut dyn FnMut(&Member, &mut S) -> bool,
    state: &mut S,
    take: &mut dyn FnMut(Member, &mut S, Vec<u8>) -> bool,
) -> Result<()> {
    let opened = File::open(file).map_err(|e| Error::File { file: file.to_owned(), reason: e.to_string() })?;
    let counted = Counted { inner: opened, read_bytes: read_bytes.clone() };
    members(file, BufReader::with_capacity(1 << 20, counted), wanted, state, take)
}

/// As [`stream`], of the bytes of an archive, which `file` is the name of.
pub(crate) fn members<S>(
    file: &Path,
    mut bytes: impl BufRead,
    wanted: &mut dyn FnMut(&Member, &mut S) -> bool,
    state: &mut S,
    take: &mut dyn FnMut(Member, &mut S, Vec<u8>) -> bool,
) -> Result<()> {
    let wrong = |what: String, e: io::Error| Error::File { file: file.to_owned(), reason: format!("{what}{e}") };
    let is_gzip = bytes.fill_buf().is_ok_and(|begin| begin.starts_with(&[0x1f, 0x8b]));
    let bytes: Box<dyn Read> = if is_gzip { Box::new(MultiGzDecoder::new(bytes)) } else { Box::new(bytes) };
    let mut archive = Archive::new(bytes);
    for (number, entry) in (0..).zip(archive.entries().map_err(|e| wrong(String::new(), e))?) {
        let mut entry = entry.map_err(|e| wrong(format!("member {number}: "), e))?;
        let Some(name) = plain_name(&entry) else { continue };
        let member = Member { number, name };
        if !wanted(&member, state) {
            continue;
        }
        let size = entry.size();
        if size > MAX_MEMBER {
            let reason = format!("member {number} has {size} bytes, more than {MAX_MEMBER}");
            return Err(Error::File { file: file.to_owned(), reason });
        }
        let mut bytes = Vec::new();
        let read = bytes.try_reserve_exact(size as usize).map_err(io::Error::from);
        read.and_then(|()| entry.read_to_end(&mut bytes)).map_err(|e| wrong(format!("member {number}: "), e))?;
        if bytes.len() as u64 != size {
            return Err(wrong(format!("member {number}: "), io::ErrorKind::UnexpectedEof.into()));
        }
        if !take(member, state, bytes) {
            break;
        }
    }
    Ok(())
}

/// The name of a regular file that leads nowhere but downwards; links, folders and devices have none.
fn plain_name<R: Read>(entry: &Entry<'_, R>) -> Option<String> {
    if !matches!(entry.header().entry_type(), EntryType::Regular | EntryType::Continuous) {
        return None;
    }
    let path = entry.path().ok()?;
    let down = path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    down.then(|| path.to_str().map(str::to_owned)).flatten()
}

struct Counted<R> {
    inner: R,
    read_bytes: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(out)?;
        self.read_bytes.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}
