//! The file of answers, one JSON object a line. What is answered already survives whatever ends the program, beside the
//! file; the file itself appears when it is whole.

use std::fs::{File, OpenOptions};
use std::io::{Seek, Write};
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
    file: File,
    /// The lines of the answers.
    lines: String,
}

#[derive(Serialize, Deserialize, PartialEq)]
struct Header {
    /// Hash of everything that decides the answers.
    answers_of: String,
}

impl Unfinished {
    /// Begins the answers of `out`, or goes on with those that an earlier try has left; and how many those are.
    ///
    /// # Errors
    /// The rest is of another model, other rows or options.
    pub fn open(out: &Path, of: &blake3::Hash) -> Result<(Self, usize), Error> {
        let name = format!("{}.unfinished", out.file_name().unwrap_or_default().to_string_lossy());
        let path = out.with_file_name(name);
        let header = format!("{}\n", serde_json::json!(Header { answers_of: of.to_hex().to_string() }));
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
        let failed = || Error::file(&path, "write");
        let file = OpenOptions::new().create(true).write(true).truncate(false).open(&path).map_err(failed())?;
        let mut this = Self { path: path.clone(), file, lines: String::new() };
        let end = if lines.is_empty() { 0 } else { header.len() + lines.len() };
        this.file.set_len(end as u64).and_then(|()| this.file.seek(std::io::SeekFrom::End(0))).map_err(failed())?;
        if lines.is_empty() {
            this.file.write_all(header.as_bytes()).map_err(failed())?;
        }
        let n = lines.lines().count();
        this.lines = lines;
        Ok((this, n))
    }

    /// Adds some answers, on the disk when this returns.
    pub fn add(&mut self, answers: &[Answer]) -> Result<(), Error> {
        let lines: String = answers.iter().map(|answer| format!("{}\n", serde_json::json!(answer))).collect();
        let written = self.file.write_all(lines.as_bytes()).and_then(|()| self.file.sync_data());
        written.map_err(Error::file(&self.path, "write"))?;
        self.lines.push_str(&lines);
        Ok(())
    }

    /// Makes the answers visible under their name.
    pub fn publish(self, out: &Path) -> Result<(), Error> {
        storage::publish_file(out, self.lines.as_bytes())?;
        std::fs::remove_file(&self.path).map_err(Error::file(&self.path, "remove"))
    }
}
