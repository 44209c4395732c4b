//! The folder being prepared: the shard that is written, those that are finished, and how far the source has been read.
//! It never says that a shard is finished before it is on the disk.

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use storage::StagedFile;

use super::PrepareOptions;
use super::input::Cursor;
use crate::manifest::{BadRow, FileHash, MANIFEST, Manifest, UNFINISHED};
use crate::parquet_file::ParquetFile;
use crate::rows_index::{self, Rows};
use crate::shard::{SOURCE_ROW, ShardRow, ShardWriter};
use crate::{Disk, Error, Result};

pub(super) enum Opened {
    /// Nothing is left to do.
    Complete(Box<Manifest>),
    Unfinished(Box<Output>),
}

/// `manifest.unfinished.json`.
#[derive(Serialize, Deserialize)]
struct State {
    /// Of the finished shards.
    manifest: Manifest,
    /// Where the source is read on.
    next: Cursor,
}

pub(super) struct Output {
    folder: PathBuf,
    /// Nobody else prepares into the folder while it is held.
    _lock: File,
    state: State,
    shard: Option<ShardWriter<BufWriter<StagedFile>>>,
    max_bad_rows: u64,
    shard_bytes: u64,
}

impl Output {
    /// Begins the folder, or goes on with one that was begun from the same source with the same options.
    pub(super) fn open(folder: &Path, empty: Manifest, options: &PrepareOptions) -> Result<Opened> {
        fs::create_dir_all(folder).map_err(|e| write_error(folder, &e))?;
        let lock = File::open(folder).map_err(|e| write_error(folder, &e))?;
        if let Err(TryLockError::WouldBlock) = lock.try_lock() {
            return Err(Error::InUse { folder: folder.to_owned() });
        }
        let foreign = || Error::OtherFolder { folder: folder.to_owned() };
        if folder.join(MANIFEST).exists() {
            let manifest = Manifest::open(&Disk, folder)?;
            return match (&manifest.source, &manifest.pages) == (&empty.source, &empty.pages) {
                true => Ok(Opened::Complete(Box::new(manifest))),
                false => Err(foreign()),
            };
        }
        let state = match fs::read(folder.join(UNFINISHED)) {
            Ok(bytes) => {
                let state: State = serde_json::from_slice(&bytes)
                    .map_err(|e| Error::Manifest { file: folder.join(UNFINISHED), reason: e.to_string() })?;
                if (&state.manifest.source, &state.manifest.pages) != (&empty.source, &empty.pages) {
                    return Err(foreign());
                }
                state
            }
            Err(_) if fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none()) => {
                State { manifest: empty, next: Cursor::default() }
            }
            Err(_) => return Err(foreign()),
        };
        storage::sweep(folder)?; // The folder is ours, and the lock says that nobody else is at work in it.
        for shard in &state.manifest.shards {
            ParquetFile::shard(Arc::new(Disk), folder, shard)?; // Its size is right.
        }
        let (max_bad_rows, shard_bytes) = (options.max_bad_rows, options.shard_bytes);
        let output = Self { folder: folder.to_owned(), _lock: lock, state, shard: None, max_bad_rows, shard_bytes };
        output.publish_state()?;
        Ok(Opened::Unfinished(Box::new(output)))
    }

    pub(super) fn next(&self) -> Cursor {
        self.state.next
    }

    pub(super) fn rows(&self) -> u64 {
        self.state.manifest.rows + self.shard.as_ref().map_or(0, ShardWriter::rows)
    }

    pub(super) fn bad_rows(&self) -> u64 {
        self.state.manifest.bad_rows.len() as u64
    }

    /// The bad rows so far.
    pub(super) fn listed(&self) -> &[BadRow] {
        &self.state.manifest.bad_rows
    }

    /// Shards on the disk, and the rows in them.
    pub(super) fn finished(&self) -> (usize, u64) {
        (self.state.manifest.shards.len(), self.state.manifest.rows)
    }

    /// Source rows in finished shards.
    pub(super) fn written_rows(&mut self) -> Result<BTreeSet<u64>> {
        let mut rows = BTreeSet::new();
        if self.state.manifest.in_source_order {
            return Ok(rows); // The cursor says it.
        }
        self.close_shard()?;
        for shard in &self.state.manifest.shards {
            let file = ParquetFile::shard(Arc::new(Disk), &self.folder, shard)?;
            file.scan(&[SOURCE_ROW], &mut |_, batch| rows.extend(rows_index::source_rows(batch)))?;
        }
        Ok(rows)
    }

    pub(super) fn push(&mut self, row: &ShardRow) -> Result<()> {
        let name = format!("part-{:05}.parquet", self.state.manifest.shards.len());
        let path = self.folder.join(&name);
        let shard = match &mut self.shard {
            Some(shard) => shard,
            none => {
                let out = BufWriter::with_capacity(1 << 20, StagedFile::new(&path)?);
                none.insert(ShardWriter::new(out, name).map_err(|e| write_error(&path, &e))?)
            }
        };
        shard.push(row).map_err(|e| write_error(&path, &e))
    }

    /// Lists a row that is left out; `error` is what is said if there are too many of them.
    pub(super) fn leave_out(&mut self, bad: BadRow, error: Error) -> Result<()> {
        self.state.manifest.bad_rows.push(bad);
        match self.max_bad_rows {
            max if self.bad_rows() <= max => Ok(()),
            0 => Err(error),
            max => Err(Error::TooManyBadRows { max, last: error.to_string() }),
        }
    }

    /// Everything before `next` has been pushed or left out.
    pub(super) fn advance(&mut self, next: Cursor) -> Result<()> {
        self.state.next = next;
        match &self.shard {
            Some(shard) if shard.bytes() >= self.shard_bytes => self.close_shard(),
            _ => Ok(()),
        }
    }

    /// Ends the folder: the index of all rows, and the manifest as the last file.
    pub(super) fn finish(mut self) -> Result<Manifest> {
        self.close_shard()?;
        let mut rows = Rows::default();
        for shard in &self.state.manifest.shards {
            let file = ParquetFile::shard(Arc::new(Disk), &self.folder, shard)?;
            let mut taken = Some(());
            file.scan(&Rows::COLUMNS, &mut |_, batch| taken = taken.and_then(|()| rows.extend(batch)))?;
            let damaged = || Error::Shard { file: self.folder.join(&shard.file), reason: "has other columns".into() };
            taken.ok_or_else(damaged)?;
        }
        let mut manifest = self.state.manifest;
        if manifest.rows == 0 {
            return Err(Error::NothingLeft { folder: self.folder, bad_rows: manifest.bad_rows.len() });
        }
        for path in &rows.image_paths {
            *manifest.folders.entry(first_component(path.as_deref())).or_default() += 1;
        }
        let path = self.folder.join(rows_index::FILE);
        let bytes = rows_index::encode(&rows).map_err(|e| write_error(&path, &e))?;
        storage::publish_file(&path, &bytes)?;
        let blake3 = blake3::hash(&bytes).to_hex().to_string();
        manifest.index = Some(FileHash { file: rows_index::FILE.into(), bytes: bytes.len() as u64, blake3 });
        rows.pages.sort_unstable();
        rows.pages.dedup();
        manifest.distinct_pages = rows.pages.len() as u64;
        storage::publish_file(&self.folder.join(MANIFEST), &manifest.to_json())?;
        let _ = fs::remove_file(self.folder.join(UNFINISHED)); // It is not looked at where a manifest is.
        Ok(manifest)
    }

    fn close_shard(&mut self) -> Result<()> {
        let Some(shard) = self.shard.take() else { return Ok(()) };
        let folder = self.folder.clone();
        let failed = |e: &dyn std::error::Error| write_error(&folder, e);
        let (shard, out) = shard.finish().map_err(|e| failed(&e))?;
        out.into_inner().map_err(|e| failed(&e))?.publish()?;
        self.state.manifest.rows += shard.rows;
        self.state.manifest.shards.push(shard);
        self.publish_state()
    }

    fn publish_state(&self) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(&self.state).expect("texts and numbers are JSON");
        Ok(storage::publish_file(&self.folder.join(UNFINISHED), &bytes)?)
    }
}

fn write_error(path: &Path, error: &dyn std::error::Error) -> Error {
    Error::Write { file: path.to_owned(), reason: error.to_string() }
}

fn first_component(path: Option<&str>) -> String {
    match path.and_then(|path| path.split_once('/')) {
        Some((first, _)) => first.to_owned(),
        None => String::new(),
    }
}
