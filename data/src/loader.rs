//! Decoding threads ahead of the step: micro-batches in the order that was asked for, a bounded number of them in memory.
//! It never reorders, never skips and never swallows an error: what fails is handed out in its place.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::ordered::{Lost, Ordered};
use crate::{Batch, Dataset, Error, Fault, LossOn, Result, Row, Sample, Template, page};

/// How long a micro-batch may take to come: a page takes tens of milliseconds, and a file system that hangs must be named.
const DEADLINE: Duration = Duration::from_secs(300);

/// One micro-batch to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MicroPlan {
    /// Rows of the data set.
    pub rows: Vec<usize>,
    /// Position of the first of them in the run's global order.
    pub first_position: u64,
}

/// How rows become batches.
#[derive(Debug, Clone, Copy)]
pub struct LoaderOptions {
    /// What is learned.
    pub loss_on: LossOn,
    /// Longest row, in tokens.
    pub max_seq_len: usize,
    /// Decoding threads; as many micro-batches and one more are in memory.
    pub threads: usize,
}

/// The micro-batches of a plan, in its order. Dropping it stops the threads.
#[derive(Debug)]
pub struct Loader {
    batches: Ordered<Result<Batch>>,
    waited: Duration,
}

impl Loader {
    /// Starts the threads; they stop at the end of the plan, or when the loader is dropped.
    #[must_use]
    pub fn spawn(
        data: Arc<Dataset>,
        template: Arc<Template>,
        image_size: usize,
        options: LoaderOptions,
        plan: impl Iterator<Item = MicroPlan> + Send + 'static,
    ) -> Self {
        Self::start(options.threads, DEADLINE, plan, move |micro| batch(&data, &template, image_size, options, micro))
    }

    fn start<P, M>(n_threads: usize, deadline: Duration, plan: P, make: M) -> Self
    where
        P: Iterator<Item = MicroPlan> + Send + 'static,
        M: Fn(&MicroPlan) -> Result<Batch> + Send + Sync + 'static,
    {
        let make = move |micro: MicroPlan| {
            let made = catch_unwind(AssertUnwindSafe(|| make(&micro)));
            made.unwrap_or(Err(Error::Thread { what: "a decoding thread", rows: micro.rows }))
        };
        Self { batches: Ordered::spawn(n_threads, deadline, plan, make), waited: Duration::ZERO }
    }

    /// Time that `next` has waited for decoding.
    #[must_use]
    pub fn waited(&self) -> Duration {
        self.waited
    }
}

impl Iterator for Loader {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Result<Batch>> {
        let began = Instant::now();
        let batch = self.batches.next();
        self.waited += began.elapsed();
        batch.map(|batch| match batch {
            Ok(batch) => batch,
            Err(Lost::Late) => Err(Error::Late { seconds: began.elapsed().as_secs() }),
            Err(Lost::Panicked) => Err(Error::Thread { what: "the plan of micro-batches", rows: Vec::new() }),
        })
    }
}

fn batch(
    data: &Dataset,
    template: &Template,
    image_size: usize,
    options: LoaderOptions,
    micro: &MicroPlan,
) -> Result<Batch> {
    let mut pages = Decoded::default();
    let sample = |&row: &usize| {
        let Row { id, place, image, messages } = data.row(row)?;
        let made = template.encode(&messages, options.loss_on, options.max_seq_len);
        match made.and_then(|example| Ok((example, pages.take(image, image_size)?))) {
            Ok((example, page)) => Ok(Sample { id, example, page }),
            Err(fault) => Err(Error::Row { file: place.file, row: place.row, id, fault }),
        }
    };
    let samples: Vec<Sample> = micro.rows.iter().map(sample).collect::<Result<_>>()?;
    Ok(Batch::collate(samples, pages.pixels, micro.first_position))
}

/// The distinct pages of a micro-batch: what has the same bytes is decoded once.
#[derive(Default)]
struct Decoded {
    /// As stored, in the order in which they came.
    encoded: Vec<Vec<u8>>,
    /// Decoded, in the same order.
    pixels: Vec<u8>,
}

impl Decoded {
    /// The number of a page among the distinct ones.
    fn take(&mut self, image: Vec<u8>, size: usize) -> std::result::Result<u32, Fault> {
        if let Some(known) = self.encoded.iter().position(|known| *known == image) {
            return Ok(known as u32);
        }
        self.pixels.extend(page(&image, size).map_err(Fault::from)?);
        self.encoded.push(image);
        Ok(self.encoded.len() as u32 - 1)
    }
}

#[cfg(test)]
mod tests;
