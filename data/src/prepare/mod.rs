//! `prepare`: any source of rows -> a prepared folder, row by row and in flat memory; every row is decoded once on the way.
//! It never changes a page's pixels or a text, never leaves a row out unsaid, and never redoes a shard that is finished.

mod fetched;
mod input;
mod make;
mod output;
mod verify;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::manifest::{Manifest, StoredPages};
use crate::ordered::{Lost, Ordered};
use crate::{Error, LossOn, Result, Shelf, Sources, Template};

pub use fetched::Fetch;
use input::Input;
use make::{Maker, Outcome};
use output::Output;
pub use verify::verify;

/// How long one row may take to come: long enough to pass over a whole archive that holds no page of the source.
const DEADLINE: Duration = Duration::from_secs(3600);

/// What is to be prepared, and how.
#[derive(Clone)]
pub struct PrepareOptions {
    /// The rows.
    pub sources: Sources,
    /// The folder to make.
    pub out: PathBuf,
    /// Where `out` is not a folder of this machine.
    pub elsewhere: Option<Elsewhere>,
    /// Store pages resized to so many pixels a side; none: as the source has them.
    pub resize: Option<usize>,
    /// What a run will make of the rows: a row that it could not learn from is a bad row.
    pub learn: Option<Learn>,
    /// How many bad rows are left out and listed; one more ends the work.
    pub max_bad_rows: u64,
    /// Rows worked on at a time.
    pub threads: usize,
    /// A shard is closed once it has so many bytes.
    pub shard_bytes: u64,
    /// Where the archives of the one JSON file come from; none: they lie beside it.
    pub archives: Option<Arc<dyn Fetch>>,
    /// What the source is called, if it is not of this machine.
    pub pinned: Option<Pinned>,
}

/// A source that somebody else keeps, at a commit.
#[derive(Debug, Clone)]
pub struct Pinned {
    /// Its name.
    pub name: String,
    /// The commit.
    pub revision: String,
}

/// A store to prepare into.
#[derive(Clone)]
pub struct Elsewhere {
    /// It has the folder.
    pub store: Arc<dyn Shelf>,
    /// A folder of this machine, for the shard that is being made and nothing else.
    pub work: PathBuf,
}

/// A run's view of a row's text.
#[derive(Clone)]
pub struct Learn {
    /// Tokenizer and chat template.
    pub template: Arc<Template>,
    /// What is learned.
    pub loss_on: LossOn,
    /// Longest row, in tokens.
    pub max_seq_len: usize,
}

/// How far the work is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Progress {
    /// Rows that are in shards.
    pub rows: u64,
    /// Rows that were left out.
    pub bad_rows: u64,
    /// Work done and to be done, in rows or in bytes of archives.
    pub done: u64,
    /// See `done`.
    pub total: u64,
    /// What is waited for.
    pub download: Option<Download>,
}

/// An archive on its way.
#[derive(Debug, Clone, Copy)]
pub struct Download {
    /// Which one, from 0.
    pub archive: usize,
    /// Of how many.
    pub archives: usize,
    /// Bytes that are here.
    pub have: u64,
    /// Bytes of it.
    pub bytes: u64,
}

/// What pages were and what they are now, over the rows of this session.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cost {
    /// Pages.
    pub pages: u64,
    /// Their bytes in the source.
    pub source_bytes: u64,
    /// Their bytes in the shards.
    pub stored_bytes: u64,
    /// Time of one thread from the source's bytes to the model's pixels.
    pub from_source: Duration,
    /// The same from the stored bytes; zero where they are the source's.
    pub from_stored: Duration,
    /// Time of one thread to encode them again.
    pub encoding: Duration,
}

/// What became of it.
#[derive(Debug)]
pub enum Prepared {
    /// The folder is complete.
    Done {
        /// Its manifest.
        manifest: Box<Manifest>,
        /// Of the rows that this session made; none if all was there before.
        cost: Cost,
    },
    /// It was asked to stop; the same call goes on behind the last finished shard.
    Stopped {
        /// Finished shards.
        shards: usize,
        /// Rows in them.
        rows: u64,
    },
}

/// Makes a prepared folder, or goes on with one that was interrupted.
///
/// # Errors
/// A source that cannot be read, more bad rows than allowed (the first one itself where none is), a folder that is
/// something else or in use, or a disk that takes no more. Finished shards stay.
pub fn prepare(options: &PrepareOptions, stop: &AtomicBool, on_progress: &mut dyn FnMut(Progress)) -> Result<Prepared> {
    let input = Input::open(&options.sources, options.archives.clone())?;
    let pages = options.resize.map_or(StoredPages::Original, StoredPages::Resized);
    let origin = input.origin(options, &fingerprint(options));
    let empty = Manifest::new(origin, pages, input.in_order());
    let mut output = match Output::open(&options.out, empty, options)? {
        output::Opened::Complete(manifest) => {
            input.release(&mut 0, input.end());
            return Ok(Prepared::Done { manifest, cost: Cost::default() });
        }
        output::Opened::Unfinished(output) => *output,
    };
    let maker = Maker::new(&input, options);
    let total = input.total();
    let (mut cost, mut released) = (Cost::default(), 0);
    let mut seen = output.written_rows()?;
    seen.extend(output.listed().iter().map(|bad| bad.row));
    let jobs = input.jobs(output.next(), seen);
    let mut made = Ordered::spawn(options.threads, DEADLINE, jobs, move |job| maker.make(job));
    loop {
        if stop.load(Ordering::Relaxed) {
            let (shards, rows) = output.finished();
            return Ok(Prepared::Stopped { shards, rows });
        }
        let Some(made) = made.next() else { break };
        let made = made.map_err(|lost| match lost {
            Lost::Late => Error::Late { seconds: DEADLINE.as_secs() },
            Lost::Panicked => Error::Thread { what: "reading the source", rows: Vec::new() },
        })??;
        cost.add(&made.cost);
        for outcome in made.outcomes {
            match outcome {
                Outcome::Good(row) => output.push(&row)?,
                Outcome::Bad(bad, error) => output.leave_out(bad, error)?,
            }
        }
        output.advance(made.after)?;
        input.release(&mut released, output.published());
        let (rows, bad_rows, done, download) = (output.rows(), output.bad_rows(), made.done, made.download);
        on_progress(Progress { rows, bad_rows, done, total, download });
    }
    let written = output.written_rows()?;
    for error in input.never_seen(&written, output.listed()) {
        if let Outcome::Bad(bad, error) = make::bad(error)? {
            output.leave_out(bad, error)?;
        }
    }
    let manifest = output.finish()?;
    input.release(&mut released, input.end());
    Ok(Prepared::Done { manifest: Box::new(manifest), cost })
}

/// What of the options decides the shards' bytes, beside the source.
fn fingerprint(options: &PrepareOptions) -> String {
    let learn = options.learn.as_ref().map(|learn| (learn.loss_on, learn.max_seq_len, learn.template.ids()));
    let Sources { include, keep_image_marker, .. } = &options.sources;
    format!("{:?} {} {include:?} {keep_image_marker} {learn:?}", options.resize, options.shard_bytes)
}

impl Cost {
    fn add(&mut self, other: &Self) {
        self.pages += other.pages;
        self.source_bytes += other.source_bytes;
        self.stored_bytes += other.stored_bytes;
        self.from_source += other.from_source;
        self.from_stored += other.from_stored;
        self.encoding += other.encoding;
    }
}

#[cfg(test)]
pub(crate) mod tests;
