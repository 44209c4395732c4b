//! How the group of a node ended, as other nodes hear it, and what the ends of all of them come to.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest message of a failure that travels, in bytes.
const MAX_MESSAGE: usize = 4000;

/// The end of one node's group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// All steps are made.
    Finished,
    /// On request, at a step's boundary or not.
    Stopped { at_boundary: bool },
    /// A worker failed.
    Failed(Failed),
}

/// A failed group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    pub rank: u32,
    /// What its node tells the user.
    pub message: String,
    pub exit_code: u8,
    /// Another attempt may succeed.
    pub may_pass: bool,
    /// It failed only because another one was gone.
    pub lost_a_peer: bool,
    /// Steps made when the attempt began and when it ended.
    pub first_step: u64,
    pub last_step: u64,
}

/// What an attempt came to on all nodes together.
#[derive(Debug, PartialEq, Eq)]
pub enum Joint {
    Finished,
    Stopped {
        at_boundary: bool,
    },
    /// The failure to blame is this node's; steps as far as any node saw them.
    Failed {
        node: usize,
        first_step: u64,
        last_step: u64,
    },
}

impl Ended {
    /// Whether the groups of other nodes cannot go on.
    pub fn ends_all(&self) -> bool {
        matches!(self, Self::Failed(_) | Self::Stopped { at_boundary: false })
    }
}

impl Failed {
    /// With a message of bounded length.
    pub fn bounded(mut self) -> Self {
        self.message.truncate(self.message.floor_char_boundary(MAX_MESSAGE));
        self
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finished => f.write_str("finished"),
            Self::Stopped { .. } => f.write_str("stopped on request"),
            Self::Failed(failed) => f.write_str(failed.message.lines().next().unwrap_or_default()),
        }
    }
}

/// The same on every node, for it hears the same. A failure that no other attempt can mend goes first; then a request
/// to stop; a node whose ranks only missed others is not to blame where one failed by itself.
pub fn judge(all: &[Ended]) -> Joint {
    let failed = || {
        all.iter().enumerate().filter_map(|(node, ended)| match ended {
            Ended::Failed(failed) => Some((node, failed)),
            _ => None,
        })
    };
    let steps = |node| Joint::Failed {
        node,
        first_step: failed().map(|(_, failed)| failed.first_step).max().unwrap_or_default(),
        last_step: failed().map(|(_, failed)| failed.last_step).max().unwrap_or_default(),
    };
    if let Some((node, _)) = failed().find(|(_, failed)| !failed.may_pass) {
        return steps(node);
    }
    let stopped = all.iter().filter_map(|ended| match ended {
        Ended::Stopped { at_boundary } => Some(*at_boundary),
        _ => None,
    });
    if stopped.clone().next().is_some() {
        return Joint::Stopped {
            at_boundary: failed().next().is_none() && stopped.clone().all(|at_boundary| at_boundary),
        };
    }
    let to_blame = failed().find(|(_, failed)| !failed.lost_a_peer).or_else(|| failed().next());
    to_blame.map_or(Joint::Finished, |(node, _)| steps(node))
}

#[cfg(test)]
mod tests;
