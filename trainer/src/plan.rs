//! Which rows each micro-batch of each optimizer step holds: a pure function of the step, the same for every number of
//! ranks. It never touches a row.

use std::cmp::Reverse;
use std::sync::Arc;

use data::{Dataset, MicroPlan, Order, Pages, pack};

use crate::config::Config;

/// The order of a whole run.
#[derive(Clone, Debug)]
pub struct Plan {
    order: Arc<Order>,
    epoch_len: usize,
    global_batch_size: usize,
    micro_batch_size: usize,
    total_steps: u64,
    /// Bytes of each row's text, where micro-batches hold rows of similar length.
    text_bytes: Option<Arc<[u32]>>,
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
    /// The plan of `config` over the rows of a data set, which is asked for pages and lengths only where the config
    /// groups by them.
    ///
    /// # Errors
    /// The data set does not tell.
    pub fn over(config: &Config, rows: &Dataset) -> Result<Self, data::Error> {
        let mut plan = Self::new(config, rows.len());
        if let Some(most) = config.data.group_by_page {
            plan = plan.by_page(config.seed, Pages::new(&rows.pages()?), most);
        }
        if config.data.group_by_length == Some(true) {
            plan = plan.by_length(rows.text_bytes()?);
        }
        Ok(plan)
    }

    /// Up to `most` rows of a page stand together in a micro-batch.
    fn by_page(self, seed: u64, pages: Pages, most: usize) -> Self {
        let order = Order::new(self.epoch_len, seed, data::Shuffle::Own).by_page(pages, most, self.micro_batch_size);
        Self { order: Arc::new(order), ..self }
    }

    /// Each global batch holds the same rows as without, in micro-batches of similar lengths, the longest first.
    fn by_length(self, text_bytes: Vec<u32>) -> Self {
        Self { text_bytes: Some(text_bytes.into()), ..self }
    }

    /// The plan of `config` over `n_rows` rows of which nothing more is known.
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
            text_bytes: None,
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
        let mut rows: Vec<usize> = (start..end).map(|at| self.order.row(epoch, at)).collect();
        if let Some(text_bytes) = &self.text_bytes {
            rows = self.similar(&rows, text_bytes);
        }
        let micro = |(nth, rows): (usize, &[usize])| MicroPlan {
            rows: rows.to_vec(),
            first_position: before + (start + nth * self.micro_batch_size) as u64,
        };
        StepPlan {
            epoch,
            first_position: before + start as u64,
            last_position: before + end as u64 - 1,
            micro_batches: rows.chunks(self.micro_batch_size).enumerate().map(micro).collect(),
        }
    }

    /// Rows by falling length; rows of one page that stand together stay so, and count as long as the longest of them.
    /// Neighbouring micro-batches go to different ranks, so ranks have as much to do as each other.
    fn similar(&self, rows: &[usize], text_bytes: &[u32]) -> Vec<usize> {
        let pages = self.order.pages();
        let mut units: Vec<&[usize]> = rows.chunk_by(|&a, &b| pages.is_some_and(|pages| pages.same(a, b))).collect();
        units.sort_by_key(|unit| Reverse(unit.iter().map(|&row| text_bytes[row]).max()));
        pack(units.into_iter(), self.micro_batch_size)
    }

    /// What one rank loads from `step` on: every `world_size`-th micro-batch of each step, beginning with its own.
    pub fn share(self, step: u64, rank: usize, world_size: usize) -> impl Iterator<Item = MicroPlan> + Send + 'static {
        (step..self.total_steps)
            .flat_map(move |step| self.step(step).micro_batches.into_iter().skip(rank).step_by(world_size))
    }
}

#[cfg(test)]
mod tests;
