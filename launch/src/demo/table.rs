//! The demo's result: exact answers on held-out patients beside three controls, and the rule they must pass.
//! It never looks at loss or tokens: behind perfect templates those flatter a model that only guesses.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use synth::{DemoSpec, HeldOut, Question};

use crate::Error;
use crate::generate::Answer;

/// How far an answer must be above the best control, as a share of rows.
const MARGIN: f64 = 0.2;

/// Shares of exact answers, 0 to 1, a question.
#[derive(Debug)]
struct Scores {
    question: Question,
    before: f64,
    after: f64,
    /// The one answer that is right most often.
    best_constant: f64,
    blank_page: f64,
    wrong_page: f64,
}

impl Scores {
    /// Whether the page was read: each control is what can be had without it.
    fn pass(&self) -> bool {
        self.after >= self.best_constant.max(self.blank_page).max(self.wrong_page) + MARGIN
    }
}

/// One line a question.
#[derive(Debug)]
pub struct Table {
    n_patients: usize,
    lines: Vec<Scores>,
}

impl Table {
    /// Scores four files of answers: before training, after it, and after it with a blank and with a wrong page.
    ///
    /// # Errors
    /// A file that cannot be read or lacks a row.
    pub fn new(spec: &DemoSpec, files: [&Path; 4]) -> Result<Self, Error> {
        let rows = synth::held_out(spec);
        let [before, after, blank_page, wrong_page] = files.map(|file| answers(file, &rows));
        let accuracy = |answers: Vec<String>| synth::accuracy(&rows, &answers);
        let [before, after, blank_page, wrong_page] =
            [accuracy(before?), accuracy(after?), accuracy(blank_page?), accuracy(wrong_page?)];
        let best_constant = synth::best_constant(&rows);
        let lines = after.keys().map(|&question| Scores {
            question,
            before: before[&question],
            after: after[&question],
            best_constant: best_constant[&question].1,
            blank_page: blank_page[&question],
            wrong_page: wrong_page[&question],
        });
        Ok(Self { n_patients: spec.n_test, lines: lines.collect() })
    }

    /// The questions that do not pass.
    pub fn failed(&self) -> Vec<&'static str> {
        self.lines.iter().filter(|scores| !scores.pass()).map(|scores| scores.question.key()).collect()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Exact answers about {} held-out patients, in percent", self.n_patients)?;
        writeln!(f, "                                ----- without the patient's page -----")?;
        writeln!(f, "question    before    after     best constant  blank page  wrong page")?;
        for line in &self.lines {
            let [before, after, constant, blank, wrong] =
                [line.before, line.after, line.best_constant, line.blank_page, line.wrong_page]
                    .map(|share| 100.0 * share);
            let verdict = if line.pass() { "pass" } else { "FAIL" };
            let question = line.question.key();
            writeln!(
                f,
                "{question:<8} {before:>9.1} {after:>8.1} {constant:>17.1} {blank:>11.1} {wrong:>11.1}  {verdict}"
            )?;
        }
        write!(f, "pass: at least {:.0} points above the best of the three columns on the right", 100.0 * MARGIN)
    }
}

/// The answers of a file in the order of `rows`.
fn answers(file: &Path, rows: &[HeldOut]) -> Result<Vec<String>, Error> {
    let mut by_id = BTreeMap::new();
    for line in BufReader::new(File::open(file).map_err(Error::file(file, "read"))?).lines() {
        let line = line.map_err(Error::file(file, "read"))?;
        let answer: Answer = serde_json::from_str(&line).map_err(|e| Error::file(file, "read")(e.into()))?;
        by_id.insert(answer.id, answer.answer);
    }
    let missing = |row: &HeldOut| Error::NoAnswer { file: file.to_owned(), id: row.id.clone() };
    rows.iter().map(|row| by_id.remove(&row.id).ok_or_else(|| missing(row))).collect()
}

#[cfg(test)]
mod tests;
