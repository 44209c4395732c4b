//! A file of lines that grows window by window, each window of rows with one write, and goes on where it was stopped.
//! It never keeps half a window: batches are then the same whenever the eval was killed, and so are the bytes.

use std::ops::Range;
use std::path::{Path, PathBuf};

use indicatif::ProgressBar;
use serde::Serialize;
use serde::de::DeserializeOwned;
use storage::Appended;

use super::EvalError;
use crate::Error;

/// The lines of a task that are there.
pub(super) struct Sheet<T> {
    file: Appended,
    path: PathBuf,
    /// In the order of the rows.
    pub lines: Vec<T>,
    /// Where each line ends in the file.
    ends: Vec<u64>,
}

impl<T: Serialize + DeserializeOwned> Sheet<T> {
    /// Opens or begins the file; a torn last line is left out.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let (file, held) = Appended::open(path)?;
        let (mut lines, mut ends, mut end) = (Vec::new(), Vec::new(), 0);
        for line in held.split_inclusive(|&byte| byte == b'\n').filter(|line| line.ends_with(b"\n")) {
            end += line.len() as u64;
            let parsed = serde_json::from_slice(line).map_err(|_| EvalError::Line {
                file: path.to_owned(),
                line: lines.len() + 1,
                reason: "is no line of this eval; remove the file to ask again".into(),
            })?;
            lines.push(parsed);
            ends.push(end);
        }
        Ok(Self { file, path: path.to_owned(), lines, ends })
    }

    /// Appends what is missing, window by window, and keeps what whole windows are there. `n_lines` says how many lines a
    /// row has, `id_of` which row a line is about, and `ask` makes the lines of a window of rows.
    pub(super) fn fill(
        &mut self,
        (ids, window): (&[String], usize),
        bar: &ProgressBar,
        n_lines: impl Fn(usize) -> Result<usize, Error>,
        id_of: impl Fn(&T) -> &str,
        mut ask: impl FnMut(Range<usize>) -> Result<Vec<T>, Error>,
    ) -> Result<(), Error> {
        let windows = (0..ids.len()).step_by(window).map(|begin| begin..ids.len().min(begin + window));
        let mut there = 0;
        for rows in windows {
            let mut end = there;
            for row in rows.clone() {
                for _ in 0..n_lines(row)? {
                    if self.lines.get(end).is_some_and(|line| id_of(line) != ids[row]) {
                        return Err(self.foreign(end, &ids[row]));
                    }
                    end += 1;
                }
            }
            if end > self.lines.len() {
                self.keep(there)?;
                self.append(ask(rows.clone())?)?;
            }
            there = end;
            bar.set_position(rows.end as u64);
        }
        self.keep(there)
    }

    /// Keeps the first `n` lines, and whatever follows goes.
    fn keep(&mut self, n: usize) -> Result<(), Error> {
        self.lines.truncate(n);
        self.ends.truncate(n);
        Ok(self.file.cut(self.ends.last().copied().unwrap_or_default())?)
    }

    /// A line that is not this row's: the files were mixed up.
    fn foreign(&self, line: usize, id: &str) -> Error {
        let reason = format!("is not about row {id}, which stands here in the data; remove the file to ask again");
        EvalError::Line { file: self.path.clone(), line: line + 1, reason }.into()
    }

    /// Appends a window's lines; they are on the disk when this returns.
    fn append(&mut self, lines: Vec<T>) -> Result<(), Error> {
        let (mut bytes, mut end) = (Vec::new(), self.ends.last().copied().unwrap_or_default());
        let mut ends = Vec::with_capacity(lines.len());
        for line in &lines {
            let begin = bytes.len();
            serde_json::to_writer(&mut bytes, line).map_err(|error| Error::file(&self.path, "write")(error.into()))?;
            bytes.push(b'\n');
            end += (bytes.len() - begin) as u64;
            ends.push(end);
        }
        self.file.append(&bytes)?;
        self.lines.extend(lines);
        self.ends.extend(ends);
        Ok(())
    }
}
