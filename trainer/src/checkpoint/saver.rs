//! Checkpoints beside the training: the loop hands over a copy and goes on; a thread writes, hashes, syncs and publishes it.
//! One save at a time. It never keeps a failure to itself, and never tries the same files twice.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use super::{Error, MB, State, by_step, prune, require_room, save};
use crate::journal::Syncer;

/// Saves in a row that may fail before the run ends: training on for ever without a checkpoint would waste it.
pub const MAX_FAILED: u32 = 3;

/// A run at the end of a step, as the bytes of its files: 12 bytes for each trained number, held until they are saved.
#[derive(Debug)]
pub struct Snapshot {
    /// Where the run is.
    pub state: State,
    /// Name and content of each file but state and manifest.
    pub files: Vec<(&'static str, Vec<u8>)>,
}

/// What became of a save.
#[derive(Debug)]
pub enum Saved {
    /// It is on the disk and verified.
    Durable {
        /// Its step.
        step: u64,
        /// Why older ones could not be removed, if so.
        not_pruned: Option<Error>,
    },
    /// It was given up whole; those before it are what they were.
    Failed {
        /// Its step.
        step: u64,
        /// How many failed in a row, this one included.
        in_a_row: u32,
        /// Why.
        error: Error,
    },
}

/// Ends with why older checkpoints could not be removed, if so; or with why the new one could not be saved.
type Writer = JoinHandle<Result<Option<Error>, Error>>;

/// Saves the checkpoints of one run; only rank 0 has one.
#[derive(Debug)]
pub struct Saver {
    run_dir: PathBuf,
    keep: usize,
    /// A checkpoint must not be ahead of the journal, so this is synced first.
    journal: Arc<Syncer>,
    /// Its step, and the thread.
    under_way: Option<(u64, Writer)>,
    failed_in_a_row: u32,
}

impl Saver {
    /// Of the run in `run_dir`, which keeps its newest `keep` checkpoints, and one more while that is being made.
    #[must_use]
    pub fn new(run_dir: PathBuf, keep: usize, journal: Syncer) -> Self {
        Self { run_dir, keep, journal: Arc::new(journal), under_way: None, failed_in_a_row: 0 }
    }

    /// Looks at the disk before the first step: how many MB are missing for all the checkpoints that will be kept, if any.
    ///
    /// # Errors
    /// [`Error::NoRoom`]: not even one more checkpoint of `bytes` fits.
    pub fn missing_mb(&self, bytes: u64) -> Result<Option<u64>, Error> {
        require_room(&self.run_dir, bytes)?;
        let to_come = (self.keep + 1).saturating_sub(by_step(&self.run_dir)?.len()) as u64;
        let missing = (to_come * bytes).saturating_sub(storage::free_bytes(&self.run_dir)?);
        Ok((missing > 0).then(|| missing.div_ceil(MB)))
    }

    /// Begins to save; if the save before is still under way, waits for it and says what became of it.
    pub fn begin(&mut self, snapshot: Snapshot) -> Option<Saved> {
        let before = self.wait();
        let (run_dir, keep, step) = (self.run_dir.clone(), self.keep, snapshot.state.step);
        let journal = self.journal.clone();
        let write = move || {
            journal.sync()?;
            save(&run_dir, &snapshot.state, &snapshot.files)?;
            Ok(prune(&run_dir, keep).err())
        };
        self.under_way = Some((step, thread::spawn(write)));
        before
    }

    /// What became of the save under way, if it has ended; never waits.
    pub fn ended(&mut self) -> Option<Saved> {
        self.under_way.as_ref().is_some_and(|(_, thread)| thread.is_finished()).then(|| self.wait())?
    }

    /// What became of the save under way, if there is one; waits for it.
    pub fn wait(&mut self) -> Option<Saved> {
        let (step, thread) = self.under_way.take()?;
        let result = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        self.failed_in_a_row = if result.is_ok() { 0 } else { self.failed_in_a_row + 1 };
        let in_a_row = self.failed_in_a_row;
        Some(match result {
            Ok(not_pruned) => Saved::Durable { step, not_pruned },
            Err(error) => Saved::Failed { step, in_a_row, error },
        })
    }
}

impl Drop for Saver {
    /// However a run ends, the save under way is finished: it may be the newest state there is.
    fn drop(&mut self) {
        if let Some((_, thread)) = self.under_way.take() {
            let _ = thread.join();
        }
    }
}
