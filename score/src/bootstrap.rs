//! Confidence intervals by bootstrap: the metric of as many rows drawn with replacement, many times, and its percentiles.
//! The draws are a pure function of seed, resample and place, so an interval is the same wherever it is computed.

use serde::{Deserialize, Serialize};

/// How intervals are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bootstrap {
    /// Resamples.
    pub resamples: u32,
    /// Seed of the draws.
    pub seed: u64,
}

/// The share of resamples that an interval leaves out below, and above.
const TAIL: f64 = 0.025;

impl Bootstrap {
    /// The 95 % percentile interval of each of the numbers that `of` computes from weights of the rows. A number that is
    /// not defined on some resamples has the interval of the others; one that never is has none.
    pub(crate) fn intervals(&self, n_rows: usize, of: &dyn Fn(&[u32]) -> Vec<Option<f64>>) -> Vec<Option<[f64; 2]>> {
        let mut drawn: Vec<Vec<f64>> = Vec::new();
        let mut weights = vec![0; n_rows];
        for resample in 0..u64::from(self.resamples) {
            weights.fill(0);
            for place in 0..n_rows as u64 {
                weights[self.draw(resample, place, n_rows as u64)] += 1;
            }
            let values = of(&weights);
            drawn.resize_with(values.len(), Vec::new);
            for (all, value) in drawn.iter_mut().zip(values) {
                all.extend(value);
            }
        }
        drawn.into_iter().map(interval).collect()
    }

    /// A row below `n_rows` (less than 2^32): the high half of a product is uniform to 2^-32.
    fn draw(&self, resample: u64, place: u64, n_rows: u64) -> usize {
        let bits = mix(mix(mix(self.seed) ^ resample) ^ place) >> 32;
        ((bits * n_rows) >> 32) as usize
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): a bijection of 64 bits that looks random.
fn mix(state: u64) -> u64 {
    let z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

fn interval(mut values: Vec<f64>) -> Option<[f64; 2]> {
    values.sort_unstable_by(f64::total_cmp);
    Some([percentile(&values, TAIL)?, percentile(&values, 1.0 - TAIL)?])
}

/// Between the two nearest of sorted numbers, linearly (NumPy's default).
fn percentile(sorted: &[f64], at: f64) -> Option<f64> {
    let place = at * sorted.len().checked_sub(1)? as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    Some(below + (above - below) * place.fract())
}

#[cfg(test)]
mod tests;
