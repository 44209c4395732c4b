//! Decoding threads ahead of the step: micro-batches in the order that was asked for, a bounded number of them in memory.
//! It never reorders, never skips and never swallows an error: what fails is handed out in its place.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::{Batch, Dataset, Error, Fault, LossOn, Result, Row, Sample, Template, page};

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
    /// One place a micro-batch, in the order of the plan; the batch itself comes through the place.
    places: Option<Receiver<Place>>,
    threads: Vec<JoinHandle<()>>,
    waited: Duration,
}

type Place = Receiver<Result<Batch>>;

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
        Self::start(options.threads, plan, move |micro| batch(&data, &template, image_size, options, micro))
    }

    fn start<P, M>(n_threads: usize, plan: P, make: M) -> Self
    where
        P: Iterator<Item = MicroPlan> + Send + 'static,
        M: Fn(&MicroPlan) -> Result<Batch> + Send + Sync + 'static,
    {
        let n_threads = n_threads.max(1);
        let (taken, places) = bounded(n_threads);
        let work = Arc::new(Work { plan: Mutex::new((plan, taken)), make });
        let threads = (0..n_threads).map(|_| work.clone()).map(|work| thread::spawn(move || work.run())).collect();
        Self { places: Some(places), threads, waited: Duration::ZERO }
    }

    /// Time that `next` has waited for decoding.
    #[must_use]
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// At the end of the plan; an error if it is not the end but a panic of the plan itself.
    fn end(&mut self) -> Option<Result<Batch>> {
        let died = self.threads.drain(..).map(JoinHandle::join).filter(std::result::Result::is_err).count();
        (died > 0).then(|| Err(Error::Thread { what: "the plan of micro-batches", rows: Vec::new() }))
    }
}

impl Iterator for Loader {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Result<Batch>> {
        let began = Instant::now();
        let batch = self.places.as_ref()?.recv().and_then(|place| place.recv());
        self.waited += began.elapsed();
        batch.ok().or_else(|| self.end())
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.places = None; // Whoever waits for a place gives up.
        self.end();
    }
}

/// What the threads share.
struct Work<P, M> {
    plan: Mutex<(P, Sender<Place>)>,
    make: M,
}

impl<P, M> Work<P, M>
where
    P: Iterator<Item = MicroPlan>,
    M: Fn(&MicroPlan) -> Result<Batch>,
{
    fn run(&self) {
        while let Some((micro, done)) = self.take() {
            let made = catch_unwind(AssertUnwindSafe(|| (self.make)(&micro)));
            let made = made.unwrap_or(Err(Error::Thread { what: "a decoding thread", rows: micro.rows }));
            let _ = done.send(made); // If nobody waits for it any more, it is not needed.
        }
    }

    /// The next micro-batch and its place; none at the end of the plan or when the loader is gone.
    /// The place is taken under the lock that hands out the plan, so places stand in its order.
    fn take(&self) -> Option<(MicroPlan, Sender<Result<Batch>>)> {
        let mut plan = self.plan.lock().ok()?;
        let micro = plan.0.next()?;
        let (done, place) = bounded(1);
        plan.1.send(place).ok()?;
        Some((micro, done))
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
