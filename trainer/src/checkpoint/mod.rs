//! Folders `checkpoint-N` of a run: saved whole, found by step, believed only if every byte has its hash.
//! It never overwrites an intact checkpoint, and removes old ones only when newer ones are intact.

mod manifest;
mod optimizer_state;
mod saver;

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use storage::StagedDir;

use crate::journal;
use manifest::Manifest;
pub use optimizer_state::{decode_optimizer, encode_optimizer};
pub use saver::{MAX_FAILED, Saved, Saver, Snapshot};

const PREFIX: &str = "checkpoint-";
const MANIFEST: &str = "manifest.json";
const STATE: &str = "trainer_state.json";
const MB: u64 = 1_000_000;

/// Where a run is, beside its adapters and moments: the content of `trainer_state.json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Optimizer steps made.
    pub step: u64,
    /// Passes over the data, as a fraction.
    pub epoch: f64,
    /// Rows consumed since the beginning of the run, over all ranks: the whole state of the loader.
    pub position: u64,
    /// Attended tokens since the beginning of the run, over all ranks.
    pub num_tokens: u64,
    /// Steps of these that were not applied, because loss or gradient was not finite.
    #[serde(default)]
    pub skipped_steps: u64,
    /// Ranks at the time; the run may go on with another number.
    pub world_size: usize,
    /// `Config::fingerprint` of the run.
    pub fingerprint: String,
    /// `Dataset::fingerprint` of its rows.
    pub rows: String,
}

/// A checkpoint whose every file has the size and the hash of its manifest.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// Where the run was.
    pub state: State,
    /// Its folder.
    pub dir: PathBuf,
    manifest: Manifest,
}

/// A folder `checkpoint-N` that cannot be resumed from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{dir}: {reason}; this checkpoint is not used", dir = .dir.display())]
pub struct Damaged {
    /// The folder.
    pub dir: PathBuf,
    /// What is wrong, and in which file.
    pub reason: String,
}

/// A checkpoint that could not be saved, found or used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The run folder cannot be read.
    #[error("{path}: cannot {action}: {source}; check permissions and the disk", path = .path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// A file changed or vanished after it had been found intact.
    #[error(transparent)]
    Damaged(#[from] Damaged),
    /// The step has an intact checkpoint with other content.
    #[error("{path}: is there already, intact and with other content; use another output_dir", path = .0.display())]
    Occupied(PathBuf),
    /// The run folder belongs to a run with other numbers.
    #[error("{dir}: is of a run with config {found}, this one is {expected}; restore its config or use another output_dir", dir = .dir.display())]
    OtherConfig {
        /// The checkpoint.
        dir: PathBuf,
        /// Its fingerprint.
        found: String,
        /// That of this run.
        expected: String,
    },
    /// The rows are not those which the run began with.
    #[error("{dir}: is of a run on other rows ({found}; these are {expected}); restore the data set or use another output_dir", dir = .dir.display())]
    OtherRows {
        /// The checkpoint.
        dir: PathBuf,
        /// Fingerprint of the rows it was trained on.
        found: String,
        /// That of the rows that are there now.
        expected: String,
    },
    /// `optimizer.safetensors` is of another adapter.
    #[error(
        "optimizer.safetensors: expected {expected}, found {found}; the checkpoint is of another adapter or program"
    )]
    Optimizer {
        /// What this run needs.
        expected: String,
        /// What the file holds.
        found: String,
    },
    /// The journal up to the checkpoint is not on the disk, so the checkpoint must not be.
    #[error(transparent)]
    Journal(#[from] journal::Error),
    /// There is no room for the new checkpoint, and an old one is never removed before it.
    #[error("{dir}: a checkpoint takes {need} MB, {free} MB are free; free some disk or use another output_dir", dir = .dir.display())]
    NoRoom {
        /// The run folder.
        dir: PathBuf,
        /// Size of a checkpoint, rounded up.
        need: u64,
        /// What the disk has left.
        free: u64,
    },
    /// The new checkpoint could not be published.
    #[error(transparent)]
    Storage(#[from] storage::Error),
}

impl Error {
    /// Whether another attempt can succeed: disks get free again, but a journal whose sync failed has lost its lines.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::NoRoom { .. } | Self::Storage(_) | Self::Folder { .. })
    }
}

/// Saves `files` (name, bytes), the state and a manifest as `checkpoint-N` in the run folder, N being the state's step.
///
/// When this returns, the checkpoint is on the disk and verified. A damaged one of the same step is replaced.
///
/// # Errors
/// Nothing is visible then, and all other checkpoints are what they were.
pub fn save(run_dir: &Path, state: &State, files: &[(&str, Vec<u8>)]) -> Result<PathBuf, Error> {
    let dir = run_dir.join(format!("{PREFIX}{}", state.step));
    let state_json = serde_json::to_vec_pretty(state).expect("numbers and a text are JSON");
    let all = || files.iter().map(|(name, bytes)| (*name, bytes)).chain([(STATE, &state_json)]);
    if dir.exists() {
        match Checkpoint::open(&dir) {
            Ok(intact) => {
                let hashes = all().map(|(name, bytes)| (name, bytes.len(), blake3::hash(bytes)));
                let same = Manifest::new(state, hashes) == intact.manifest;
                return if same { Ok(dir) } else { Err(Error::Occupied(dir)) };
            }
            Err(damaged) => {
                tracing::warn!(%damaged, "replaced");
                storage::remove_dir(&dir)?;
            }
        }
    }
    require_room(run_dir, all().map(|(_, bytes)| bytes.len() as u64).sum())?;
    let staged = StagedDir::new(&dir)?;
    let mut hashes = Vec::new();
    for (name, bytes) in all() {
        hashes.push((name, bytes.len(), staged.write(name, bytes)?));
    }
    staged.write(MANIFEST, &Manifest::new(state, hashes).to_json())?;
    staged.publish()?;
    Ok(dir)
}

/// The intact checkpoint with the highest step, and every higher one that is damaged, with the reason.
///
/// Folders that a killed save left unfinished are hidden and not looked at.
///
/// # Errors
/// The run folder is there and cannot be listed.
pub fn newest(run_dir: &Path) -> Result<(Option<Checkpoint>, Vec<Damaged>), Error> {
    let mut damaged = Vec::new();
    for dir in by_step(run_dir)? {
        match Checkpoint::open(&dir) {
            Ok(checkpoint) => return Ok((Some(checkpoint), damaged)),
            Err(reason) => damaged.push(reason),
        }
    }
    Ok((None, damaged))
}

/// Removes all checkpoints below the newest `keep` intact ones (at least one), and returns their folders.
///
/// The intact ones are verified first: as long as there are fewer than `keep`, nothing is removed.
///
/// # Errors
/// The run folder cannot be listed, or a checkpoint cannot be removed.
pub fn prune(run_dir: &Path, keep: usize) -> Result<Vec<PathBuf>, Error> {
    let mut intact = 0;
    let mut removed = Vec::new();
    for dir in by_step(run_dir)? {
        if intact == keep.max(1) {
            storage::remove_dir(&dir)?;
            removed.push(dir);
        } else if Checkpoint::open(&dir).is_ok() {
            intact += 1;
        }
    }
    Ok(removed)
}

impl Checkpoint {
    fn open(dir: &Path) -> Result<Self, Damaged> {
        let damaged = |reason| Damaged { dir: dir.to_owned(), reason };
        let manifest = Manifest::read(dir).map_err(damaged)?;
        for name in manifest.names() {
            manifest.verify(dir, name).map_err(damaged)?;
        }
        let mut checkpoint = Self { state: State::default(), dir: dir.to_owned(), manifest };
        checkpoint.state =
            serde_json::from_slice(&checkpoint.read(STATE)?).map_err(|e| damaged(format!("{STATE}: {e}")))?;
        if step_of(dir) != Some(checkpoint.state.step) {
            return Err(damaged(format!("{STATE}: is of step {}", checkpoint.state.step)));
        }
        Ok(checkpoint)
    }

    /// The bytes of one of its files, verified once more.
    ///
    /// # Errors
    /// The manifest does not know the file, or it changed since the checkpoint was found.
    pub fn read(&self, name: &str) -> Result<Vec<u8>, Damaged> {
        let damaged = |reason| Damaged { dir: self.dir.clone(), reason };
        self.manifest.read_file(&self.dir, name).map_err(damaged)
    }

    /// Refuses to go on with a run of another config.
    ///
    /// # Errors
    /// [`Error::OtherConfig`], with both fingerprints.
    pub fn require_fingerprint(&self, expected: &str) -> Result<(), Error> {
        let found = self.state.fingerprint.clone();
        if found == expected {
            return Ok(());
        }
        Err(Error::OtherConfig { dir: self.dir.clone(), found, expected: expected.to_owned() })
    }

    /// Refuses to go on with a run on other rows: their order would lead to others than it has seen.
    ///
    /// # Errors
    /// [`Error::OtherRows`], with both fingerprints.
    pub fn require_rows(&self, expected: &str) -> Result<(), Error> {
        let found = self.state.rows.clone();
        if found == expected {
            return Ok(());
        }
        Err(Error::OtherRows { dir: self.dir.clone(), found, expected: expected.to_owned() })
    }
}

/// All folders `checkpoint-N`, the highest step first; a run folder that does not exist has none.
fn by_step(run_dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = |source| Error::Folder { path: run_dir.to_owned(), action: "list it", source };
    let entries = match fs::read_dir(run_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let paths: io::Result<Vec<PathBuf>> = entries.map(|entry| entry.map(|entry| entry.path())).collect();
    let mut dirs: Vec<(u64, PathBuf)> =
        paths.map_err(failed)?.into_iter().filter_map(|p| Some((step_of(&p)?, p))).collect();
    dirs.sort_by(|a, b| b.cmp(a));
    Ok(dirs.into_iter().map(|(_, dir)| dir).collect())
}

/// N of a path that ends in `checkpoint-N`, written as this program writes it.
fn step_of(path: &Path) -> Option<u64> {
    let digits = path.file_name()?.to_str()?.strip_prefix(PREFIX)?;
    digits.parse().ok().filter(|step: &u64| step.to_string() == digits)
}

/// Looks at the disk before a checkpoint of `bytes` is begun.
fn require_room(run_dir: &Path, bytes: u64) -> Result<(), Error> {
    let free = storage::free_bytes(run_dir)?;
    if free >= bytes {
        return Ok(());
    }
    Err(Error::NoRoom { dir: run_dir.to_owned(), need: bytes.div_ceil(MB), free: free / MB })
}

/// At most `bound` bytes of a file.
fn read_bounded(path: &Path, bound: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(bound).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
