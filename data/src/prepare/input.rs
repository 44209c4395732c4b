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

use super::fetched::{Coming, Fetch};
use super::{Download, PrepareOptions};
use crate::archive::{self, Member};
use crate::json_rows::{JsonRows, image_path, path_key};
use crate::manifest::{BadRow, Origin};
use crate::row::RawRow;
use crate::shard::PageKey;
use crate::store::failed;
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
    /// What is waited for meanwhile.
    pub download: Option<Download>,
}

pub(super) enum What {
    /// A row of a source that is read by index.
    Row(usize),
    /// A page out of an archive, and the rows that are about it.
    Page { rows: Vec<usize>, bytes: Bytes },
}

impl What {
    /// No row; how far the source has been read may be new.
    fn nothing() -> Self {
        Self::Page { rows: Vec::new(), bytes: Bytes::new() }
    }
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
    /// With their bytes.
    files: Vec<(PathBuf, u64)>,
    /// Brings them here; none: they are here.
    fetch: Option<Arc<dyn Fetch>>,
    /// Every row by the key of its image path, in the order of the keys; rows that the filter leaves out are not here.
    by_path: Vec<(PageKey, u32)>,
}

impl Input {
    pub(super) fn open(sources: &Sources, fetch: Option<Arc<dyn Fetch>>) -> Result<Self> {
        match (sources.files.as_slice(), fetch) {
            ([json], Some(fetch)) => {
                let files = (0..fetch.n_files()).map(|at| fetch.file(at)).collect();
                Ok(Self::Archives(Arc::new(Archives::open(json.clone(), files, Some(fetch), sources)?)))
            }
            ([only], None) => match dataset::json_with_archives(only, sources.image_folder.as_deref()) {
                Some((json, files)) => {
                    let files = files.into_iter().map(with_size).collect();
                    Ok(Self::Archives(Arc::new(Archives::open(json, files, None, sources)?)))
                }
                None => Ok(Self::Rows(Arc::new(Dataset::open(sources)?))),
            },
            _ => Ok(Self::Rows(Arc::new(Dataset::open(sources)?))),
        }
    }

    /// Whether rows come in the order of the source.
    pub(super) fn in_order(&self) -> bool {
        matches!(self, Self::Rows(_))
    }

    /// What the manifest says of the source. `fingerprint`: of the options.
    pub(super) fn origin(&self, options: &PrepareOptions, fingerprint: &str) -> Origin {
        let (kind, files) = match self {
            Self::Rows(data) => {
                let (kind, files) = data.files();
                (kind, files.into_iter().map(with_size).collect())
            }
            Self::Archives(archives) => {
                let json = with_size(archives.json.path().to_owned());
                ("json+tar", std::iter::once(json).chain(archives.files.iter().cloned()).collect::<Vec<_>>())
            }
        };
        let PrepareOptions { sources, pinned, .. } = options;
        let mut hasher = blake3::Hasher::new();
        hasher.update(fingerprint.as_bytes());
        for (file, bytes) in &files {
            // Where a cache has them says nothing about what they are.
            let name = if pinned.is_some() { Path::new(file.file_name().unwrap_or_default()) } else { file };
            hasher.update(format!("\n{} {bytes}", name.display()).as_bytes());
        }
        let paths = || sources.files.iter().map(|path| path.display().to_string()).collect();
        Origin {
            kind: kind.into(),
            paths: pinned.as_ref().map_or_else(paths, |pinned| vec![pinned.name.clone()]),
            include: sources.include.clone(),
            revision: pinned.as_ref().map(|pinned| pinned.revision.clone()),
            fingerprint: hasher.finalize().to_hex().to_string(),
        }
    }

    /// All the work: rows, or bytes of archives.
    pub(super) fn total(&self) -> u64 {
        match self {
            Self::Rows(data) => data.len() as u64,
            Self::Archives(archives) => archives.files.iter().map(|(_, bytes)| bytes).sum(),
        }
    }

    /// The jobs behind `next`; `seen` are the rows of archives that have been decided already.
    pub(super) fn jobs(&self, next: Cursor, seen: BTreeSet<u64>) -> Box<dyn Iterator<Item = Job> + Send + 'static> {
        match self {
            Self::Rows(data) => Box::new((next.first as usize..data.len()).map(|row| {
                let first = row as u64 + 1;
                Job { what: Ok(What::Row(row)), after: Cursor { first, member: 0 }, done: first, download: None }
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

    /// Behind all the work.
    pub(super) fn end(&self) -> Cursor {
        let first = match self {
            Self::Rows(data) => data.len(),
            Self::Archives(archives) => archives.files.len(),
        };
        Cursor { first: first as u64, member: 0 }
    }

    /// Everything before `published` is safe: archives that were fetched and have been read to their end may go.
    /// `released` of them have gone in this session.
    pub(super) fn release(&self, released: &mut usize, published: Cursor) {
        let Self::Archives(archives) = self else { return };
        let Some(fetch) = &archives.fetch else { return };
        (*released..published.first as usize).for_each(|at| fetch.release(at));
        *released = published.first as usize;
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
    fn open(
        json: PathBuf,
        files: Vec<(PathBuf, u64)>,
        fetch: Option<Arc<dyn Fetch>>,
        sources: &Sources,
    ) -> Result<Self> {
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
        Ok(Self { json, files, fetch, by_path })
    }

    fn rows_about(&self, name: &str) -> &[(PageKey, u32)] {
        let key = path_key(name);
        let begin = self.by_path.partition_point(|(k, _)| *k < key);
        let end = self.by_path.partition_point(|(k, _)| *k <= key);
        &self.by_path[begin..end]
    }

    /// Hands out a job for every member that a row is about, and one at the end of every archive.
    fn read(&self, next: Cursor, seen: &BTreeSet<u64>, jobs: &Sender<Job>) {
        let read_bytes = Arc::new(AtomicU64::new(self.files.iter().take(next.first as usize).map(|(_, n)| n).sum()));
        let job = |what, after, download| Job { what, after, done: read_bytes.load(Ordering::Relaxed), download };
        // The first of several members of one name is the page.
        let mut given: Vec<bool> = vec![false; self.json.n_rows()];
        for &row in seen {
            if let Some(given) = given.get_mut(row as usize) {
                *given = true;
            }
        }
        let mut coming = self.fetch.clone().map(Coming::new);
        for (first, (file, _)) in (0..).zip(&self.files).skip(next.first as usize) {
            let from = if first == next.first { next.member } else { 0 };
            let here = Cursor { first, member: from };
            let mut tick = |download| jobs.send(job(Ok(What::nothing()), here, Some(download))).is_ok();
            match coming.as_mut().map_or(Some(Ok(())), |coming| coming.wait(first as usize, &mut tick)) {
                Some(Ok(())) => {}
                Some(Err(error)) => {
                    let error = failed(file, &error, |reason| Error::File { file: file.clone(), reason });
                    let _ = jobs.send(job(Err(error), here, None));
                    return;
                }
                None => return,
            }
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
                    jobs.send(job(what, Cursor { first, member: member.number + 1 }, None)).is_ok()
                },
            );
            let end = ended.map(|()| What::nothing());
            let failed = end.is_err();
            if jobs.send(job(end, Cursor { first: first + 1, member: 0 }, None)).is_err() || failed {
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

fn with_size(file: PathBuf) -> (PathBuf, u64) {
    let bytes = std::fs::metadata(&file).map_or(0, |m| m.len());
    (file, bytes)
}
