//! For tests: sees every change of the disk before it is made, and may forbid it. Only with the feature `faults`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

pub use crate::disk::Op;

/// Whether the change may be made; an error is what the system call would have said.
pub type Watcher = Arc<dyn Fn(Op) -> io::Result<()> + Send + Sync>;

static WATCHERS: Mutex<Vec<(PathBuf, Watcher)>> = Mutex::new(Vec::new());

/// Shows `watcher` every change below `root`, on whatever thread, until the guard is dropped.
#[must_use]
pub fn watch(root: &Path, watcher: impl Fn(Op) -> io::Result<()> + Send + Sync + 'static) -> Watch {
    WATCHERS.lock().unwrap_or_else(PoisonError::into_inner).push((root.to_owned(), Arc::new(watcher)));
    Watch(root.to_owned())
}

/// Ends the watch over its root when dropped.
#[derive(Debug)]
pub struct Watch(PathBuf);

impl Drop for Watch {
    fn drop(&mut self) {
        WATCHERS.lock().unwrap_or_else(PoisonError::into_inner).retain(|(root, _)| *root != self.0);
    }
}

pub(crate) fn before(op: Op) -> io::Result<()> {
    let (Op::Create(path)
    | Op::Write(path, _)
    | Op::Sync(path)
    | Op::Rename(path, _)
    | Op::CreateDir(path)
    | Op::RemoveFile(path)
    | Op::RemoveDir(path)) = op;
    // Called without the lock: a watcher may take its time.
    let watchers: Vec<Watcher> = {
        let all = WATCHERS.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter(|(root, _)| path.starts_with(root)).map(|(_, watcher)| watcher.clone()).collect()
    };
    watchers.iter().try_for_each(|watcher| watcher(op))
}
