//! The learning rate of each optimizer step, exactly as transformers' schedulers compute it.
//! It never depends on anything but the step: there is no state to save.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

/// Shape of the schedule, by its name in transformers (`optimization.py`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LrScheduler {
    /// Warm-up, then half a cosine down to 0.
    Cosine,
    /// Warm-up, then straight down to 0.
    Linear,
    /// The same in every step; no warm-up.
    Constant,
    /// Warm-up, then the same in every step.
    ConstantWithWarmup,
}

/// The learning rate as a function of the step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// Its shape.
    pub scheduler: LrScheduler,
    /// Its peak.
    pub learning_rate: f64,
    /// Optimizer steps in which it rises from 0.
    pub warmup_steps: u64,
    /// Optimizer steps of the run.
    pub total_steps: u64,
}

impl Schedule {
    /// Learning rate of the optimizer step with index `step`, the first being 0.
    ///
    /// The formulas, in the order of operations of transformers: warm-up `step / max(1, warmup)`, then with
    /// `progress = (step - warmup) / max(1, total - warmup)` cosine `max(0, 0.5 (1 + cos(pi progress)))` and linear
    /// `max(0, (total - step) / max(1, total - warmup))`. So the first step has lr 0 wherever there is a warm-up.
    #[must_use]
    pub fn lr(&self, step: u64) -> f64 {
        let (warmup, total) = (self.warmup_steps, self.total_steps);
        if step < warmup && self.scheduler != LrScheduler::Constant {
            return self.learning_rate * (step as f64 / warmup as f64);
        }
        let decay_steps = total.saturating_sub(warmup).max(1) as f64;
        let factor = match self.scheduler {
            LrScheduler::Cosine => (0.5 * (1.0 + (PI * ((step - warmup) as f64 / decay_steps)).cos())).max(0.0),
            LrScheduler::Linear => total.saturating_sub(step) as f64 / decay_steps,
            LrScheduler::Constant | LrScheduler::ConstantWithWarmup => 1.0,
        };
        self.learning_rate * factor
    }
}

#[cfg(test)]
mod tests;
