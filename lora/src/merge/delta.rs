//! The arithmetic of a merge, bit for bit that of PEFT's `get_delta_weight` and `merge` on torch (lora/layer.py).
//! It never rounds more often than it says.

use super::Change;
use crate::names::Side;
use crate::{Adapter, Dtype, Result};

/// How often a merged number is rounded to the dtype of the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounding {
    /// Once, `round(W + delta)` with delta in f32: PEFT's `merge_and_unload()`, and the nearer to the exact sum.
    Once,
    /// Twice, `round(W + round(delta))`: PEFT's `merge_and_unload(safe_merge=True)`.
    Peft,
}

/// `alpha/r B A` of one module, computed row by row.
pub(super) struct Delta {
    /// `[r, in]`.
    lora_a: Vec<f32>,
    /// `[out, r]`.
    lora_b: Vec<f32>,
    r: usize,
    in_features: usize,
    scaling: f32,
}

impl Delta {
    /// Reads the adapter of a module whose weight is `[out, in_features]`.
    pub fn read(adapter: &Adapter, module: &str, in_features: usize) -> Result<Self> {
        let (lora_a, lora_b) = (adapter.read(module, Side::A)?, adapter.read(module, Side::B)?);
        let config = adapter.config();
        Ok(Self { lora_a, lora_b, r: config.r, in_features, scaling: config.scaling() })
    }

    /// Rows of the product from `first_row` on, `n_rows * in_features` numbers.
    ///
    /// Each is a chain of fused multiply-adds in the order of r, as torch's f32 matmul computes it (pinned by the fixtures;
    /// rounding each product as well differs in 5 % of the elements). `mul_add` gives the same bits on every machine, and
    /// `pulp` the instruction for it where there is one.
    fn rows(&self, first_row: usize, n_rows: usize) -> Vec<f32> {
        let mut delta = vec![0.0_f32; n_rows * self.in_features];
        pulp::Arch::new().dispatch(|| {
            let b_rows = self.lora_b[first_row * self.r..].chunks_exact(self.r);
            for (row, b_row) in delta.chunks_exact_mut(self.in_features).zip(b_rows) {
                for (b, a_row) in b_row.iter().zip(self.lora_a.chunks_exact(self.in_features)) {
                    for (sum, a) in row.iter_mut().zip(a_row) {
                        *sum = b.mul_add(*a, *sum);
                    }
                }
                for sum in row {
                    *sum *= self.scaling;
                }
            }
        });
        delta
    }

    /// Adds the product to rows of a weight, which become numbers of `dtype`.
    pub fn add_to(&self, first_row: usize, weights: &mut [f32], dtype: Dtype, rounding: Rounding) -> Change {
        let mut change = Change::default();
        let delta = self.rows(first_row, weights.len() / self.in_features);
        for (weight, delta) in weights.iter_mut().zip(delta) {
            let before = dtype.round(*weight);
            let added = match rounding {
                Rounding::Once => delta,
                Rounding::Peft => dtype.round(delta),
            };
            *weight = dtype.round(before + added);
            change.wanted += u64::from(delta != 0.0);
            change.survived += u64::from(delta != 0.0 && *weight != before);
        }
        change
    }
}

#[cfg(test)]
mod tests;
