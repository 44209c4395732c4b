//! Work on rows: norms, softmax and sums in a fixed order, element by element functions, spread over threads by whole
//! rows. A row's bits depend on that row alone.

use rayon::prelude::*;

use super::math::exp;
use crate::vector::vectorised;

/// Numbers below which a thread is not worth waking.
const PER_TASK: usize = 1 << 15;
/// Elements that a loop of fixed length works on: what is left over needs no bounds in it.
const BLOCK: usize = 64;
/// Partial sums of a row: enough for a vector unit, combined in a fixed order.
const LANES: usize = 16;

/// Runs `f` on every row of `out` and the same row of each input, on the widest vector units there are.
pub fn map_rows<const N: usize>(
    out: &mut [f32],
    width: usize,
    inputs: [&[f32]; N],
    f: impl Fn(&mut [f32], [&[f32]; N]) + Sync,
) {
    if out.is_empty() {
        return;
    }
    let rows = (PER_TASK / width.max(1)).max(1);
    out.par_chunks_mut(rows * width).enumerate().for_each(|(task, chunk)| {
        vectorised(
            #[inline(always)]
            || {
                for (i, row) in chunk.chunks_exact_mut(width).enumerate() {
                    let at = (task * rows + i) * width;
                    f(row, inputs.map(|input| &input[at..at + width]));
                }
            },
        );
    });
}

/// As [`map`], with two results.
pub fn map_both<const N: usize>(
    first: &mut [f32],
    second: &mut [f32],
    inputs: [&[f32]; N],
    f: impl Fn(&mut f32, &mut f32, [f32; N]) + Sync,
) {
    let both = first.par_chunks_mut(PER_TASK).zip(second.par_chunks_mut(PER_TASK));
    both.enumerate().for_each(|(task, (first, second))| {
        let inputs = inputs.map(|input| &input[task * PER_TASK..][..first.len()]);
        vectorised(
            #[inline(always)]
            || {
                let (first, first_rest) = first.as_chunks_mut::<BLOCK>();
                let (second, second_rest) = second.as_chunks_mut::<BLOCK>();
                for (i, (first, second)) in first.iter_mut().zip(second).enumerate() {
                    let x = block(&inputs, i);
                    for n in 0..BLOCK {
                        f(&mut first[n], &mut second[n], x.map(|x| x[n]));
                    }
                }
                let rest = inputs.map(|x| x.as_chunks::<BLOCK>().1);
                for (n, (first, second)) in first_rest.iter_mut().zip(second_rest).enumerate() {
                    f(first, second, rest.map(|x| x[n]));
                }
            },
        );
    });
}

/// Block `i` of each input.
#[inline(always)]
fn block<'a, const N: usize>(inputs: &[&'a [f32]; N], i: usize) -> [&'a [f32; BLOCK]; N] {
    inputs.map(|input| &input.as_chunks().0[i])
}

/// Runs `f` on every row and its index.
pub fn map_indexed_rows(out: &mut [f32], width: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    let rows = (PER_TASK / width.max(1)).max(1);
    out.par_chunks_mut(rows * width).enumerate().for_each(|(task, chunk)| {
        vectorised(
            #[inline(always)]
            || {
                chunk.chunks_exact_mut(width).enumerate().for_each(|(i, row)| f(task * rows + i, row));
            },
        );
    });
}

/// Runs `f` on every row, its index and its entry of `found`.
pub fn map_rows_with<T: Send>(
    out: &mut [f32],
    width: usize,
    found: &mut [T],
    f: impl Fn(usize, &mut [f32], &mut T) + Sync,
) {
    out.par_chunks_exact_mut(width).zip(found).enumerate().for_each(|(i, (row, found))| {
        vectorised(
            #[inline(always)]
            || f(i, row, found),
        );
    });
}

/// As [`map_rows`], element by element.
pub fn map<const N: usize>(out: &mut [f32], inputs: [&[f32]; N], f: impl Fn(&mut f32, [f32; N]) + Sync) {
    out.par_chunks_mut(PER_TASK).enumerate().for_each(|(task, out)| {
        let inputs = inputs.map(|input| &input[task * PER_TASK..][..out.len()]);
        vectorised(
            #[inline(always)]
            || {
                let (blocks, rest) = out.as_chunks_mut::<BLOCK>();
                for (i, out) in blocks.iter_mut().enumerate() {
                    let x = block(&inputs, i);
                    for n in 0..BLOCK {
                        f(&mut out[n], x.map(|x| x[n]));
                    }
                }
                let inputs = inputs.map(|x| x.as_chunks::<BLOCK>().1);
                for (n, out) in rest.iter_mut().enumerate() {
                    f(out, inputs.map(|x| x[n]));
                }
            },
        );
    });
}

/// Sum of `f` over the elements of rows, in lanes that are combined in a fixed order.
#[inline(always)]
pub fn sum<const N: usize>(rows: [&[f32]; N], f: impl Fn([f32; N]) -> f32) -> f32 {
    let n = rows[0].len();
    let mut lanes = [0.0_f32; LANES];
    let whole = n - n % LANES;
    for start in (0..whole).step_by(LANES) {
        let chunks = rows.map(|row| &row[start..start + LANES]);
        for lane in 0..LANES {
            lanes[lane] += f(chunks.map(|chunk| chunk[lane]));
        }
    }
    for i in whole..n {
        lanes[i - whole] += f(rows.map(|row| row[i]));
    }
    combined(lanes)
}

/// Replaces each `x` by `e^(x - max)`; returns the sum of those and the sum of each times `x - max`, in lanes that are
/// combined in a fixed order.
#[inline(always)]
pub fn exponentials(row: &mut [f32], max: f32) -> [f32; 2] {
    let (mut totals, mut weighted) = ([0.0_f32; LANES], [0.0_f32; LANES]);
    let mut chunk_of = |chunk: &mut [f32]| {
        for (lane, x) in chunk.iter_mut().enumerate() {
            let shifted = *x - max;
            *x = exp(shifted);
            totals[lane] += *x;
            weighted[lane] += *x * shifted;
        }
    };
    let mut chunks = row.chunks_exact_mut(LANES);
    chunks.by_ref().for_each(&mut chunk_of);
    chunk_of(chunks.into_remainder());
    [totals, weighted].map(combined)
}

/// Sum of lanes in a fixed order.
#[inline(always)]
fn combined(mut lanes: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// Largest element.
#[inline(always)]
pub fn max(row: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = row.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for lane in 0..LANES {
            lanes[lane] = if chunk[lane] > lanes[lane] { chunk[lane] } else { lanes[lane] };
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a })
}

/// `1 / sqrt(mean(x^2) + eps)`.
#[inline(always)]
pub fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    1.0 / (sum([x], |[x]| x * x) / x.len() as f32 + eps).sqrt()
}

/// Mean, and `1 / sqrt(var + eps)`.
#[inline(always)]
pub fn mean_and_inverse_std(x: &[f32], eps: f32) -> (f32, f32) {
    let mean = sum([x], |[x]| x) / x.len() as f32;
    let variance = sum([x], |[x]| (x - mean) * (x - mean)) / x.len() as f32;
    (mean, 1.0 / (variance + eps).sqrt())
}
