//! Archives that come when their turn comes and go when their rows are safe: all of them together may be larger than the
//! disk. One is fetched while the one before it is read.

use std::fmt::Debug;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::Download;

/// Between two looks at how far a download is.
const TICK: Duration = Duration::from_millis(250);

/// Brings archives to this machine.
pub trait Fetch: Debug + Send + Sync {
    /// Where archive `at` will lie, and its bytes.
    fn file(&self, at: usize) -> (PathBuf, u64);

    /// How many there are.
    fn n_files(&self) -> usize;

    /// Bytes of archive `at` that are here.
    fn have(&self, at: usize) -> u64;

    /// Returns when archive `at` is here, whole.
    ///
    /// # Errors
    /// What the network or the disk says.
    fn fetch(&self, at: usize) -> io::Result<()>;

    /// All rows of archive `at` are in finished shards; nothing needs it any more.
    fn release(&self, at: usize);
}

/// The archives of a source, in the order in which they are read.
pub(super) struct Coming {
    fetch: Arc<dyn Fetch>,
    ahead: Option<(usize, JoinHandle<io::Result<()>>)>,
}

impl Coming {
    pub(super) fn new(fetch: Arc<dyn Fetch>) -> Self {
        Self { fetch, ahead: None }
    }

    /// Waits for archive `at`, then begins with the next one. `tick` hears how far the download is, every now and then, and
    /// says whether to go on waiting; `None` if not.
    pub(super) fn wait(&mut self, at: usize, tick: &mut dyn FnMut(Download) -> bool) -> Option<io::Result<()>> {
        let thread = match self.ahead.take() {
            Some((ahead, thread)) if ahead == at => thread,
            _ => self.begin(at),
        };
        let (archives, bytes) = (self.fetch.n_files(), self.fetch.file(at).1);
        while !thread.is_finished() {
            thread::sleep(TICK);
            if !tick(Download { archive: at, archives, have: self.fetch.have(at), bytes }) {
                return None;
            }
        }
        let fetched = thread.join().unwrap_or_else(|_| Err(io::Error::other("the download panicked")));
        if fetched.is_ok() && at + 1 < archives {
            self.ahead = Some((at + 1, self.begin(at + 1)));
        }
        Some(fetched)
    }

    fn begin(&self, at: usize) -> JoinHandle<io::Result<()>> {
        let fetch = self.fetch.clone();
        thread::spawn(move || fetch.fetch(at))
    }
}
