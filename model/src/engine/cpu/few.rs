//! Products of a few rows with a matrix that lies row by row, as every new token needs them: the matrix is read once, in
//! its own order, at the speed of memory. A number's bits depend on its row and column alone, on every machine alike.

use rayon::prelude::*;

use super::buffer::Buffer;
use super::matrix::{Into, Term};
use super::view::{Number, Slice, View};
use crate::vector::vectorised;

/// Up to so many rows this is faster than the kernel library, which packs the matrix first.
pub const FEW: usize = 16;
/// Rows that go over a row of the matrix together.
const TOGETHER: usize = 4;
/// Partial sums of a number: enough for a vector unit, combined in a fixed order.
const LANES: usize = 16;
/// Multiplications below which a thread is not worth waking.
const PER_TASK: usize = 1 << 17;

/// Whether the sum of `terms` is computed here.
pub fn are_few(terms: &[Term]) -> bool {
    terms.iter().all(|Term { a, b, .. }| a.n_rows() <= FEW && a.has_whole_rows() && b.t().has_whole_rows())
}

/// `out (+)=` the sum of `terms`, in their order, for `out` with rows `row_stride` apart.
pub fn sum_of_products(out: &mut [f32], row_stride: usize, how: Into, terms: &[Term]) {
    let [m, n] = [terms[0].a.n_rows(), terms[0].b.t().n_rows()];
    let per_column: usize = terms.iter().map(|term| m * term.a.t().n_rows()).sum();
    let columns = (PER_TASK / per_column.max(1)).max(1);
    // Column by column, as tasks must not share what they write.
    let mut turned = Buffer::stale(m * n);
    turned.par_chunks_mut(columns * m).enumerate().for_each(|(task, chunk)| {
        vectorised(
            #[inline(always)]
            || {
                let mut wide = Vec::new();
                for (i, numbers) in chunk.chunks_exact_mut(m).enumerate() {
                    column(numbers, task * columns + i, terms, &mut wide);
                }
            },
        );
    });
    for row in 0..m {
        let numbers = (0..n).map(|column| turned[column * m + row]);
        let place = &mut out[row * row_stride..][..n];
        match how {
            Into::Replace => place.iter_mut().zip(numbers).for_each(|(y, sum)| *y = sum),
            Into::Add => place.iter_mut().zip(numbers).for_each(|(y, sum)| *y += sum),
        }
    }
}

/// The numbers of one column, of all rows. `wide`: room for a row of bf16 numbers in f32.
#[inline(always)]
fn column(numbers: &mut [f32], column: usize, terms: &[Term], wide: &mut Vec<f32>) {
    numbers.fill(0.0);
    for Term { factor, a, b } in terms {
        let k = a.t().n_rows();
        match (b.t().row(column), &mut *numbers) {
            (Slice::F32(w), _) => add_dots(numbers, *factor, *a, &w[..k]),
            (Slice::Bf16(w), [number]) => *number += factor * dot(&a.f32()[..k], &w[..k]),
            // Several rows widen it once.
            (w, _) => {
                wide.resize(k, 0.0);
                w.copy_to(wide);
                add_dots(numbers, *factor, *a, wide);
            }
        }
    }
}

/// Adds `factor` times the sum of the products of each row of `a` and `w`.
#[inline(always)]
fn add_dots(numbers: &mut [f32], factor: f32, a: View, w: &[f32]) {
    let a_row = |row: usize| &a.f32()[row * a.strides[0]..][..w.len()];
    let mut row = 0;
    let (together, rest) = numbers.as_chunks_mut::<TOGETHER>();
    for numbers in together {
        let sums = four_dots(std::array::from_fn(|i| a_row(row + i)), w);
        for i in 0..TOGETHER {
            numbers[i] += factor * sums[i];
        }
        row += TOGETHER;
    }
    for number in rest {
        *number += factor * dot(a_row(row), w);
        row += 1;
    }
}

/// The sum of the products of `x` and `w`.
#[inline(always)]
fn dot(x: &[f32], w: &[impl Number]) -> f32 {
    let ((x, x_rest), (w, w_rest)) = (x.as_chunks::<LANES>(), w.as_chunks::<LANES>());
    let mut sums = [0.0; LANES];
    x.iter().zip(w).for_each(|(x, w)| add_products(&mut sums, x, w));
    total(sums, x_rest, w_rest)
}

/// As [`dot`], and with its bits, of four rows that read `w` once. Written out: a loop over them is not vectorised.
#[inline(always)]
fn four_dots(x: [&[f32]; TOGETHER], w: &[f32]) -> [f32; TOGETHER] {
    let (w, w_rest) = w.as_chunks::<LANES>();
    let [x0, x1, x2, x3] = x.map(|x| x.as_chunks::<LANES>().0);
    let [mut s0, mut s1, mut s2, mut s3] = [[0.0; LANES]; TOGETHER];
    for ((((w, x0), x1), x2), x3) in w.iter().zip(x0).zip(x1).zip(x2).zip(x3) {
        add_products(&mut s0, x0, w);
        add_products(&mut s1, x1, w);
        add_products(&mut s2, x2, w);
        add_products(&mut s3, x3, w);
    }
    let [r0, r1, r2, r3] = x.map(|x| x.as_chunks::<LANES>().1);
    [total(s0, r0, w_rest), total(s1, r1, w_rest), total(s2, r2, w_rest), total(s3, r3, w_rest)]
}

#[inline(always)]
fn add_products(sums: &mut [f32; LANES], x: &[f32; LANES], w: &[impl Number; LANES]) {
    for lane in 0..LANES {
        sums[lane] += x[lane] * w[lane].wide();
    }
}

/// All lanes by halves, then what is left over.
#[inline(always)]
fn total(mut lanes: [f32; LANES], x_rest: &[f32], w_rest: &[impl Number]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
        half /= 2;
    }
    x_rest.iter().zip(w_rest).fold(lanes[0], |sum, (x, w)| sum + x * w.wide())
}

#[cfg(test)]
mod tests;
