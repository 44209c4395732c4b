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
    /// There is no engine on the device.
    #[error(transparent)]
    Device(#[from] model::engine::DeviceError),
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
        "step {step}: {n} numbers of loss and gradient are not finite, at rows {}{}; no rank has applied the step; look at these rows and the losses before, or skip such steps: train.on_nonfinite = \"skip\"",
        rows.join(", "),
        if *skipped > 0 { format!(", after {skipped} skipped steps (train.max_skipped_steps)") } else { String::new() }
    )]
    NotFinite {
        /// The step.
        step: u64,
        /// How many, over all ranks.
        n: i64,
        /// Ids of the rows of the micro-batches where they came up.
        rows: Vec<String>,
        /// Steps that were skipped before.
        skipped: u64,
    },
    /// Adapters that do not train.
    #[error("step {step}: these adapters have no finite, non-zero gradient, so they do not train: {}", modules.join(", "))]
    DeadAdapters {
        /// The step.
        step: u64,
        /// Their names.
        modules: Vec<String>,
    },
    /// Ranks with other weights than most of them.
    #[error(
        "step {step}: {}; check the memory of their machines; the last checkpoint is from before",
        describe_suspects(ranks, digests.len())
    )]
    DigestsDiffer {
        /// The step.
        step: u64,
        /// The ranks that differ from the majority; all of them, where there is no majority.
        ranks: Vec<usize>,
        /// By rank, in hex.
        digests: Vec<String>,
    },
    /// Another rank.
    #[error(transparent)]
    Ranks(#[from] collective::Error),
    /// A checkpoint that the run cannot do without: its last, or the last of several in a row.
    #[error(
        "checkpoint-{step} was not saved ({in_a_row} in a row): {source}; older checkpoints are what they were: mend the disk, and the same command goes on from the newest"
    )]
    NotSaved {
        /// Its step.
        step: u64,
        /// How many failed, this one included.
        in_a_row: u32,
        /// Why.
        source: checkpoint::Error,
    },
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

fn describe_suspects(ranks: &[usize], world_size: usize) -> String {
    match ranks.len() == world_size {
        true => format!("weights and moments of ranks {ranks:?} differ, and no majority says which are right"),
        false => format!(
            "weights and moments of ranks {ranks:?} differ from those of the other {}",
            world_size - ranks.len()
        ),
    }
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
            Self::Config(_) | Self::Device(_) | Self::NotFromScratch(_) | Self::Model(_) | Self::Lora(_) => 2,
            Self::Data(error) => {
                if error.is_storage() {
                    6
                } else {
                    3
                }
            }
            Self::NotFinite { .. } | Self::DeadAdapters { .. } | Self::DigestsDiffer { .. } => 4,
            Self::Endpoint { .. } => 5,
            Self::Ranks(error) => error.exit_code(),
            Self::Checkpoint(checkpoint::Error::OtherConfig { .. } | checkpoint::Error::OtherRows { .. }) => 2,
            Self::Journal(error) => error.exit_code(),
            Self::NotSaved { .. } | Self::Checkpoint(_) | Self::Damaged(_) | Self::Optimizer(_) | Self::Storage(_) => 6,
        }
    }
}
