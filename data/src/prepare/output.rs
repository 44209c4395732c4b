//! The folder being prepared: the shard that is written, those that are finished, and how far the source has been read.
//! It never says that a shard is finished before it is on the disk.

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parquet::errors::Result as ParquetResult;
use serde::{Deserialize, Serialize};
use storage::StagedFile;

use super::PrepareOptions;
use super::input::Cursor;
use crate::manifest::{BadRow, FileHash, MANIFEST, Manifest, Shard, UNFINISHED};
use crate::parquet_file::ParquetFile;
use crate::rows_index::{self, Rows};
use crate::shard::{ShardRow, ShardWriter};
use crate::store::{exists, failed, unreachable};
use crate::{Disk, Error, Result, Shelf, Store};

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
    /// Of each finished shard that is only in a store: blake3, in hex, of the small columns that are read back from there.
    #[serde(default)]
    sent: Vec<String>,
}

pub(super) struct Output {
    /// Where the folder will be seen.
    folder: PathBuf,
    /// Where its files are made: the folder itself, if it is of this machine.
    work: PathBuf,
    /// Where they go from there, if it is not.
    shelf: Option<Arc<dyn Shelf>>,
    /// What has the folder.
    store: Arc<dyn Store>,
    /// Nobody else prepares into the folder while it is held.
    _lock: File,
    state: State,
    /// As far as the published state says.
    published: Cursor,
    shard: Option<ShardWriter<BufWriter<StagedFile>>>,
    max_bad_rows: u64,
    shard_bytes: u64,
}

impl Output {
    /// Begins the folder, or goes on with one that was begun from the same source with the same options.
    pub(super) fn open(folder: &Path, empty: Manifest, options: &PrepareOptions) -> Result<Opened> {
        let shelf = options.elsewhere.as_ref().map(|elsewhere| elsewhere.store.clone());
        let work = options.elsewhere.as_ref().map_or(folder, |elsewhere| &elsewhere.work);
        let store: Arc<dyn Store> = match &shelf {
            Some(shelf) => shelf.clone(),
            None => Arc::new(Disk),
        };
        fs::create_dir_all(work).map_err(|e| write_error(work, &e))?;
        let lock = File::open(work).map_err(|e| write_error(work, &e))?;
        if let Err(TryLockError::WouldBlock) = lock.try_lock() {
            return Err(Error::InUse { folder: folder.to_owned() });
        }
        let foreign = || Error::OtherFolder { folder: folder.to_owned() };
        if exists(&*store, &folder.join(MANIFEST))? {
            let manifest = Manifest::open(&*store, folder)?;
            if shelf.is_some() {
                let _ = fs::remove_dir(work); // Nothing is made here, and an empty folder costs nothing.
            }
            return match (&manifest.source, &manifest.pages) == (&empty.source, &empty.pages) {
                true => Ok(Opened::Complete(Box::new(manifest))),
                false => Err(foreign()),
            };
        }
        let state = match read(&*store, &folder.join(UNFINISHED))? {
            Some(bytes) => {
                let state: State = serde_json::from_slice(&bytes)
                    .map_err(|e| Error::Manifest { file: folder.join(UNFINISHED), reason: e.to_string() })?;
                if (&state.manifest.source, &state.manifest.pages) != (&empty.source, &empty.pages) {
                    return Err(foreign());
                }
                state
            }
            None if is_empty(shelf.as_deref(), folder)? => {
                State { manifest: empty, next: Cursor::default(), sent: Vec::new() }
            }
            None => return Err(foreign()),
        };
        storage::sweep(work)?; // The folder is ours, and the lock says that nobody else is at work in it.
        for shard in &state.manifest.shards {
            ParquetFile::shard(store.clone(), folder, shard)?; // Its size is right.
        }
        let mut output = Self {
            folder: folder.to_owned(),
            work: work.to_owned(),
            shelf,
            store,
            _lock: lock,
            published: state.next,
            state,
            shard: None,
            max_bad_rows: options.max_bad_rows,
            shard_bytes: options.shard_bytes,
        };
        output.publish_state()?;
        Ok(Opened::Unfinished(Box::new(output)))
    }

    pub(super) fn next(&self) -> Cursor {
        self.state.next
    }

    /// Where the source would be read on after a kill.
    pub(super) fn published(&self) -> Cursor {
        self.published
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
        for at in 0..self.state.manifest.shards.len() {
            rows.extend(self.rows_of(at)?.source_rows);
        }
        Ok(rows)
    }

    pub(super) fn push(&mut self, row: &ShardRow) -> Result<()> {
        let name = format!("part-{:05}.parquet", self.state.manifest.shards.len());
        let path = self.work.join(&name);
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
        for at in 0..self.state.manifest.shards.len() {
            rows.append(self.rows_of(at)?);
        }
        let mut manifest = self.state.manifest.clone();
        if manifest.rows == 0 {
            return Err(Error::NothingLeft { folder: self.folder, bad_rows: manifest.bad_rows.len() });
        }
        for path in &rows.image_paths {
            *manifest.folders.entry(first_component(path.as_deref())).or_default() += 1;
        }
        manifest.index = Some(self.publish_hashed(rows_index::FILE, rows_index::encode(&rows))?);
        manifest.looks = Some(self.publish_hashed(rows_index::LOOKS_FILE, rows_index::encode_looks(&rows))?);
        rows.pages.sort_unstable();
        rows.pages.dedup();
        manifest.distinct_pages = rows.pages.len() as u64;
        self.publish(MANIFEST, &manifest.to_json())?;
        // It is not looked at where a manifest is.
        let unfinished = self.folder.join(UNFINISHED);
        let _ = match &self.shelf {
            None => fs::remove_file(unfinished),
            Some(shelf) => shelf.remove(&unfinished).and_then(|()| fs::remove_dir(&self.work)),
        };
        Ok(manifest)
    }

    fn close_shard(&mut self) -> Result<()> {
        let Some(shard) = self.shard.take() else { return Ok(()) };
        let work = self.work.clone();
        let failed = |e: &dyn std::error::Error| write_error(&work, e);
        let (shard, out) = shard.finish().map_err(|e| failed(&e))?;
        out.into_inner().map_err(|e| failed(&e))?.publish()?;
        if let Some(shelf) = &self.shelf {
            let (made, path) = (self.work.join(&shard.file), self.folder.join(&shard.file));
            self.state.sent.push(digest(&read_rows(&(Arc::new(Disk) as _), &self.work, &shard)?, &made)?);
            shelf.put_file(&path, &made).map_err(|e| put_error(&path, &e))?;
            fs::remove_file(&made).map_err(|e| write_error(&made, &e))?;
        }
        self.state.manifest.rows += shard.rows;
        self.state.manifest.shards.push(shard);
        self.publish_state()
    }

    /// The small columns of a finished shard, as they were when it was made.
    fn rows_of(&self, at: usize) -> Result<Rows> {
        let shard = &self.state.manifest.shards[at];
        let file = self.folder.join(&shard.file);
        let read = || read_rows(&self.store, &self.folder, shard);
        let mut rows = read()?;
        let Some(sent) = self.state.sent.get(at) else { return Ok(rows) };
        if digest(&rows, &file)? != *sent && self.store.forget(&file) {
            rows = read()?;
        }
        match digest(&rows, &file)? == *sent {
            true => Ok(rows),
            false => Err(Error::Shard { file, reason: "its rows are not those that were sent".into() }),
        }
    }

    fn publish_state(&mut self) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(&self.state).expect("texts and numbers are JSON");
        self.publish(UNFINISHED, &bytes)?;
        self.published = self.state.next;
        Ok(())
    }

    fn publish_hashed(&self, name: &str, bytes: ParquetResult<Vec<u8>>) -> Result<FileHash> {
        let bytes = bytes.map_err(|e| write_error(&self.folder.join(name), &e))?;
        self.publish(name, &bytes)?;
        Ok(FileHash::new(name, &bytes, blake3::hash(&bytes)))
    }

    fn publish(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.folder.join(name);
        match &self.shelf {
            None => Ok(storage::publish_file(&path, bytes)?),
            Some(shelf) => shelf.put(&path, bytes).map_err(|e| put_error(&path, &e)),
        }
    }
}

fn read_rows(store: &Arc<dyn Store>, folder: &Path, shard: &Shard) -> Result<Rows> {
    let file = ParquetFile::shard(store.clone(), folder, shard)?;
    let (mut rows, mut taken) = (Rows::default(), Some(()));
    file.scan(&Rows::COLUMNS, &mut |_, batch| taken = taken.and_then(|()| rows.extend(batch)))?;
    let damaged = || Error::Shard { file: folder.join(&shard.file), reason: "has other columns".into() };
    taken.map(|()| rows).ok_or_else(damaged)
}

fn digest(rows: &Rows, file: &Path) -> Result<String> {
    let bytes = rows_index::encode(rows).map_err(|e| write_error(file, &e))?;
    Ok(blake3::hash(&bytes).to_hex().to_string())
}

/// All bytes of a file, if it is there.
fn read(store: &dyn Store, file: &Path) -> Result<Option<Bytes>> {
    match store.open(file).and_then(|opened| opened.read(0, opened.size() as usize)) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if unreachable(&error).is_some() => Err(put_error(file, &error)),
        Err(_) => Ok(None),
    }
}

fn is_empty(shelf: Option<&dyn Shelf>, folder: &Path) -> Result<bool> {
    match shelf {
        None => Ok(fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none())),
        Some(shelf) => shelf.is_empty(folder).map_err(|e| put_error(folder, &e)),
    }
}

fn put_error(path: &Path, error: &io::Error) -> Error {
    failed(path, error, |reason| Error::Write { file: path.to_owned(), reason })
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
