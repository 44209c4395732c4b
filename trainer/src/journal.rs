//! `journal.jsonl`, the truth about a run: one line for each step, exactly once, whatever was interrupted and repeated.
//! It never rewrites a whole line: a repeated step must reproduce its line to the bit, or the run has diverged.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// Longest line that is read; a written one has about 500 bytes.
const MAX_LINE_BYTES: u64 = 1 << 16;
/// The fields that are measured and not computed.
const MEASURED: [&str; 2] = ["rows_per_second", "data_wait"];
/// Only in the line of a skipped step.
const SKIPPED_ROWS: &str = "skipped_rows";
/// Fields that a skipped step has no numbers for.
const UNKNOWN_IF_SKIPPED: [&str; 3] = ["loss", "grad_norm", "entropy"];

/// One optimizer step. In the file the fields have this order, and floats as many digits as give back their bits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// Optimizer step, from 1.
    pub step: u64,
    /// Passes over the data after this step.
    pub epoch: f64,
    /// Mean token loss, in nats, unscaled. Not known of a skipped step: `null` in the file, NaN here.
    #[serde(deserialize_with = "null_is_nan")]
    pub loss: f64,
    /// L2 norm of all gradients, before clipping. Not known of a skipped step.
    #[serde(deserialize_with = "null_is_nan")]
    pub grad_norm: f64,
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Correct / supervised tokens of the whole step.
    pub mean_token_accuracy: f64,
    /// The same among tokens of answers.
    pub answer_token_accuracy: f64,
    /// Mean entropy of the predictions at supervised tokens, in nats. Not known of a skipped step.
    #[serde(deserialize_with = "null_is_nan")]
    pub entropy: f64,
    /// Supervised tokens that were predicted.
    pub correct_tokens: u64,
    /// Tokens that were learned from.
    pub supervised_tokens: u64,
    /// Attended tokens since the beginning of the run.
    pub num_tokens: u64,
    /// Measured: it differs between two equal runs.
    pub rows_per_second: f64,
    /// Measured: share of the step's time in which rank 0 waited for rows; 0 in a journal that is older than the field.
    #[serde(default)]
    pub data_wait: f64,
    /// Position of the first row of this step in the run.
    pub first_position: u64,
    /// And of the last.
    pub last_position: u64,
    /// blake3 of weights and moments after this step, in hex.
    pub digest: String,
    /// Ids of the rows among which loss or gradient was not finite, for which the step was skipped; an applied step has
    /// none, and its line no such field.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped_rows: Vec<String>,
}

impl Line {
    /// The first field that JSON does not have a number for, but that must be one.
    fn not_finite(&self) -> Option<String> {
        let unknown = |field: &str| !self.skipped_rows.is_empty() && UNKNOWN_IF_SKIPPED.contains(&field);
        // JSON has no NaN: serde_json writes null.
        fields(self).find(|(field, value)| value.is_null() && !unknown(field)).map(|(field, _)| field)
    }
}

fn null_is_nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

/// A journal that cannot be gone on with.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file itself.
    #[error("{path}: cannot {action}: {source}; check permissions and the disk", path = .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// Two runs in one folder.
    #[error("{path}: another process is writing it; wait for that run to end or use another output_dir", path = .0.display())]
    Locked(PathBuf),
    /// A line that is not the last one does not read.
    #[error("{path}:{line}: {reason}; restore the file or use another output_dir", path = .path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// From 1.
        line: u64,
        /// What is wrong.
        reason: String,
    },
    /// The checkpoint is ahead of the journal.
    #[error("{path}: ends at step {last}, the run resumes at step {resume_step}; restore the file or use another output_dir", path = .path.display())]
    Short {
        /// Which.
        path: PathBuf,
        /// Its last step.
        last: u64,
        /// Step of the checkpoint.
        resume_step: u64,
    },
    /// A repeated step has other numbers.
    #[error("{path}: step {step} had {fields}; the same config, data and program must give the same bits; if one was changed, use another output_dir", path = .path.display())]
    Diverged {
        /// Which.
        path: PathBuf,
        /// The step.
        step: u64,
        /// Every field that differs, before and now.
        fields: String,
    },
    /// Not a next line.
    #[error("{path}: step {found} cannot follow step {last}; this is a defect, please report it", path = .path.display())]
    OutOfOrder {
        /// Which.
        path: PathBuf,
        /// The step before.
        last: u64,
        /// The step given.
        found: u64,
    },
    /// A number that JSON does not have.
    #[error("{path}: step {step}: {field} is not a finite number; the step must not be recorded", path = .path.display())]
    NotFinite {
        /// Which.
        path: PathBuf,
        /// The step.
        step: u64,
        /// The field.
        field: String,
    },
}

impl Error {
    /// 4 where the numbers are at fault, 6 where the file is.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Diverged { .. } | Self::NotFinite { .. } => 4,
            _ => 6,
        }
    }
}

/// The journal of a run under way. Only rank 0 has one.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    /// Bytes of whole lines.
    bytes: u64,
    /// The step before the next line.
    last: u64,
    /// Lines beyond `last` that are in the file and will be repeated.
    expected: VecDeque<Line>,
}

impl Journal {
    /// Opens or begins the journal of a run that goes on after `resume_step` (0: from the start).
    ///
    /// A torn last line is cut off. Lines after `resume_step` stay, and their steps must reproduce them.
    ///
    /// # Errors
    /// The file cannot be used, another process writes it, a line is damaged, or it ends before `resume_step`.
    pub fn open(path: &Path, resume_step: u64) -> Result<Self, Error> {
        let failed = |action| move |source| Error::File { path: path.to_owned(), action, source };
        let is_new = !path.exists();
        let file = OpenOptions::new().create(true).read(true).append(true).open(path).map_err(failed("open it"))?;
        // Where a file system has no locks, there is nothing to be locked out by.
        if matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
            return Err(Error::Locked(path.to_owned()));
        }
        let (lines, bytes) = read_lines(&file, path)?;
        let last = lines.len() as u64;
        if last < resume_step {
            return Err(Error::Short { path: path.to_owned(), last, resume_step });
        }
        file.set_len(bytes).map_err(failed("cut its torn last line"))?;
        if is_new {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed("sync its folder"))?;
        }
        let expected = lines.into_iter().skip(resume_step as usize).collect();
        Ok(Self { path: path.to_owned(), file, bytes, last: resume_step, expected })
    }

    /// Records the next step; a step that is there already must have the same numbers, to the bit.
    ///
    /// # Errors
    /// [`Error::Diverged`] if it has not; a number is not finite; or the line cannot be written, and then is not there.
    pub fn append(&mut self, line: &Line) -> Result<(), Error> {
        if line.step != self.last + 1 {
            return Err(Error::OutOfOrder { path: self.path.clone(), last: self.last, found: line.step });
        }
        self.require_finite(line)?;
        match self.expected.pop_front() {
            Some(expected) => self.require_same(&expected, line)?,
            None => self.write(line)?,
        }
        self.last = line.step;
        Ok(())
    }

    /// For another thread, which syncs the journal before it saves a checkpoint.
    ///
    /// # Errors
    /// The process has no file handle left.
    pub fn syncer(&self) -> Result<Syncer, Error> {
        let failed = |source| Error::File { path: self.path.clone(), action: "open it", source };
        Ok(Syncer { path: self.path.clone(), file: self.file.try_clone().map_err(failed)? })
    }

    fn write(&mut self, line: &Line) -> Result<(), Error> {
        let mut text = serde_json::to_vec(line).expect("numbers and a text are JSON");
        text.push(b'\n');
        if let Err(source) = self.file.write_all(&text) {
            let _ = self.file.set_len(self.bytes); // What was written of the line; else the next opening cuts it off.
            return Err(Error::File { path: self.path.clone(), action: "append to it", source });
        }
        self.bytes += text.len() as u64;
        Ok(())
    }

    fn require_finite(&self, line: &Line) -> Result<(), Error> {
        match line.not_finite() {
            Some(field) => Err(Error::NotFinite { path: self.path.clone(), step: line.step, field }),
            None => Ok(()),
        }
    }

    fn require_same(&self, expected: &Line, found: &Line) -> Result<(), Error> {
        // Compared as text, in which two different floats, 0 and -0 included, are different.
        let texts = |line| fields(line).map(|(field, value)| (field, value.to_string())).collect::<Vec<_>>();
        let (mut expected, mut found) = (texts(expected), texts(found));
        // Only the line of a skipped step has the field that names its rows.
        let n_fields = expected.len().max(found.len());
        expected.resize(n_fields, (SKIPPED_ROWS.to_owned(), "[]".to_owned()));
        found.resize(n_fields, (SKIPPED_ROWS.to_owned(), "[]".to_owned()));
        let differ = expected.into_iter().zip(found).filter(|(e, f)| e != f && !MEASURED.contains(&e.0.as_str()));
        let fields: Vec<String> = differ
            .map(|((field, expected), (_, found))| format!("{field} {expected}, repeated it has {found}"))
            .collect();
        match fields.is_empty() {
            true => Ok(()),
            false => Err(Error::Diverged { path: self.path.clone(), step: self.last + 1, fields: fields.join("; ") }),
        }
    }
}

/// Puts the lines of a journal on the disk.
#[derive(Debug)]
pub struct Syncer {
    path: PathBuf,
    file: File,
}

impl Syncer {
    /// Returns when every line so far is on the disk. A checkpoint must not be there before its journal.
    ///
    /// # Errors
    /// The disk does not take them. They may be lost then, and a later sync that succeeds says nothing of them.
    pub fn sync(&self) -> Result<(), Error> {
        let failed = |source| Error::File { path: self.path.clone(), action: "sync it", source };
        self.file.sync_data().map_err(failed)
    }
}

/// All whole lines of a journal, for reports; a torn last line is left out.
///
/// # Errors
/// The file cannot be read, or a line that is not the last one is damaged.
pub fn read(path: &Path) -> Result<Vec<Line>, Error> {
    let failed = |source| Error::File { path: path.to_owned(), action: "read it", source };
    Ok(read_lines(&File::open(path).map_err(failed)?, path)?.0)
}

/// The whole lines, of steps 1, 2, 3 ..., and how many bytes they have.
fn read_lines(file: &File, path: &Path) -> Result<(Vec<Line>, u64), Error> {
    let failed = |source| Error::File { path: path.to_owned(), action: "read it", source };
    let mut reader = BufReader::new(file);
    let (mut lines, mut bytes, mut torn) = (Vec::new(), 0, None);
    loop {
        let mut text = Vec::new();
        reader.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut text).map_err(failed)?;
        if text.is_empty() {
            return Ok((lines, bytes));
        }
        let next = lines.len() as u64 + 1;
        // Only the last line may be torn, and it is not known to be the last before the next one is looked for.
        if let Some(reason) = torn {
            return Err(Error::Damaged { path: path.to_owned(), line: next, reason });
        }
        match serde_json::from_slice::<Line>(&text) {
            Ok(line) if line.step != next => {
                let reason = format!("expected step {next}, found step {}", line.step);
                return Err(Error::Damaged { path: path.to_owned(), line: next, reason });
            }
            Ok(line) if text.ends_with(b"\n") => {
                if let Some(field) = line.not_finite() {
                    let reason = format!("{field} is no number");
                    return Err(Error::Damaged { path: path.to_owned(), line: next, reason });
                }
                bytes += text.len() as u64;
                lines.push(line);
            }
            Ok(_) => torn = Some("the line has no end".to_owned()),
            Err(error) => torn = Some(error.to_string()),
        }
    }
}

fn fields(line: &Line) -> impl Iterator<Item = (String, Value)> {
    let value = serde_json::to_value(line).expect("numbers and a text are JSON");
    value.as_object().cloned().into_iter().flatten()
}

#[cfg(test)]
mod tests;
