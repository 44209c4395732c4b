//! What can go wrong between ranks: who, in which operation, and what to do next.
//! It never blames the messenger: rank 0 tells the others whom it lost.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::tcp::Operation;

/// A collective operation, or the meeting before the first one, that did not succeed on this rank.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Rank 0 cannot listen.
    #[error("rank 0 cannot listen on {addr}: {source}; choose a free port, or port 0")]
    Listen {
        /// Where it should.
        addr: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// Rank 0 waited in vain.
    #[error("rank 0: ranks {missing:?} of {world_size} did not come within {waited:?}; look into their logs")]
    Missing {
        /// The absent ranks.
        missing: Vec<usize>,
        /// Ranks of the job.
        world_size: usize,
        /// The deadline.
        waited: Duration,
    },
    /// Another rank looked for rank 0 in vain.
    #[error(
        "rank {rank}: no rank 0 of this job at {addr} within {waited:?} (last attempt: {last}); look into the log of rank 0"
    )]
    NoHost {
        /// This rank.
        rank: usize,
        /// Where it looked.
        addr: SocketAddr,
        /// The deadline.
        waited: Duration,
        /// What the last attempt met.
        last: String,
    },
    /// The ranks are not of one job.
    #[error("refused at the rendezvous: {reason}; start all ranks with the same program, config and data")]
    Refused {
        /// What differs, and on which rank.
        reason: String,
    },
    /// A peer is gone or does not keep to the protocol.
    #[error("rank {rank} was lost in {operation}: {fault}; look into its log")]
    Lost {
        /// The peer.
        rank: usize,
        /// What was under way.
        operation: Operation,
        /// What was seen.
        fault: Fault,
    },
    /// Peers that are there, but do not come to the operation.
    #[error("ranks {ranks:?} did not come to {operation} within {waited:?}; look into their logs")]
    Late {
        /// The peers.
        ranks: Vec<usize>,
        /// What was under way.
        operation: Operation,
        /// The deadline.
        waited: Duration,
    },
    /// All ranks came, and NCCL is not done.
    #[error(
        "NCCL is not done with {operation} after {waited:?}, though all ranks came; start with NCCL_DEBUG=INFO and look into the ranks' logs"
    )]
    Stuck {
        /// What was under way.
        operation: Operation,
        /// The deadline.
        waited: Duration,
    },
    /// NCCL, or the driver under it.
    #[error("{call}: {said}; start with NCCL_DEBUG=INFO and look into the ranks' logs")]
    Nccl {
        /// The function.
        call: &'static str,
        /// Its answer.
        said: String,
    },
    /// There is no NCCL, or no driver.
    #[error(transparent)]
    Device(#[from] model::engine::DeviceError),
    /// Rank 0 gave the operation up and said why.
    #[error("rank 0 gave up {operation}: {reason}")]
    Aborted {
        /// What was under way.
        operation: Operation,
        /// Its own error.
        reason: String,
    },
    /// The exact sum does not fit; every rank gets this error.
    #[error("the sum of element {element} over all ranks exceeds int64; gradients explode, lower the learning rate")]
    Overflow {
        /// Index into the summed buffer.
        element: usize,
    },
    /// A message beyond the bound that every rank keeps.
    #[error("{operation} of {bytes} bytes exceeds the bound of {bound} bytes; this is a defect, please report it")]
    TooLong {
        /// What was asked for.
        operation: Operation,
        /// Its size.
        bytes: usize,
        /// The largest size.
        bound: usize,
    },
    /// An earlier operation failed; the ranks are no longer in step.
    #[error("an earlier operation between the ranks failed; restart the job from its last checkpoint")]
    Poisoned,
}

impl Error {
    /// A step that failed in its numbers or its config; everything else is a lost rank.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Refused { .. } | Self::Listen { .. } | Self::Device(_) => 2,
            Self::Overflow { .. } => 4,
            _ => 5,
        }
    }
}

/// What was seen on one connection.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// End of the stream, or a reset.
    #[error("it closed the connection")]
    Closed,
    /// Nothing, for too long.
    #[error("it was silent beyond the deadline")]
    Silent,
    /// Bytes that do not belong here.
    #[error("expected {expected}, found {found}")]
    Unexpected {
        /// What would have been right.
        expected: String,
        /// What came.
        found: String,
    },
    /// Rank 0 gave up.
    #[error("{0}")]
    Aborted(String),
    /// Rank 0 found a sum that does not fit.
    #[error("element {0} overflows")]
    Overflow(usize),
    /// The system's own words.
    #[error(transparent)]
    Io(io::Error),
}

impl Fault {
    pub(super) fn unexpected(expected: impl ToString, found: impl ToString) -> Self {
        Self::Unexpected { expected: expected.to_string(), found: found.to_string() }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, TimedOut, UnexpectedEof, WouldBlock};
        match error.kind() {
            BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof => Self::Closed,
            TimedOut | WouldBlock => Self::Silent,
            _ => Self::Io(error),
        }
    }
}
