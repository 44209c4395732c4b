//! Products of a few rows with a matrix that lies row by row, as every new token needs them: the matrix is read once, in
//! its own order, at the speed of memory. A number's bits depend on its row and column alone, on every machine alike.

use rayon::prelude::*;

use super::buffer::Buffer;
use super::matrix::{Into, Term};
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
                for (i, numbers) in chunk.chunks_exact_mut(m).enumerate() {
                    column(numbers, task * columns + i, terms);
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

/// The numbers of one column, of all rows.
#[inline(always)]
fn column(numbers: &mut [f32], column: usize, terms: &[Term]) {
    numbers.fill(0.0);
    for Term { factor, a, b } in terms {
        let w = b.t().row(column);
        let mut row = 0;
        let (together, rest) = numbers.as_chunks_mut::<TOGETHER>();
        for numbers in together {
            let sums = dots(std::array::from_fn::<_, TOGETHER, _>(|i| a.row(row + i)), w);
            for i in 0..TOGETHER {
                numbers[i] += factor * sums[i];
            }
            row += TOGETHER;
        }
        for number in rest {
            let [sum] = dots([a.row(row)], w);
            *number += factor * sum;
            row += 1;
        }
    }
}

/// The sums of the products of each `x` with `w`; how many there are does not change the bits of one.
#[inline(always)]
fn dots<const N: usize>(x: [&[f32]; N], w: &[f32]) -> [f32; N] {
    let mut sums = [[0.0; LANES]; N];
    let (blocks, rest) = w.as_chunks::<LANES>();
    let x_blocks = x.map(|x| x.as_chunks::<LANES>().0);
    for (at, w) in blocks.iter().enumerate() {
        for i in 0..N {
            let x = &x_blocks[i][at];
            for lane in 0..LANES {
                sums[i][lane] += x[lane] * w[lane];
            }
        }
    }
    let done = w.len() - rest.len();
    std::array::from_fn(|i| {
        let mut lanes = sums[i];
        let mut half = LANES / 2;
        while half > 0 {
            for lane in 0..half {
                lanes[lane] += lanes[lane + half];
            }
            half /= 2;
        }
        x[i][done..].iter().zip(rest).fold(lanes[0], |sum, (x, w)| sum + x * w)
    })
}

#[cfg(test)]
mod tests;
