//! A file of JSON lines that is the truth about a run: each line exactly once, whatever was interrupted and repeated.
//! It never rewrites a whole line: what is repeated must reproduce its line to the bit, or the run has diverged.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Longest line that is read; the journal's have about 500 bytes, an evaluation's its answers.
const MAX_LINE_BYTES: u64 = 1 << 18;

/// What a line holds. In the file its fields have their order, and floats as many digits as give back their bits.
pub trait Entry: Serialize + DeserializeOwned {
    /// Every step has a line, from 1; if not, steps only grow.
    const EVERY_STEP: bool;
    /// The fields that are measured and not computed.
    const MEASURED: &'static [&'static str];

    /// Its optimizer step.
    fn step(&self) -> u64;

    /// The first field that JSON does not have a number for, but that must be one.
    fn not_finite(&self) -> Option<String>;
}

/// A file that cannot be gone on with.
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

/// The lines of a run under way. Only rank 0 has them.
#[derive(Debug)]
pub struct Lines<L> {
    path: PathBuf,
    pub(crate) file: File,
    /// Bytes of whole lines.
    bytes: u64,
    /// The step before the next line.
    last: u64,
    /// Lines beyond `last` that are in the file and will be repeated, each with the bytes before it.
    expected: VecDeque<(L, u64)>,
}

impl<L: Entry> Lines<L> {
    /// Opens or begins the file of a run that goes on after `resume_step` (0: from the start).
    ///
    /// A torn last line is cut off. Lines after `resume_step` stay, and their steps must reproduce them.
    ///
    /// # Errors
    /// The file cannot be used, another process writes it, a line is damaged, or it has not every step that it must have.
    pub fn open(path: &Path, resume_step: u64) -> Result<Self, Error> {
        let failed = |action| move |source| Error::File { path: path.to_owned(), action, source };
        let is_new = !path.exists();
        let file = OpenOptions::new().create(true).read(true).append(true).open(path).map_err(failed("open it"))?;
        // Where a file system has no locks, there is nothing to be locked out by.
        if matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
            return Err(Error::Locked(path.to_owned()));
        }
        let (mut lines, bytes) = read_lines::<L>(&file, path)?;
        let n_kept = lines.iter().take_while(|(line, _)| line.step() <= resume_step).count();
        let expected = lines.split_off(n_kept).into();
        let last = lines.last().map_or(0, |(line, _)| line.step());
        if L::EVERY_STEP && last < resume_step {
            return Err(Error::Short { path: path.to_owned(), last, resume_step });
        }
        file.set_len(bytes).map_err(failed("cut its torn last line"))?;
        if is_new {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed("sync its folder"))?;
        }
        Ok(Self { path: path.to_owned(), file, bytes, last, expected })
    }

    /// The step of the last line; of a file that was just opened, of the last one up to the step it resumes at.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Forgets the lines that are to be repeated, from the first on for which `is_so` does not hold.
    ///
    /// # Errors
    /// They cannot be cut off.
    pub fn expect_while(&mut self, is_so: impl Fn(&L) -> bool) -> Result<(), Error> {
        match self.expected.iter().position(|(line, _)| !is_so(line)) {
            Some(first) => self.cut(first),
            None => Ok(()),
        }
    }

    /// Records the next line; one that is there already must have the same numbers, to the bit.
    ///
    /// # Errors
    /// [`Error::Diverged`] if it has not; a number is not finite; or the line cannot be written, and then is not there.
    pub fn append(&mut self, line: &L) -> Result<(), Error> {
        let (step, last) = (line.step(), self.last);
        if step <= last || L::EVERY_STEP && step != last + 1 {
            return Err(Error::OutOfOrder { path: self.path.clone(), last, found: step });
        }
        self.require_finite(line)?;
        match self.expected.pop_front_if(|(expected, _)| expected.step() == step) {
            Some((expected, _)) => self.require_same(&expected, line)?,
            None => {
                self.cut(0)?; // Another step was expected: what follows was made under another config.
                self.write(line)?;
            }
        }
        self.last = step;
        Ok(())
    }

    /// For another thread, which syncs the lines before it saves a checkpoint.
    ///
    /// # Errors
    /// The process has no file handle left.
    pub fn syncer(&self) -> Result<Syncer, Error> {
        let failed = |source| Error::File { path: self.path.clone(), action: "open it", source };
        Ok(Syncer { path: self.path.clone(), file: self.file.try_clone().map_err(failed)? })
    }

    fn write(&mut self, line: &L) -> Result<(), Error> {
        let mut text = serde_json::to_vec(line).expect("numbers and texts are JSON");
        text.push(b'\n');
        if let Err(source) = self.file.write_all(&text) {
            let _ = self.file.set_len(self.bytes); // What was written of the line; else the next opening cuts it off.
            return Err(Error::File { path: self.path.clone(), action: "append to it", source });
        }
        self.bytes += text.len() as u64;
        Ok(())
    }

    fn require_finite(&self, line: &L) -> Result<(), Error> {
        match line.not_finite() {
            Some(field) => Err(Error::NotFinite { path: self.path.clone(), step: line.step(), field }),
            None => Ok(()),
        }
    }

    fn require_same(&self, expected: &L, found: &L) -> Result<(), Error> {
        let step = found.step();
        // Compared as text, in which two different floats, 0 and -0 included, are different.
        let texts = |line| fields(line).map(|(field, value)| (field, value.to_string())).collect::<Vec<_>>();
        let (expected, found) = (texts(expected), texts(found));
        let of = |line: &[(String, String)], name: &str| {
            line.iter().find(|(field, _)| field == name).map_or("none".to_owned(), |(_, value)| value.clone())
        };
        // A field that only one of them has comes last.
        let more = found.iter().filter(|(name, _)| !expected.iter().any(|(field, _)| field == name));
        let names = expected.iter().chain(more).map(|(name, _)| name.as_str());
        let fields: Vec<String> = names
            .filter(|name| !L::MEASURED.contains(name) && of(&expected, name) != of(&found, name))
            .map(|name| format!("{name} {}, repeated it has {}", of(&expected, name), of(&found, name)))
            .collect();
        match fields.is_empty() {
            true => Ok(()),
            false => Err(Error::Diverged { path: self.path.clone(), step, fields: fields.join("; ") }),
        }
    }

    /// Cuts off the lines to be repeated from the `first` of them on.
    fn cut(&mut self, first: usize) -> Result<(), Error> {
        let Some(&(_, begin)) = self.expected.get(first) else { return Ok(()) };
        let failed = |source| Error::File { path: self.path.clone(), action: "cut it", source };
        self.file.set_len(begin).map_err(failed)?;
        self.bytes = begin;
        self.expected.truncate(first);
        Ok(())
    }
}

/// Puts lines on the disk.
#[derive(Debug)]
pub struct Syncer {
    path: PathBuf,
    file: File,
}

impl Syncer {
    /// Returns when every line so far is on the disk. A checkpoint must not be there before its lines.
    ///
    /// # Errors
    /// The disk does not take them. They may be lost then, and a later sync that succeeds says nothing of them.
    pub fn sync(&self) -> Result<(), Error> {
        let failed = |source| Error::File { path: self.path.clone(), action: "sync it", source };
        self.file.sync_data().map_err(failed)
    }
}

/// All whole lines of a file; a torn last line is left out.
///
/// # Errors
/// The file cannot be read, or a line that is not the last one is damaged.
pub(crate) fn read<L: Entry>(path: &Path) -> Result<Vec<L>, Error> {
    let failed = |source| Error::File { path: path.to_owned(), action: "read it", source };
    let (lines, _) = read_lines(&File::open(path).map_err(failed)?, path)?;
    Ok(lines.into_iter().map(|(line, _)| line).collect())
}

/// The whole lines, each with the bytes before it, and how many bytes they have.
fn read_lines<L: Entry>(file: &File, path: &Path) -> Result<(Vec<(L, u64)>, u64), Error> {
    let failed = |source| Error::File { path: path.to_owned(), action: "read it", source };
    let mut reader = BufReader::new(file);
    let (mut lines, mut bytes, mut torn) = (Vec::<(L, u64)>::new(), 0, None);
    loop {
        let mut text = Vec::new();
        reader.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut text).map_err(failed)?;
        if text.is_empty() {
            return Ok((lines, bytes));
        }
        let nth = lines.len() as u64 + 1;
        // Only the last line may be torn, and it is not known to be the last before the next one is looked for.
        if let Some(reason) = torn {
            return Err(Error::Damaged { path: path.to_owned(), line: nth, reason });
        }
        let last = lines.last().map_or(0, |(line, _)| line.step());
        match serde_json::from_slice::<L>(&text) {
            Ok(line) if line.step() <= last || L::EVERY_STEP && line.step() != last + 1 => {
                let reason = format!("expected step {}, found step {}", last + 1, line.step());
                return Err(Error::Damaged { path: path.to_owned(), line: nth, reason });
            }
            Ok(line) if text.ends_with(b"\n") => {
                if let Some(field) = line.not_finite() {
                    let reason = format!("{field} is no number");
                    return Err(Error::Damaged { path: path.to_owned(), line: nth, reason });
                }
                lines.push((line, bytes));
                bytes += text.len() as u64;
            }
            Ok(_) => torn = Some("the line has no end".to_owned()),
            Err(error) => torn = Some(error.to_string()),
        }
    }
}

/// The first field without a number, those of `unknown` excepted: JSON has no NaN, serde_json writes null.
pub(crate) fn not_finite(line: &impl Serialize, unknown: &[&str]) -> Option<String> {
    fields(line).find(|(field, value)| value.is_null() && !unknown.contains(&field.as_str())).map(|(field, _)| field)
}

fn fields<L: Serialize>(line: &L) -> impl Iterator<Item = (String, Value)> + use<L> {
    let value = serde_json::to_value(line).expect("numbers and texts are JSON");
    value.as_object().cloned().into_iter().flatten()
}
