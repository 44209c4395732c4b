//! What a rank tells while it runs. It never decides who listens.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::journal::Line;
use crate::phase::Phase;

/// Something happened on a rank.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// The rank begins `phase` of the step that is under way, counted from 1 (0: before the first).
    At { step: u64, phase: Phase },
    /// Rank 0 waits for the others here.
    Listening(SocketAddr),
    /// Everything is open and all ranks have met; the loop begins.
    Started { step: u64, total_steps: u64, n_rows: u64, n_trainable: u64, resumed_from: Option<u64> },
    /// One optimizer step is made and journalled.
    Step { line: Line, total_steps: u64 },
    /// The held-out rows are evaluated after this step; what the model answered stays in the run folder.
    Evaluated { step: u64, n_rows: u64, loss: f64, mean_token_accuracy: f64, answer_token_accuracy: f64 },
    /// The checkpoint of this step is durable.
    Checkpoint { step: u64 },
    /// The ranks came to different weights, so that nobody keeps this step; by rank, in hex.
    DigestsDiffer { step: u64, digests: Vec<String> },
    /// Something a user should know that does not stop the run.
    Warning(String),
    /// The last step is made and saved.
    Finished { step: u64 },
    /// Ended on request; a rerun goes on from this step.
    Stopped { step: u64 },
}

/// How a run ended that met no error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All steps are made.
    Finished,
    /// Stopped on request, with a checkpoint.
    Stopped,
}
