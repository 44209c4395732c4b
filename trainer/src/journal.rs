//! `journal.jsonl`, the truth about a run: one line for each step, exactly once, whatever was interrupted and repeated.
//! It never rewrites a whole line: a repeated step must reproduce its line to the bit, or the run has diverged.

use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize};

use crate::lines::{Entry, Lines, not_finite};
pub use crate::lines::{Error, Syncer};

/// Fields that a skipped step has no numbers for.
const UNKNOWN_IF_SKIPPED: [&str; 3] = ["loss", "grad_norm", "entropy"];

/// The journal of a run under way. Only rank 0 has one.
pub type Journal = Lines<Line>;

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
    /// The same among all other supervised tokens. None where only answers are learned, and in older journals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_token_accuracy: Option<f64>,
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

impl Entry for Line {
    const EVERY_STEP: bool = true;
    const MEASURED: &'static [&'static str] = &["rows_per_second", "data_wait"];

    fn step(&self) -> u64 {
        self.step
    }

    fn not_finite(&self) -> Option<String> {
        let unknown: &[&str] = if self.skipped_rows.is_empty() { &[] } else { &UNKNOWN_IF_SKIPPED };
        not_finite(self, unknown)
    }
}

/// JSON has no NaN: serde_json writes null.
pub(crate) fn null_is_nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

/// All whole lines of a journal, for reports; a torn last line is left out.
///
/// # Errors
/// The file cannot be read, or a line that is not the last one is damaged.
pub fn read(path: &Path) -> Result<Vec<Line>, Error> {
    crate::lines::read(path)
}

#[cfg(test)]
mod tests;
