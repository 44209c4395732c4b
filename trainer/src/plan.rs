//! Which rows each micro-batch of each optimizer step holds: a pure function of the step, the same for every number of
//! ranks. It never touches a row.

use std::sync::Arc;

use data::{MicroPlan, Order};

use crate::config::Config;

/// The order of a whole run.
#[derive(Clone, Debug)]
pub struct Plan {
    order: Arc<Order>,
    epoch_len: usize,
    global_batch_size: usize,
    micro_batch_size: usize,
    total_steps: u64,
}

/// The rows of one optimizer step, in the order of positions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepPlan {
    /// Epoch the step belongs to, from 0.
    pub epoch: u64,
    /// Position of its first and last row in the run: `epoch * epoch length + position in the epoch`.
    pub first_position: u64,
    pub last_position: u64,
    /// Micro-batches; the last step of an epoch has fewer, or a shorter one.
    pub micro_batches: Vec<MicroPlan>,
}

impl Plan {
    /// The plan of `config` over `n_rows` rows.
    #[must_use]
    pub fn new(config: &Config, n_rows: usize) -> Self {
        let order = Order::new(n_rows, config.seed, config.data.shuffle.into());
        let train = &config.train;
        let epoch_len = order.epoch_len(train.micro_batch_size, config.data.replay_ranks.unwrap_or(1) as usize);
        Self {
            order: Arc::new(order),
            epoch_len,
            global_batch_size: train.global_batch_size,
            micro_batch_size: train.micro_batch_size,
            total_steps: config.train.total_steps(epoch_len as u64),
        }
    }

    /// Optimizer steps of the whole run.
    #[must_use]
    pub fn total_steps(&self) -> u64 {
        self.total_steps
    }

    /// Optimizer steps of one epoch; the last one takes the rows that are left.
    #[must_use]
    pub fn steps_per_epoch(&self) -> u64 {
        self.epoch_len.div_ceil(self.global_batch_size) as u64
    }

    /// The rows of `step`, counted from 0.
    #[must_use]
    pub fn step(&self, step: u64) -> StepPlan {
        let (epoch, within) = (step / self.steps_per_epoch(), (step % self.steps_per_epoch()) as usize);
        let start = within * self.global_batch_size;
        let end = (start + self.global_batch_size).min(self.epoch_len);
        let before = epoch * self.epoch_len as u64;
        let micro = |first: usize| MicroPlan {
            rows: (first..(first + self.micro_batch_size).min(end)).map(|at| self.order.row(epoch, at)).collect(),
            first_position: before + first as u64,
        };
        StepPlan {
            epoch,
            first_position: before + start as u64,
            last_position: before + end as u64 - 1,
            micro_batches: (start..end).step_by(self.micro_batch_size).map(micro).collect(),
        }
    }

    /// What one rank loads from `step` on: every `world_size`-th micro-batch of each step, beginning with its own.
    pub fn share(self, step: u64, rank: usize, world_size: usize) -> impl Iterator<Item = MicroPlan> + Send + 'static {
        (step..self.total_steps)
            .flat_map(move |step| self.step(step).micro_batches.into_iter().skip(rank).step_by(world_size))
    }
}

#[cfg(test)]
mod tests;
