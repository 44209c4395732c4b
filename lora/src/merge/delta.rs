//! The arithmetic of a merge, bit for bit that of PEFT's `get_delta_weight` and `merge` on torch (lora/layer.py).
//! It never rounds more often than it says.

use super::Change;
use crate::dtype::{round_bf16, round_f16};
use crate::names::Side;
use crate::{Adapter, Dtype, Result};
use pulp::Simd;

/// How often a merged number is rounded to the dtype of the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Rounding {
    /// Once, `round(W + delta)` with delta in f32: PEFT's `merge_and_unload()`, and the nearer to the exact sum.
    Once,
    /// Twice, `round(W + round(delta))`: PEFT's `merge_and_unload(safe_merge=True)`.
    Peft,
}

/// Columns that are computed together; a multiple of four of the widest vectors.
const TILE: usize = 64;
/// Rows that are computed together: with four vectors of columns as many sums as fit in registers.
const ROWS: usize = 4;

/// `alpha/r B A` of one module, computed some rows at a time.
pub(super) struct Delta {
    /// A in tiles of columns, `[tiles, r, TILE]`; what the last tile lacks is zero.
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
        Ok(Self::new(&lora_a, lora_b, in_features, adapter.config().scaling()))
    }

    fn new(a: &[f32], lora_b: Vec<f32>, in_features: usize, scaling: f32) -> Self {
        let r = a.len() / in_features;
        let mut lora_a = vec![0.0; in_features.div_ceil(TILE) * r * TILE];
        for (tile, packed) in lora_a.chunks_exact_mut(r * TILE).enumerate() {
            for (packed, row) in packed.chunks_exact_mut(TILE).zip(a.chunks_exact(in_features)) {
                let columns = &row[tile * TILE..in_features.min((tile + 1) * TILE)];
                packed[..columns.len()].copy_from_slice(columns);
            }
        }
        Self { lora_a, lora_b, r, in_features, scaling }
    }

    /// Rows of the product from `first_row` on, as many as `rows` has.
    ///
    /// Each number is a chain of fused multiply-adds in the order of r, as torch's f32 matmul computes it (pinned by the
    /// fixtures; rounding each product as well changes 4 to 11 % of the sums). It has the same bits on every machine:
    /// `pulp` takes the instruction for it where there is one.
    fn rows(&self, first_row: usize, rows: &mut [f32]) {
        pulp::Arch::new().dispatch(Product { delta: self, first_row, rows });
    }

    /// Adds the product to rows of a weight, which become numbers of `dtype`; `product` is memory to compute it in.
    pub fn add_to(
        &self,
        first_row: usize,
        weights: &mut [f32],
        product: &mut Vec<f32>,
        dtype: Dtype,
        rounding: Rounding,
    ) -> Change {
        product.resize(weights.len(), 0.0);
        self.rows(first_row, product);
        if rounding == Rounding::Peft {
            dtype.round(product);
        }
        match dtype {
            Dtype::F16 => add(weights, product, round_f16),
            Dtype::Bf16 => add(weights, product, round_bf16),
            Dtype::F32 => add(weights, product, |x| x),
        }
    }
}

/// `round(round(w) + d)`, and what became of each `d`.
#[inline(always)]
fn add(weights: &mut [f32], deltas: &[f32], round: impl Fn(f32) -> f32) -> Change {
    /// Counts of so many numbers fit in 32 bits, which is the width of the numbers.
    const BLOCK: usize = 1 << 12;
    let mut change = Change::default();
    for (weights, deltas) in weights.chunks_mut(BLOCK).zip(deltas.chunks(BLOCK)) {
        let (mut wanted, mut survived) = (0_u32, 0_u32);
        for (weight, delta) in weights.iter_mut().zip(deltas) {
            let before = round(*weight);
            *weight = round(before + delta);
            wanted += u32::from(*delta != 0.0);
            survived += u32::from(*weight != before);
        }
        change.add(Change { wanted: wanted.into(), survived: survived.into() });
    }
    change
}

/// The product of [`Delta::rows`]; a type, because only what is always inlined is compiled for the vector units.
struct Product<'a> {
    delta: &'a Delta,
    first_row: usize,
    rows: &'a mut [f32],
}

impl pulp::WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { delta, first_row, rows } = self;
        let Delta { r, in_features, .. } = *delta;
        let n_rows = rows.len() / in_features;
        for (tile, a) in delta.lora_a.chunks_exact(r * TILE).enumerate() {
            let columns = tile * TILE..in_features.min((tile + 1) * TILE);
            for row in (0..n_rows).step_by(ROWS) {
                // Below the last row its own is computed again, for nobody.
                let b: [&[f32]; ROWS] = std::array::from_fn(|i| {
                    let row = first_row + (row + i).min(n_rows - 1);
                    &delta.lora_b[row * r..][..r]
                });
                let mut sums = [[0.0; TILE]; ROWS];
                multiply(simd, a, &b, delta.scaling, &mut sums);
                for (i, sums) in sums.iter().enumerate().take(n_rows - row) {
                    let begin = (row + i) * in_features;
                    rows[begin + columns.start..begin + columns.end].copy_from_slice(&sums[..columns.len()]);
                }
            }
        }
    }
}

/// Some rows of B by a tile of A, and the factor.
#[inline(always)]
fn multiply<S: Simd>(simd: S, a: &[f32], b: &[&[f32]; ROWS], scaling: f32, sums: &mut [[f32; TILE]; ROWS]) {
    let (a, _) = S::as_simd_f32s(a);
    let (n_vectors, scaling) = (TILE / S::F32_LANES, simd.splat_f32s(scaling));
    for first in (0..n_vectors).step_by(4) {
        let mut registers = [[simd.splat_f32s(0.0); 4]; ROWS];
        for (k, a) in a.chunks_exact(n_vectors).enumerate() {
            let a = &a[first..first + 4];
            for (registers, b) in registers.iter_mut().zip(b) {
                let b = simd.splat_f32s(b[k]);
                for (sum, a) in registers.iter_mut().zip(a) {
                    *sum = simd.mul_add_f32s(b, *a, *sum);
                }
            }
        }
        for (registers, sums) in registers.iter().zip(&mut *sums) {
            let (sums, _) = S::as_mut_simd_f32s(sums);
            for (sum, register) in sums[first..].iter_mut().zip(registers) {
                *sum = simd.mul_f32s(*register, scaling);
            }
        }
    }
}

#[cfg(test)]
mod tests;
