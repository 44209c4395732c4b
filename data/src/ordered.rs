//! Work done by several threads and handed out in the order in which it was given, a bounded amount of it in memory.
//! It never reorders and never skips.

use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

/// Results in the order of their items. Dropping it stops the threads.
#[derive(Debug)]
pub(crate) struct Ordered<T> {
    /// One place an item, in the order of the items; the result itself comes through the place.
    places: Option<Receiver<Receiver<T>>>,
    threads: Vec<JoinHandle<()>>,
    deadline: Duration,
}

/// How long a thread that is not needed any more may take to end before it is left to itself: it may be in a loop of a
/// library, and that must not keep the process.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why there is no next result.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// The iterator of items panicked, or `make` did without catching it.
    Panicked,
    /// It was not there before the deadline.
    Late,
}

impl<T: Send + 'static> Ordered<T> {
    /// Starts the threads; they stop at the end of the items, or when this is dropped.
    /// As many results as there are threads, and one more, wait to be taken; one may take `deadline` to come.
    pub(crate) fn spawn<I: Send + 'static>(
        n_threads: usize,
        deadline: Duration,
        items: impl Iterator<Item = I> + Send + 'static,
        make: impl Fn(I) -> T + Send + Sync + 'static,
    ) -> Self {
        let n_threads = n_threads.max(1);
        let (taken, places) = bounded(n_threads);
        let work = Arc::new(Work { items: Mutex::new((items, taken)), make });
        let threads = (0..n_threads).map(|_| work.clone()).map(|work| thread::spawn(move || work.run())).collect();
        Self { places: Some(places), threads, deadline }
    }
}

impl<T> Ordered<T> {
    /// At the end of the items; an error if it is not the end but a panic.
    fn end(&mut self) -> Option<Result<T, Lost>> {
        let began = Instant::now();
        while began.elapsed() < PATIENCE && self.threads.iter().any(|thread| !thread.is_finished()) {
            thread::sleep(Duration::from_millis(1));
        }
        let ended = self.threads.drain(..).filter(JoinHandle::is_finished);
        let died = ended.map(JoinHandle::join).filter(Result::is_err).count();
        (died > 0).then_some(Err(Lost::Panicked))
    }
}

impl<T> Iterator for Ordered<T> {
    type Item = Result<T, Lost>;

    fn next(&mut self) -> Option<Self::Item> {
        let until = Instant::now() + self.deadline;
        let place = self.places.as_ref()?.recv_deadline(until);
        match place.and_then(|place| place.recv_deadline(until)) {
            Ok(result) => Some(Ok(result)),
            Err(RecvTimeoutError::Timeout) => {
                self.places = None;
                Some(Err(Lost::Late))
            }
            Err(RecvTimeoutError::Disconnected) => self.end(),
        }
    }
}

impl<T> Drop for Ordered<T> {
    fn drop(&mut self) {
        self.places = None; // Whoever waits for a place gives up.
        self.end();
    }
}

/// What the threads share.
struct Work<I, T, M> {
    items: Mutex<(I, Sender<Receiver<T>>)>,
    make: M,
}

impl<I: Iterator, T, M: Fn(I::Item) -> T> Work<I, T, M> {
    fn run(&self) {
        while let Some((item, done)) = self.take() {
            let _ = done.send((self.make)(item)); // If nobody waits for it any more, it is not needed.
        }
    }

    /// The next item and its place; none at the end of the items or when nobody takes results any more.
    /// The place is taken under the lock that hands out the items, so places stand in their order.
    fn take(&self) -> Option<(I::Item, Sender<T>)> {
        let mut items = self.items.lock().ok()?;
        let item = items.0.next()?;
        let (done, place) = bounded(1);
        items.1.send(place).ok()?;
        Some((item, done))
    }
}
