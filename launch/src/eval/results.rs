//! `results.json`: all scores of an eval's folder, each with what it is about; and the table on the terminal.
//! It holds numbers and names of classes, never what a row or an answer says.

use std::fmt::Write as _;
use std::path::Path;

use score::{Basis, Bootstrap, Scores};
use serde::{Deserialize, Serialize};

use super::Pages;
use crate::Error;

/// The file's name.
const RESULTS: &str = "results.json";
const VERSION: u32 = 1;

/// Everything in the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// Of this layout.
    pub version: u32,
    /// One for each task, pages and basis.
    pub entries: Vec<Entry>,
}

/// Scores and what they are about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Which pages were shown.
    pub pages: Pages,
    /// How the intervals were drawn.
    pub bootstrap: Bootstrap,
    /// Task, basis and numbers.
    #[serde(flatten)]
    pub scores: Scores,
}

impl Entry {
    fn key(&self) -> (score::Task, Pages, Basis) {
        (self.scores.task, self.pages, self.scores.basis)
    }
}

impl Results {
    /// Reads those of a folder.
    ///
    /// # Errors
    /// The file is not there or damaged.
    pub fn read(folder: &Path) -> Result<Self, Error> {
        let file = folder.join(RESULTS);
        let bytes = std::fs::read(&file).map_err(Error::file(&file, "read"))?;
        serde_json::from_slice(&bytes).map_err(|error| Error::file(&file, "read")(error.into()))
    }

    /// Publishes new entries with those of the folder that they do not replace.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub(super) fn merge_into(folder: &Path, new: Vec<Entry>) -> Result<(), Error> {
        let file = folder.join(RESULTS);
        let known = if file.exists() { Self::read(folder)?.entries } else { Vec::new() };
        let kept = known.into_iter().filter(|known| new.iter().all(|new| new.key() != known.key()));
        let mut entries: Vec<Entry> = kept.collect();
        entries.extend(new);
        entries.sort_by_key(Entry::key);
        let results = Self { version: VERSION, entries };
        let mut text =
            serde_json::to_vec_pretty(&results).map_err(|error| Error::file(&file, "write")(error.into()))?;
        text.push(b'\n');
        Ok(storage::publish_file(&file, &text)?)
    }
}

/// How a basis is called in tables.
pub fn basis_name(basis: Basis) -> &'static str {
    match basis {
        Basis::Parity => "parity",
        Basis::Strict => "strict",
        Basis::Likelihood => "likelihood",
        Basis::Judge => "judge",
    }
}

/// A number as people write it: percent, but a judge's scores as they are.
pub fn number(basis: Basis, value: f64) -> String {
    let value = if basis == Basis::Judge { value } else { value * 100.0 };
    format!("{value:.1}")
}

/// A line a metric.
pub(super) fn table(entries: &[Entry]) -> String {
    let mut lines = vec![["task", "pages", "basis", "metric", "value", "95 % interval"].map(str::to_owned)];
    for Entry { pages, scores, .. } in entries {
        for metric in &scores.metrics {
            let said = |value: f64| number(scores.basis, value);
            let interval = metric.interval.map(|[low, high]| format!("{} to {}", said(low), said(high)));
            lines.push([
                scores.task.to_string(),
                pages.control().unwrap_or("own").to_owned(),
                basis_name(scores.basis).to_owned(),
                metric.name.clone(),
                metric.value.map_or_else(|| "undefined".to_owned(), said),
                interval.unwrap_or_default(),
            ]);
        }
        let unreadable = scores.unreadable;
        if unreadable > 0 {
            let basis = basis_name(scores.basis).to_owned();
            let counted = format!("{unreadable} of {}", scores.n_rows);
            let pages = pages.control().unwrap_or("own").to_owned();
            lines.push([
                scores.task.to_string(),
                pages,
                basis,
                "unreadable_answers".to_owned(),
                counted,
                String::new(),
            ]);
        }
    }
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..6).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let mut padded = String::new();
        for (cell, width) in line.iter().zip(&widths) {
            let _ = write!(padded, "{cell:<width$}  "); // A String takes whatever is written.
        }
        text.push_str(padded.trim_end());
        text.push('\n');
    }
    text
}
