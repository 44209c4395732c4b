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
    /// rounding each product as well changes 4 to 11 % of the sums). `mul_add` gives the same bits on every machine, and
    /// `pulp` the instruction for it where there is one.
    fn rows(&self, first_row: usize, n_rows: usize) -> Vec<f32> {
        let mut rows = vec![0.0_f32; n_rows * self.in_features];
        pulp::Arch::new().dispatch(Product { delta: self, first_row, rows: &mut rows });
        rows
    }

    /// Adds the product to rows of a weight, which become numbers of `dtype`.
    pub fn add_to(&self, first_row: usize, weights: &mut [f32], dtype: Dtype, rounding: Rounding) -> Change {
        let mut delta = self.rows(first_row, weights.len() / self.in_features);
        let wanted = delta.iter().filter(|d| **d != 0.0).count() as u64;
        if rounding == Rounding::Peft {
            dtype.round(&mut delta);
        }
        dtype.round(weights);
        let before = weights.to_vec();
        for (weight, delta) in weights.iter_mut().zip(delta) {
            *weight += delta;
        }
        dtype.round(weights);
        let survived = weights.iter().zip(before).filter(|(after, before)| *after != before).count() as u64;
        Change { wanted, survived }
    }
}

/// The product of [`Delta::rows`]; a type, because only what is always inlined is compiled for the vector units.
struct Product<'a> {
    delta: &'a Delta,
    first_row: usize,
    /// Zeros that become the product.
    rows: &'a mut [f32],
}

impl pulp::WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        let Delta { lora_a, lora_b, r, in_features, scaling } = self.delta;
        let b_rows = lora_b[self.first_row * r..].chunks_exact(*r);
        for (row, b_row) in self.rows.chunks_exact_mut(*in_features).zip(b_rows) {
            for (b, a_row) in b_row.iter().zip(lora_a.chunks_exact(*in_features)) {
                for (sum, a) in row.iter_mut().zip(a_row) {
                    *sum = b.mul_add(*a, *sum);
                }
            }
            for sum in row {
                *sum *= scaling;
            }
        }
    }
}

#[cfg(test)]
mod tests;
