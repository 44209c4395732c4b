//! The sums of one optimizer step as int64 fixed point, so that neither the order of addition nor the number of ranks
//! changes a bit. It never holds a float sum.

use std::ops::Range;

use rayon::prelude::*;

use crate::parts::Part;
use crate::vector::vectorised;

/// Fractional bits: a resolution of 9e-13 and a range of 8.4e6 for the gradient of a step's summed token losses.
const FRACTION: f64 = (1_u64 << 40) as f64;
/// A value beyond this does not fit; a sum that does not fit is refused by the checked addition.
const LIMIT: f64 = (1_u64 << 62) as f64;

/// Numbers added by one task, and those that are looked at together first.
const PER_TASK: usize = 1 << 15;
const TOGETHER: usize = 64;

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

/// Shares of supervised tokens whose most likely prediction is right, each over a whole step. Of no tokens it is 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenAccuracy {
    /// Of all supervised tokens (TRL's `mean_token_accuracy`).
    pub all: f64,
    /// Of those of answers.
    pub answers: f64,
    /// Of the others; none where nothing else is supervised.
    pub prompts: Option<f64>,
}

/// Gradients and statistics of one optimizer step, summed exactly: `[gradients, statistics]` in one flat buffer.
#[derive(Clone, Debug, Default)]
pub struct StepSums {
    values: Vec<i64>,
}

/// Sums of a step that micro-batches still add to. Gradients lie on an engine's device, as its `D`; where that is `()`, they
/// are on the host like all statistics.
#[derive(Debug, Default)]
pub struct Sums<D> {
    pub host: StepSums,
    pub device: D,
}

impl<D: Default> Sums<D> {
    /// Sums that go on with those of `host`.
    #[must_use]
    pub fn new(host: StepSums) -> Self {
        Self { host, device: D::default() }
    }
}

impl StepSums {
    /// Zeroes for `n_params` trainable numbers.
    #[must_use]
    pub fn zero(n_params: usize) -> Self {
        Self { values: vec![0; n_params + N_STATS] }
    }

    /// As [`StepSums::zero`], in the memory of a step that is over: at MedGemma's size it is 0.6 GB, and fresh pages cost
    /// more than the additions.
    #[must_use]
    pub fn zero_again(mut self, n_params: usize) -> Self {
        if self.values.len() != n_params + N_STATS {
            return Self::zero(n_params);
        }
        self.values.par_chunks_mut(PER_TASK).for_each(|sums| sums.fill(0));
        self
    }

    /// How many trainable numbers there are.
    #[must_use]
    pub fn n_params(&self) -> usize {
        self.values.len().saturating_sub(N_STATS)
    }

    /// The flat buffer, as ranks add it up.
    pub fn as_mut_slice(&mut self) -> &mut [i64] {
        &mut self.values
    }

    /// Adds a gradient to the numbers of `range`.
    pub fn add_gradient(&mut self, range: Range<usize>, gradient: &[f32]) {
        let _part = Part::Sums.enter();
        let sums = self.values[range].par_chunks_mut(PER_TASK).zip(gradient.par_chunks(PER_TASK));
        let not_finite = sums.map(|(sums, gradient)| add_all(sums, gradient)).sum();
        self.count(Stat::NotFinite, not_finite);
    }

    /// Adds the numbers of a gradient to those of one range after the other.
    pub fn add_gradients(&mut self, ranges: &[Range<usize>], mut gradient: &[f32]) {
        for range in ranges {
            let (own, rest) = gradient.split_at(range.len());
            self.add_gradient(range.clone(), own);
            gradient = rest;
        }
    }

    /// Adds sums of all gradients that were made elsewhere in the same fixed point, each as its low and its high word.
    pub fn add_words(&mut self, words: &[i32]) {
        let n_params = self.n_params();
        let sums = self.values[..n_params].par_iter_mut().zip(words.par_chunks_exact(2)).with_min_len(PER_TASK);
        let refused = sums.map(|(sum, word)| {
            let more = i64::from(word[1]) << 32 | i64::from(word[0].cast_unsigned());
            let total = sum.checked_add(more);
            *sum = total.unwrap_or(*sum);
            i64::from(total.is_none())
        });
        let refused = refused.sum();
        self.count(Stat::NotFinite, refused);
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

    /// How many supervised tokens were predicted, as shares.
    #[must_use]
    pub fn token_accuracy(&self) -> TokenAccuracy {
        let [correct, supervised] = [Stat::Correct, Stat::Supervised].map(|stat| self.counted(stat));
        let [correct_answers, answers] = [Stat::AnswerCorrect, Stat::Answer].map(|stat| self.counted(stat));
        let share = |part: i64, whole: i64| part as f64 / whole.max(1) as f64;
        let prompts = supervised - answers;
        TokenAccuracy {
            all: share(correct, supervised),
            answers: share(correct_answers, answers),
            prompts: (prompts > 0).then(|| share(correct - correct_answers, prompts)),
        }
    }

    /// The summed gradients divided by `divisor`, rounded once to f32.
    #[must_use]
    pub fn gradients(&self, divisor: f64) -> Vec<f32> {
        let mut gradients = Vec::new();
        self.gradients_into(divisor, &mut gradients);
        gradients
    }

    /// As [`StepSums::gradients`], in the memory of earlier ones.
    pub fn gradients_into(&self, divisor: f64, gradients: &mut Vec<f32>) {
        let factor = 1.0 / (FRACTION * divisor);
        let sums = &self.values[..self.n_params()];
        sums.par_iter().with_min_len(PER_TASK).map(|&v| (v as f64 * factor) as f32).collect_into_vec(gradients);
    }

    fn at(&self, stat: Stat) -> usize {
        self.values.len() - N_STATS + stat as usize
    }
}

/// Adds a gradient to its sums; returns how many of its numbers do not fit.
fn add_all(sums: &mut [i64], gradient: &[f32]) -> i64 {
    vectorised(
        #[inline(always)]
        || {
            let mut refused = 0;
            for (sums, gradient) in sums.chunks_mut(TOGETHER).zip(gradient.chunks(TOGETHER)) {
                if !add_small(sums, gradient) {
                    let each = sums.iter_mut().zip(gradient);
                    refused += each.map(|(sum, &g)| i64::from(!add_fixed(sum, f64::from(g)))).sum::<i64>();
                }
            }
            refused
        },
    )
}

/// As [`add_fixed`] of each, in plain arithmetic; false, and nothing is added, if one of them is not small.
#[inline(always)]
fn add_small(sums: &mut [i64], gradient: &[f32]) -> bool {
    /// Its last bit is 1, so that adding it rounds to an integer, ties to even; numbers up to a third of it stay exact.
    const ROUND: f64 = (3_u64 << 51) as f64;
    const SMALL: f64 = (1_u64 << 50) as f64;
    const ROOM: u64 = 1 << 62;
    let mut small = true;
    for (&sum, &g) in sums.iter().zip(gradient) {
        small &= (f64::from(g).abs() * FRACTION < SMALL) & (sum.unsigned_abs() < ROOM);
    }
    if small {
        for (sum, &g) in sums.iter_mut().zip(gradient) {
            *sum += (f64::from(g) * FRACTION + ROUND).to_bits() as i64 - ROUND.to_bits() as i64;
        }
    }
    small
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
