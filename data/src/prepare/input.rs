//! The source as a sequence of jobs with a place after each, so that the work can go on from any of them.
//! It never holds more than the job it hands out.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::manifest::{BadRow, Origin};
use crate::row::RawRow;
use crate::{Dataset, Error, Result, Sources};

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

#[expect(dead_code, reason = "archives are not read yet")]
pub(super) enum What {
    /// A row of a source that is read by index.
    Row(usize),
    /// A page out of an archive, and the rows that may be about it.
    Page { rows: Vec<usize>, path: String, bytes: Bytes },
}

/// Where rows come from.
#[derive(Clone)]
pub(super) enum Input {
    Rows(Arc<Dataset>),
}

impl Input {
    pub(super) fn open(sources: &Sources) -> Result<Self> {
        Ok(Self::Rows(Arc::new(Dataset::open(sources)?)))
    }

    /// Whether rows come in the order of the source.
    pub(super) fn in_order(&self) -> bool {
        match self {
            Self::Rows(_) => true,
        }
    }

    /// What the manifest says of the source.
    pub(super) fn origin(&self, sources: &Sources, options: String, revision: Option<String>) -> Origin {
        let (kind, files) = match self {
            Self::Rows(data) => data.files(),
        };
        let mut hasher = blake3::Hasher::new();
        hasher.update(options.as_bytes());
        for file in &files {
            let size = std::fs::metadata(file).map_or(0, |m| m.len());
            hasher.update(format!("\n{} {size}", file.display()).as_bytes());
        }
        Origin {
            kind: kind.into(),
            paths: sources.files.iter().map(|path| path.display().to_string()).collect(),
            include: sources.include.clone(),
            revision,
            fingerprint: hasher.finalize().to_hex().to_string(),
        }
    }

    /// All the work.
    pub(super) fn total(&self) -> u64 {
        match self {
            Self::Rows(data) => data.len() as u64,
        }
    }

    /// The jobs behind `next`; `written` are the rows that are in shards.
    pub(super) fn jobs(
        &self,
        next: Cursor,
        _written: BTreeSet<u64>,
    ) -> Result<Box<dyn Iterator<Item = Job> + Send + 'static>> {
        match self {
            Self::Rows(data) => Ok(Box::new((next.first as usize..data.len()).map(|row| {
                let first = row as u64 + 1;
                Job { what: Ok(What::Row(row)), after: Cursor { first, member: 0 }, done: first }
            }))),
        }
    }

    /// A row of a source that is read by index.
    pub(super) fn row(&self, index: usize) -> Result<RawRow> {
        match self {
            Self::Rows(data) => data.raw_row(index),
        }
    }

    /// A row with the page that an archive had for it; none if the row asks for another one.
    pub(super) fn row_with_page(&self, _row: usize, _path: &str, _bytes: &Bytes) -> Option<Result<RawRow>> {
        match self {
            Self::Rows(_) => None,
        }
    }

    /// Rows whose page was in no archive.
    pub(super) fn never_seen(&self, _written: &BTreeSet<u64>, _listed: &[BadRow]) -> Result<Vec<(BadRow, Error)>> {
        match self {
            Self::Rows(_) => Ok(Vec::new()),
        }
    }
}
