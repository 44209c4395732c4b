//! The sums of one optimizer step as int64 fixed point, so that neither the order of addition nor the number of ranks
//! changes a bit. It never holds a float sum.

use std::ops::Range;

use crate::parts::Part;

/// Fractional bits: a resolution of 9e-13 and a range of 8.4e6 for the gradient of a step's summed token losses.
const FRACTION: f64 = (1_u64 << 40) as f64;
/// A value beyond this does not fit; a sum that does not fit is refused by the checked addition.
const LIMIT: f64 = (1_u64 << 62) as f64;

/// What is counted or summed beside the gradients, at the end of the flat buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Stat {
    /// Summed token loss, nats (fixed point).
    Loss,
    /// Sum over micro-batches of their mean token loss, nats (fixed point).
    MeanLoss,
    /// Summed entropy of the predictions at supervised positions, nats (fixed point).
    Entropy,
    /// Supervised tokens.
    Supervised,
    /// Supervised tokens whose most likely prediction is right.
    Correct,
    /// Supervised tokens of answers.
    Answer,
    /// Right ones among them.
    AnswerCorrect,
    /// Attended tokens, soft image tokens included.
    Tokens,
    /// Rows.
    Rows,
    /// Micro-batches.
    MicroBatches,
    /// Pages shown.
    Pages,
    /// Ranks that were asked to stop.
    Stop,
    /// Numbers that were NaN, infinite or beyond the fixed point's range.
    NotFinite,
}

const N_STATS: usize = Stat::NotFinite as usize + 1;

/// Gradients and statistics of one optimizer step, summed exactly: `[gradients, statistics]` in one flat buffer.
#[derive(Clone, Debug)]
pub struct StepSums {
    values: Vec<i64>,
}

impl StepSums {
    /// Zeroes for `n_params` trainable numbers.
    #[must_use]
    pub fn zero(n_params: usize) -> Self {
        Self { values: vec![0; n_params + N_STATS] }
    }

    /// The flat buffer, as ranks add it up.
    pub fn as_mut_slice(&mut self) -> &mut [i64] {
        &mut self.values
    }

    /// Adds a gradient to the numbers of `range`.
    pub fn add_gradient(&mut self, range: Range<usize>, gradient: &[f32]) {
        let _part = Part::Sums.enter();
        let mut not_finite = 0;
        for (sum, &g) in self.values[range].iter_mut().zip(gradient) {
            not_finite += i64::from(!add_fixed(sum, f64::from(g)));
        }
        self.count(Stat::NotFinite, not_finite);
    }

    /// Adds a fixed-point statistic.
    pub fn add(&mut self, stat: Stat, value: f64) {
        let at = self.at(stat);
        if !add_fixed(&mut self.values[at], value) {
            self.count(Stat::NotFinite, 1);
        }
    }

    /// Adds to a count.
    pub fn count(&mut self, stat: Stat, n: i64) {
        let at = self.at(stat);
        self.values[at] = self.values[at].saturating_add(n);
    }

    /// A count.
    #[must_use]
    pub fn counted(&self, stat: Stat) -> i64 {
        self.values[self.at(stat)]
    }

    /// A fixed-point statistic.
    #[must_use]
    pub fn sum(&self, stat: Stat) -> f64 {
        self.values[self.at(stat)] as f64 / FRACTION
    }

    /// The summed gradients divided by `divisor`, rounded once to f32.
    #[must_use]
    pub fn gradients(&self, divisor: f64) -> Vec<f32> {
        let factor = 1.0 / (FRACTION * divisor);
        self.values[..self.values.len() - N_STATS].iter().map(|&v| (v as f64 * factor) as f32).collect()
    }

    fn at(&self, stat: Stat) -> usize {
        self.values.len() - N_STATS + stat as usize
    }
}

/// Adds `round(value * 2^40)`; false if the value or the sum does not fit.
fn add_fixed(sum: &mut i64, value: f64) -> bool {
    let fixed = (value * FRACTION).round_ties_even();
    if fixed.abs() >= LIMIT || fixed.is_nan() {
        return false;
    }
    match sum.checked_add(fixed as i64) {
        Some(total) => {
            *sum = total;
            true
        }
        None => false,
    }
}

#[cfg(test)]
mod tests;
