//! The errors of this crate.
//! A message says which file and key, what was expected and found, and what to do next.

use std::io;
use std::path::{Path, PathBuf};

/// Why names or files could not be used. Nothing half-written is ever visible when one is returned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("{file}: {action} failed: {source}{next}", file = file.display(), next = next(source))]
    Io {
        /// The file or folder.
        file: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// A file is not what its name says, or is torn.
    #[error("{file}: {detail}; fetch or copy the file again", file = file.display())]
    Broken {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// Tensors are missing, unexpected, doubled or of another shape; all of them are listed.
    #[error("{place}: {n} of its tensors do not fit:\n  {list}\ngive the folder that belongs to this model, or fetch it again",
        place = place.display(), n = problems.len(), list = problems.join("\n  "))]
    Tensors {
        /// The file or folder that holds them.
        place: PathBuf,
        /// One line a tensor.
        problems: Vec<String>,
    },
    /// A value of a JSON file cannot be honoured.
    #[error("{file}: {field} is {found}, but {expected}; without it the numbers would be others", file = file.display())]
    Config {
        /// The file.
        file: PathBuf,
        /// The key.
        field: String,
        /// Its value, as JSON.
        found: String,
        /// What this program can honour.
        expected: String,
    },
    /// NaN or infinity where numbers are needed.
    #[error("{file}: {key}: element {element} is not finite; use an earlier checkpoint, or a dtype that holds it", file = file.display())]
    NotFinite {
        /// The file or folder.
        file: PathBuf,
        /// The tensor.
        key: String,
        /// Its first such element, row-major.
        element: usize,
    },
    /// `target_modules` names something that is not there.
    #[error("target_modules: {names} matches no linear of this model; all-linear would be: {known}", names = names.join(", "), known = known.join(", "))]
    NoSuchTarget {
        /// The suffixes that match nothing.
        names: Vec<String>,
        /// The suffixes that would match.
        known: Vec<String>,
    },
    /// An adapter belongs to other numbers than these.
    #[error("{base}: is not the base that {adapter} was trained on: {n} tensors differ, the first are\n  {list}\ngive that base ({hashes})",
        base = base.display(), adapter = adapter.display(), n = differences.len(), list = differences[..differences.len().min(8)].join("\n  "))]
    OtherBase {
        /// The folder of the base.
        base: PathBuf,
        /// The folder of the adapter.
        adapter: PathBuf,
        /// blake3 of the wanted and of the given one.
        hashes: String,
        /// One line a tensor.
        differences: Vec<String>,
    },
    /// The disk is too full for what is about to be written.
    #[error("{dir}: {need} MB are to be written, {free} MB are free; free some disk or choose another folder", dir = dir.display())]
    NoRoom {
        /// The unfinished folder.
        dir: PathBuf,
        /// In MB, rounded up.
        need: u64,
        /// In MB.
        free: u64,
    },
    /// The result could not be published.
    #[error(transparent)]
    Storage(#[from] storage::Error),
}

/// What to do about a file that is not there.
fn next(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::NotFound => "; give a folder that has this file",
        _ => "",
    }
}

impl Error {
    /// For `map_err`: the failed action on a file.
    pub(crate) fn io(file: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { file: file.to_owned(), action, source }
    }

    /// Whether a disk is to blame, and not what was asked for.
    #[must_use]
    pub fn is_storage(&self) -> bool {
        matches!(self, Self::Storage(_) | Self::NoRoom { .. })
            || matches!(self, Self::Io { action: "write" | "fsync" | "create" | "copy", .. })
    }

    pub(crate) fn broken(file: &Path, detail: impl std::fmt::Display) -> Self {
        Self::Broken { file: file.to_owned(), detail: detail.to_string() }
    }

    /// `Ok` if there is no problem, else all of them in one error.
    pub(crate) fn unless_empty(place: &Path, problems: Vec<String>) -> Result<(), Self> {
        if problems.is_empty() { Ok(()) } else { Err(Self::Tensors { place: place.to_owned(), problems }) }
    }
}
