//! Where in its work a rank is. It never decides how long anything may take.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a rank does now; it says so whenever that changes, so a rank that says nothing is not getting on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Reads model, rows and checkpoint.
    Opening,
    /// Meets the other ranks.
    Rendezvous,
    /// Waits for rows.
    Data,
    /// Computes one micro-batch.
    ForwardBackward,
    /// Sums gradients with the others.
    AllReduce,
    /// Updates the weights.
    Optimizer,
    /// Compares its digest with the others'.
    Comparison,
    /// Writes journal and checkpoint.
    Checkpoint,
    /// Computes held-out rows, or a token of an answer.
    Eval,
    /// Adds up an evaluation with the others.
    EvalSums,
    /// Has done its last step and waits until all have.
    Leaving,
}

impl Phase {
    /// Whether a rank in this phase may only be waiting for another one.
    #[must_use]
    pub fn waits_for_others(self) -> bool {
        matches!(self, Self::Rendezvous | Self::AllReduce | Self::Comparison | Self::EvalSums | Self::Leaving)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Opening => "opening",
            Self::Rendezvous => "rendezvous",
            Self::Data => "data wait",
            Self::ForwardBackward => "forward/backward",
            Self::AllReduce => "all-reduce",
            Self::Optimizer => "optimizer",
            Self::Comparison => "comparison of digests",
            Self::Checkpoint => "checkpoint",
            Self::Eval => "evaluation",
            Self::EvalSums => "sums of an evaluation",
            Self::Leaving => "leaving",
        })
    }
}
