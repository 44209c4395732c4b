//! Everything that stops a rank, and the exit code it stops with.
//! It never holds text or pixels of a row: ids only.

use crate::collective;
use crate::config::ConfigError;
use crate::{checkpoint, journal, optimizer};

/// Exit code of a run that was stopped on request, with a checkpoint: requeue it.
pub const STOPPED: u8 = 75;

/// Why a rank stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The config.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// This build has no engine for the device.
    #[error("this program was built without CUDA; build it with `--features cuda` or train with --cpus")]
    NoCuda,
    /// The run folder has checkpoints, and the user wants to begin anew.
    #[error("--from-scratch: {found} is there; remove the run folder or use another output_dir", found = .0.display())]
    NotFromScratch(std::path::PathBuf),
    /// Rank 0 cannot be found.
    #[error("rank {rank}: the address of rank 0 is not known: {reason}; look into the log of rank 0")]
    Endpoint {
        /// This rank.
        rank: u32,
        /// What is missing.
        reason: String,
    },
    /// The data set, a row of it, or the tokenizer.
    #[error(transparent)]
    Data(#[from] data::Error),
    /// The base.
    #[error(transparent)]
    Model(#[from] model::Error),
    /// An adapter.
    #[error(transparent)]
    Lora(#[from] lora::Error),
    /// The numbers of a step, over all ranks.
    #[error(
        "step {step}: {n} numbers of loss and gradient are not finite; the weights are those of the step before; the logs of the ranks name the rows"
    )]
    NotFinite {
        /// The step.
        step: u64,
        /// How many, over all ranks.
        n: i64,
    },
    /// Adapters that do not train.
    #[error("step {step}: these adapters have no finite, non-zero gradient, so they do not train: {}", modules.join(", "))]
    DeadAdapters {
        /// The step.
        step: u64,
        /// Their names.
        modules: Vec<String>,
    },
    /// Ranks with other weights than rank 0.
    #[error(
        "step {step}: weights and moments of ranks {ranks:?} differ from those of rank 0; check their memory, then restart from the last checkpoint"
    )]
    DigestsDiffer {
        /// The step.
        step: u64,
        /// The ranks.
        ranks: Vec<usize>,
    },
    /// Another rank.
    #[error(transparent)]
    Ranks(#[from] collective::Error),
    /// A checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::Error),
    /// A checkpoint's file changed after it was found intact.
    #[error(transparent)]
    Damaged(#[from] checkpoint::Damaged),
    /// Moments and weights of a checkpoint.
    #[error(transparent)]
    Optimizer(#[from] optimizer::UnequalLengths),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] journal::Error),
    /// Another file of the run folder.
    #[error(transparent)]
    Storage(#[from] storage::Error),
}

impl Error {
    /// Whether another attempt from the last checkpoint may succeed: a rank was lost, or its memory lied.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::DigestsDiffer { .. }) || self.exit_code() == 5
    }

    /// 2 config, 3 data, 4 numbers, 5 a rank was lost, 6 storage.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::NoCuda | Self::NotFromScratch(_) | Self::Model(_) | Self::Lora(_) => 2,
            Self::Data(_) => 3,
            Self::NotFinite { .. } | Self::DeadAdapters { .. } | Self::DigestsDiffer { .. } => 4,
            Self::Endpoint { .. } => 5,
            Self::Ranks(error) => error.exit_code(),
            Self::Checkpoint(checkpoint::Error::OtherConfig { .. }) => 2,
            Self::Journal(error) => error.exit_code(),
            Self::Checkpoint(_) | Self::Damaged(_) | Self::Optimizer(_) | Self::Storage(_) => 6,
        }
    }
}
