//! The reference's image processor in a Python of its own, page by page, for a comparison within one run.
//! It is started only where `ECG_TRAIN_PYTHON` names that Python, and only measures.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::Error;

/// Reads the pages of a folder, then for every number on stdin times that page.
const SCRIPT: &str = include_str!("reference.py");

/// A Python that has said it is ready.
pub struct Reference {
    child: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// Names and versions.
    pub packages: String,
}

/// Starts the reference on `pages`; `None` where there is none.
///
/// # Errors
/// A Python that does not start or lacks the packages.
pub fn start(image_size: usize, pages: &[Vec<u8>]) -> Result<Option<Reference>, Error> {
    let Some(python) = std::env::var_os("ECG_TRAIN_PYTHON") else { return Ok(None) };
    let failed = |source| Error::Process { what: "the reference's Python (ECG_TRAIN_PYTHON)", source };
    let mut child = Command::new(python)
        .args(["-c", SCRIPT, &image_size.to_string()])
        .envs(["OMP_NUM_THREADS", "MKL_NUM_THREADS"].map(|name| (name, "1")))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let (Some(ask), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(failed(std::io::Error::other("its pipes are missing")));
    };
    let mut reference = Reference { child, ask, answers: BufReader::new(answers), packages: String::new() };
    let sent = pages.iter().try_for_each(|page| {
        reference.ask.write_all(&(page.len() as u64).to_le_bytes())?;
        reference.ask.write_all(page)
    });
    sent.and_then(|()| reference.ask.write_all(&0_u64.to_le_bytes()))
        .and_then(|()| reference.ask.flush())
        .map_err(failed)?;
    reference.packages = reference.line()?;
    Ok(Some(reference))
}

impl Reference {
    /// CPU milliseconds of decoding the page to RGB, and of the processor on it.
    pub fn page(&mut self, page: usize) -> Result<[f64; 2], Error> {
        let failed = |source| Error::Process { what: "the reference's Python (ECG_TRAIN_PYTHON)", source };
        writeln!(self.ask, "{page}").and_then(|()| self.ask.flush()).map_err(failed)?;
        let line = self.line()?;
        let times: Option<Vec<f64>> = line.split(' ').map(|time| time.parse().ok()).collect();
        match times.as_deref() {
            Some(&[decode, processor]) => Ok([decode, processor]),
            _ => Err(failed(std::io::Error::other("it answered something else than two times"))),
        }
    }

    fn line(&mut self) -> Result<String, Error> {
        let mut line = String::new();
        let ended = || std::io::Error::other("it ended; its message is above");
        let read = self.answers.read_line(&mut line).and_then(|n| if n == 0 { Err(ended()) } else { Ok(()) });
        read.map_err(|source| Error::Process { what: "the reference's Python (ECG_TRAIN_PYTHON)", source })?;
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
