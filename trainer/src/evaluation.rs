//! `eval.jsonl`: what the held-out rows say after some steps, one line each, exactly once, as in the journal. Its answers
//! are the model's own words beside row ids; it never holds a row's text.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::journal::null_is_nan;
use crate::lines::{self, Entry, Error, Lines, not_finite};

/// Fields that have no number where an evaluation was not finite.
const UNKNOWN_IF_NOT_FINITE: [&str; 2] = ["loss", "entropy"];

/// Evaluations of a run under way.
pub(crate) type Evaluations = Lines<Evaluation>;

/// The held-out rows, computed without dropout by the weights after a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluation {
    /// Optimizer steps made before it.
    pub step: u64,
    /// Passes over the data before it.
    pub epoch: f64,
    /// Mean loss over all supervised tokens of the rows, in nats. `null` in the file and NaN here if it is not finite.
    #[serde(deserialize_with = "null_is_nan")]
    pub loss: f64,
    /// Correct / supervised tokens.
    pub mean_token_accuracy: f64,
    /// The same among tokens of answers.
    pub answer_token_accuracy: f64,
    /// The same among all other supervised tokens. None where only answers are learned, and in older files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_token_accuracy: Option<f64>,
    /// Mean entropy of the predictions at supervised tokens, in nats. As the loss if it is not finite.
    #[serde(deserialize_with = "null_is_nan")]
    pub entropy: f64,
    /// Supervised tokens that were predicted.
    pub correct_tokens: u64,
    /// Supervised tokens.
    pub supervised_tokens: u64,
    /// Held-out rows.
    pub n_rows: u64,
    /// Measured: it differs between two equal runs.
    pub rows_per_second: f64,
    /// What is evaluated and when, as a hash in hex: lines of equal ones can be compared.
    pub held_out: String,
    /// What the model says, greedily, to the first questions of the first rows.
    pub answers: Vec<Answer>,
}

/// The model's answer to a row's first question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// Row id.
    pub id: String,
    /// What the model said; nothing where its numbers are not finite.
    pub answer: String,
}

impl Entry for Evaluation {
    const EVERY_STEP: bool = false;
    const MEASURED: &'static [&'static str] = &["rows_per_second"];

    fn step(&self) -> u64 {
        self.step
    }

    fn not_finite(&self) -> Option<String> {
        not_finite(self, &UNKNOWN_IF_NOT_FINITE)
    }
}

/// All whole lines of an `eval.jsonl`, for reports; a torn last line is left out.
///
/// # Errors
/// The file cannot be read, or a line that is not the last one is damaged.
pub fn read(path: &Path) -> Result<Vec<Evaluation>, Error> {
    lines::read(path)
}

#[cfg(test)]
mod tests;
