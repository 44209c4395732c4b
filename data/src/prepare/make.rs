//! From one row of the source to a row of a shard, or to the reason why it is left out.
//! It never decides what becomes of a bad row, and a page that it stores again is compared with what it was.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use bytes::Bytes;

use super::input::{Cursor, Input, Job, What};
use super::{Cost, Download, Learn, PrepareOptions};
use crate::manifest::BadRow;
use crate::page::{decode, encode, page};
use crate::row::RawRow;
use crate::shard::{ShardRow, page_key};
use crate::{Error, Fault, PageError, PageHash, Result, turns};

/// What one piece of work came to.
pub(super) struct Made {
    pub outcomes: Vec<Outcome>,
    /// Where the work goes on.
    pub after: Cursor,
    /// Work done so far, in the input's unit.
    pub done: u64,
    pub download: Option<Download>,
    pub cost: Cost,
}

pub(super) enum Outcome {
    Good(Box<ShardRow>),
    Bad(BadRow, Error),
}

/// Turns jobs into rows, on any thread.
pub(super) struct Maker {
    input: Input,
    resize: Option<usize>,
    learn: Option<Learn>,
    keep_image_marker: bool,
}

/// A page as it will be stored.
struct Page {
    bytes: Bytes,
    hash: blake3::Hash,
    key: [u8; 16],
    look: PageHash,
}

impl Maker {
    pub(super) fn new(input: &Input, options: &PrepareOptions) -> Self {
        Self {
            input: input.clone(),
            resize: options.resize,
            learn: options.learn.clone(),
            keep_image_marker: options.sources.keep_image_marker,
        }
    }

    pub(super) fn make(&self, job: Job) -> Result<Made> {
        let Job { after, done, download, .. } = job;
        let mut made = Made { outcomes: Vec::new(), after, done, download, cost: Cost::default() };
        let what = job.what?;
        let rows = match &what {
            What::Row(index) => vec![*index],
            What::Page { rows, .. } => rows.clone(),
        };
        let guarded = catch_unwind(AssertUnwindSafe(|| self.outcomes(what, &mut made)));
        guarded.unwrap_or(Err(Error::Thread { what: "a decoding thread", rows }))?;
        Ok(made)
    }

    fn outcomes(&self, what: What, made: &mut Made) -> Result<()> {
        match what {
            What::Row(index) => {
                let raw = self.input.row(index);
                let outcome = self.outcome(raw, index as u64, &mut None, &mut made.cost)?;
                made.outcomes.push(outcome);
            }
            What::Page { rows, bytes } => {
                // Several questions are asked about one page: it is decoded for the first of them.
                let mut page = None;
                for row in rows {
                    let raw = self.input.row_with_page(row, &bytes);
                    let outcome = self.outcome(raw, row as u64, &mut page, &mut made.cost)?;
                    made.outcomes.push(outcome);
                }
            }
        }
        Ok(())
    }

    /// A fault of the row is an outcome; damage of a file or a failed disk ends the work.
    fn outcome(
        &self,
        raw: Result<RawRow>,
        source_row: u64,
        page: &mut Option<std::result::Result<Page, PageError>>,
        cost: &mut Cost,
    ) -> Result<Outcome> {
        let raw = match raw {
            Ok(raw) => raw,
            Err(error) => return bad(error),
        };
        let (place, id) = (raw.place.clone(), raw.id.clone());
        match self.row(raw, source_row, page, cost) {
            Ok(row) => Ok(Outcome::Good(Box::new(row))),
            Err(fault) => bad(Error::Row { file: place.file, row: place.row, id, fault }),
        }
    }

    fn row(
        &self,
        raw: RawRow,
        source_row: u64,
        page: &mut Option<std::result::Result<Page, PageError>>,
        cost: &mut Cost,
    ) -> std::result::Result<ShardRow, Fault> {
        let RawRow { id, image, image_path, turns, .. } = raw;
        let messages = turns::messages(turns.clone(), self.keep_image_marker)?;
        let page = page.get_or_insert_with(|| self.page(image, cost)).as_ref().map_err(|e| Fault::Page(e.clone()))?;
        if let Some(Learn { template, loss_on, max_seq_len }) = &self.learn {
            template.encode(&messages, *loss_on, *max_seq_len)?;
        }
        let Page { bytes, hash, key, look } = page;
        let image = bytes.clone();
        Ok(ShardRow { id, image_path, image, image_hash: *hash, turns, page: *key, look: *look, source_row })
    }

    /// Decodes the page, and stores it resized where that is asked for.
    fn page(&self, image: Bytes, cost: &mut Cost) -> std::result::Result<Page, PageError> {
        let source_hash = blake3::hash(&image);
        let key = page_key(&source_hash);
        let began = Instant::now();
        cost.pages += 1;
        cost.source_bytes += image.len() as u64;
        let decoded = decode(&image)?;
        let resized = self.resize.map(|size| (size, decoded.resize(size)));
        cost.from_source += began.elapsed();
        let look = PageHash::of_pixels(&decoded);
        let Some((size, pixels)) = resized else {
            cost.stored_bytes += image.len() as u64;
            return Ok(Page { bytes: image, hash: source_hash, key, look });
        };
        let began = Instant::now();
        let refused = |reason: &str| PageError::Damaged { format: "PNG", reason: reason.into() };
        let stored = encode(&pixels, size).map_err(|e| refused(&e.to_string()))?;
        cost.encoding += began.elapsed();
        let began = Instant::now();
        if page(&stored, size)? != pixels {
            return Err(refused("stored again it has other pixels"));
        }
        cost.from_stored += began.elapsed();
        cost.stored_bytes += stored.len() as u64;
        Ok(Page { hash: blake3::hash(&stored), bytes: stored.into(), key, look })
    }
}

/// A row that breaks the rules is listed; any other error stays one.
pub(super) fn bad(error: Error) -> Result<Outcome> {
    match error.bad_row() {
        Some(bad) => Ok(Outcome::Bad(bad, error)),
        None => Err(error),
    }
}
