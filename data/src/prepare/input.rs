//! The source as a sequence of jobs with a place after each, so that the work can go on from any of them.
//! It never holds more than a few of the jobs that it hands out.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use bytes::Bytes;
use crossbeam_channel::{Sender, bounded};
use serde::{Deserialize, Serialize};

use crate::archive::{self, Member};
use crate::json_rows::{JsonRows, image_path, path_key};
use crate::manifest::{BadRow, Origin};
use crate::row::RawRow;
use crate::shard::PageKey;
use crate::{Dataset, Disk, Error, Fault, Result, Sources, dataset};

/// How far the source has been read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cursor {
    /// Rows of a source that is read by index; else archives that have been read to their end.
    pub first: u64,
    /// Members of the next archive.
    pub member: u64,
}

/// One piece of work.
pub(super) struct Job {
    pub what: Result<What>,
    pub after: Cursor,
    /// Work done once this is, in the unit of [`Input::total`].
    pub done: u64,
}

pub(super) enum What {
    /// A row of a source that is read by index.
    Row(usize),
    /// A page out of an archive, and the rows that are about it.
    Page { rows: Vec<usize>, bytes: Bytes },
}

/// Where rows come from.
#[derive(Clone)]
pub(super) enum Input {
    Rows(Arc<Dataset>),
    Archives(Arc<Archives>),
}

/// A JSON file whose pages are in archives.
pub(super) struct Archives {
    json: JsonRows,
    files: Vec<PathBuf>,
    /// Every row by the key of its image path, in the order of the keys; rows that the filter leaves out are not here.
    by_path: Vec<(PageKey, u32)>,
}

impl Input {
    pub(super) fn open(sources: &Sources) -> Result<Self> {
        match sources.files.as_slice() {
            [only] => match dataset::json_with_archives(only, sources.image_folder.as_deref()) {
                Some((json, files)) => Ok(Self::Archives(Arc::new(Archives::open(json, files, sources)?))),
                None => Ok(Self::Rows(Arc::new(Dataset::open(sources)?))),
            },
            _ => Ok(Self::Rows(Arc::new(Dataset::open(sources)?))),
        }
    }

    /// Whether rows come in the order of the source.
    pub(super) fn in_order(&self) -> bool {
        matches!(self, Self::Rows(_))
    }

    /// What the manifest says of the source.
    pub(super) fn origin(&self, sources: &Sources, options: String, revision: Option<String>) -> Origin {
        let (kind, files) = match self {
            Self::Rows(data) => data.files(),
            Self::Archives(archives) => {
                let json = archives.json.path().to_owned();
                ("json+tar", std::iter::once(json).chain(archives.files.iter().cloned()).collect())
            }
        };
        let mut hasher = blake3::Hasher::new();
        hasher.update(options.as_bytes());
        for file in &files {
            hasher.update(format!("\n{} {}", file.display(), size(file)).as_bytes());
        }
        Origin {
            kind: kind.into(),
            paths: sources.files.iter().map(|path| path.display().to_string()).collect(),
            include: sources.include.clone(),
            revision,
            fingerprint: hasher.finalize().to_hex().to_string(),
        }
    }

    /// All the work: rows, or bytes of archives.
    pub(super) fn total(&self) -> u64 {
        match self {
            Self::Rows(data) => data.len() as u64,
            Self::Archives(archives) => archives.files.iter().map(|file| size(file)).sum(),
        }
    }

    /// The jobs behind `next`; `seen` are the rows of archives that have been decided already.
    pub(super) fn jobs(&self, next: Cursor, seen: BTreeSet<u64>) -> Box<dyn Iterator<Item = Job> + Send + 'static> {
        match self {
            Self::Rows(data) => Box::new((next.first as usize..data.len()).map(|row| {
                let first = row as u64 + 1;
                Job { what: Ok(What::Row(row)), after: Cursor { first, member: 0 }, done: first }
            })),
            Self::Archives(archives) => {
                // Reading the archives is a thread of its own: it is ahead by what the channel holds, and ends with it.
                let (jobs, taken) = bounded(1);
                let archives = archives.clone();
                thread::spawn(move || archives.read(next, &seen, &jobs));
                Box::new(taken.into_iter())
            }
        }
    }

    /// A row of a source that is read by index.
    pub(super) fn row(&self, index: usize) -> Result<RawRow> {
        match self {
            Self::Rows(data) => data.raw_row(index),
            Self::Archives(archives) => Err(archives.no_page(index)),
        }
    }

    /// A row with the page that an archive had for it.
    pub(super) fn row_with_page(&self, row: usize, bytes: &Bytes) -> Result<RawRow> {
        match self {
            Self::Rows(data) => data.raw_row(row),
            Self::Archives(archives) => Ok(archives.json.text(row)?.with_page(bytes.clone())),
        }
    }

    /// Rows whose page was in no archive: those that are neither in shards nor listed already.
    pub(super) fn never_seen(&self, written: &BTreeSet<u64>, listed: &[BadRow]) -> Vec<Error> {
        let Self::Archives(archives) = self else { return Vec::new() };
        let listed: BTreeSet<u64> = listed.iter().map(|bad| bad.row).collect();
        let mut rows: Vec<u32> = archives.by_path.iter().map(|(_, row)| *row).collect();
        rows.sort_unstable();
        let missing = rows.into_iter().filter(|&row| !written.contains(&row.into()) && !listed.contains(&row.into()));
        missing.map(|row| archives.no_page(row as usize)).collect()
    }
}

impl Archives {
    fn open(json: PathBuf, files: Vec<PathBuf>, sources: &Sources) -> Result<Self> {
        let json = JsonRows::open(&Disk, json, None)?;
        let paths = json.all(|value, _| image_path(value).unwrap_or_default())?;
        let kept = (0..).zip(&paths).filter(|(_, path)| path.contains(&sources.include));
        let mut by_path: Vec<(PageKey, u32)> = kept.map(|(row, path)| (path_key(path), row)).collect();
        by_path.sort_unstable();
        if by_path.is_empty() {
            let pattern = json.path().display().to_string();
            return Err(match sources.include.as_str() {
                "" => Error::NoFile { pattern },
                include => Error::NothingIncluded { pattern, include: include.into() },
            });
        }
        Ok(Self { json, files, by_path })
    }

    fn rows_about(&self, name: &str) -> &[(PageKey, u32)] {
        let key = path_key(name);
        let begin = self.by_path.partition_point(|(k, _)| *k < key);
        let end = self.by_path.partition_point(|(k, _)| *k <= key);
        &self.by_path[begin..end]
    }

    /// Hands out a job for every member that a row is about, and one at the end of every archive.
    fn read(&self, next: Cursor, seen: &BTreeSet<u64>, jobs: &Sender<Job>) {
        let read_bytes = Arc::new(AtomicU64::new(self.files.iter().take(next.first as usize).map(|f| size(f)).sum()));
        // The first of several members of one name is the page.
        let mut given: Vec<bool> = vec![false; self.json.n_rows()];
        for &row in seen {
            if let Some(given) = given.get_mut(row as usize) {
                *given = true;
            }
        }
        for (first, file) in (0..).zip(&self.files).skip(next.first as usize) {
            let from = if first == next.first { next.member } else { 0 };
            let mut rows: Vec<usize> = Vec::new();
            let ended = archive::stream(
                file,
                &read_bytes,
                &mut |member: &Member, given_rows: &mut Vec<usize>| {
                    let about = self.rows_about(&member.name).iter().map(|(_, row)| *row as usize);
                    *given_rows = about.filter(|&row| member.number >= from && !given[row]).collect();
                    given_rows.iter().for_each(|&row| given[row] = true);
                    !given_rows.is_empty()
                },
                &mut rows,
                &mut |member, rows, bytes| {
                    let what = Ok(What::Page { rows: rows.clone(), bytes: bytes.into() });
                    let after = Cursor { first, member: member.number + 1 };
                    jobs.send(Job { what, after, done: read_bytes.load(Ordering::Relaxed) }).is_ok()
                },
            );
            let after = Cursor { first: first + 1, member: 0 };
            let end = ended.map(|()| What::Page { rows: Vec::new(), bytes: Bytes::new() });
            let failed = end.is_err();
            let sent = jobs.send(Job { what: end, after, done: read_bytes.load(Ordering::Relaxed) });
            if failed || sent.is_err() {
                return;
            }
        }
    }

    /// What is wrong with a row that has no page: its own fault, or that no archive holds what it names.
    fn no_page(&self, row: usize) -> Error {
        match self.json.text(row) {
            Ok(text) => {
                let fault = Fault::NoImage("no archive holds the page that it names");
                Error::Row { file: text.place.file, row: text.place.row, id: text.id, fault }
            }
            Err(error) => error,
        }
    }
}

fn size(file: &Path) -> u64 {
    std::fs::metadata(file).map_or(0, |m| m.len())
}
