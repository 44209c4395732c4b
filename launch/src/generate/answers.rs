//! The file of answers, one JSON object a line. What is answered already survives whatever ends the program, beside the
//! file; the file itself appears when it is whole.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::Error;

/// One line of the file of answers.
#[derive(Debug, Serialize, Deserialize)]
pub struct Answer {
    /// Row id, or the page's file name.
    pub id: String,
    /// What was asked.
    pub question: String,
    /// What the model said.
    pub answer: String,
    /// Whether it came to its end before `--max-new-tokens`.
    pub ended: bool,
    /// What the row says; nothing where only a page was given.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub expected: String,
}

/// Answers under way: `FILE.unfinished` holds a line that says of what they are, then those that are done.
pub struct Unfinished {
    path: PathBuf,
    header: String,
    /// The lines of the answers.
    lines: String,
    file: Option<File>,
}

impl Unfinished {
    /// Begins the answers of `out`, or goes on with those that an earlier try has left; and how many those are. `of` is a
    /// hash of everything that decides the answers.
    ///
    /// # Errors
    /// The rest is of another model, other rows or options.
    pub fn open(out: &Path, of: &blake3::Hash) -> Result<(Self, usize), Error> {
        let name = format!("{}.unfinished", out.file_name().unwrap_or_default().to_string_lossy());
        let path = out.with_file_name(name);
        let header = format!("{}\n", serde_json::json!({"answers_of": of.to_hex().as_str()}));
        let known = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            read => read.map_err(Error::file(&path, "read"))?,
        };
        // A line that was cut off is not an answer.
        let whole = known.rfind('\n').map_or("", |end| &known[..=end]);
        let lines = match whole.strip_prefix(&header) {
            Some(lines) => lines.to_owned(),
            None if whole.is_empty() => String::new(),
            None => return Err(Error::OtherAnswers(path)),
        };
        let n = lines.lines().count();
        Ok((Self { path, header, lines, file: None }, n))
    }

    /// Adds some answers, on the disk when this returns.
    pub fn add(&mut self, answers: &[Answer]) -> Result<(), Error> {
        let new: String = answers.iter().map(|answer| format!("{}\n", serde_json::json!(answer))).collect();
        let added = self.append(new.as_bytes());
        added.map_err(Error::file(&self.path, "write"))?;
        self.lines.push_str(&new);
        Ok(())
    }

    /// Behind the lines that are known, and nothing else.
    fn append(&mut self, new: &[u8]) -> std::io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                let file = OpenOptions::new().create(true).append(true).open(&self.path)?;
                if self.lines.is_empty() {
                    file.set_len(0)?;
                    (&file).write_all(self.header.as_bytes())?;
                } else {
                    file.set_len((self.header.len() + self.lines.len()) as u64)?;
                }
                none.insert(file)
            }
        };
        file.write_all(new)?;
        file.sync_data()
    }

    /// Makes the answers visible under their name.
    pub fn publish(self, out: &Path) -> Result<(), Error> {
        storage::publish_file(out, self.lines.as_bytes())?;
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::file(&self.path, "remove")(error)),
            _ => Ok(()),
        }
    }
}
