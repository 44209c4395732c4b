//! Matrices of the CPU engine and their product. The product is `gemm`'s, which burn-flex uses, too, but on strided
//! views and into a place that is added to: no transposed, permuted or summed copy is ever made.

use std::sync::Arc;

use half::bf16;
use rayon::prelude::*;

use super::buffer::Buffer;
use super::few;
use super::view::{Slice, View, reach};

/// Below this many multiplications a product is not worth waking other threads for.
const PARALLEL_PRODUCT: usize = 192 * 192 * 192;
/// Columns or rows of a product that one task computes. Part of the numbers: the order of sums may depend on it.
const TASK_COLUMNS: usize = 256;
const TASK_ROWS: usize = 1024;
/// For so many rows a transposed factor is turned first: the kernel library's own packing of one takes four times as long.
const TURNED_FOR: usize = 256;
/// Fewer columns are not cut.
const NARROW: usize = 128;

/// Row-major numbers behind a handle; an operation that owns the only handle works in place.
#[derive(Clone, Debug)]
pub struct Matrix {
    numbers: Numbers,
    shape: [usize; 2],
}

#[derive(Clone, Debug)]
enum Numbers {
    F32(Arc<Buffer>),
    /// Of a frozen factor, in half the memory: read by products and row by row.
    Bf16(Arc<Vec<bf16>>),
}

impl Matrix {
    pub fn new(data: impl std::convert::Into<Buffer>, shape: [usize; 2]) -> Self {
        let data = data.into();
        assert_eq!(data.len(), shape[0] * shape[1], "a matrix has rows * columns numbers");
        Self { numbers: Numbers::F32(Arc::new(data)), shape }
    }

    /// A frozen factor of products: in bf16 where that holds every number to the bit.
    pub fn frozen(data: Vec<f32>, shape: [usize; 2]) -> Self {
        if data.par_iter().any(|v| v.to_bits().trailing_zeros() < 16) {
            return Self::new(data, shape);
        }
        assert_eq!(data.len(), shape[0] * shape[1], "a matrix has rows * columns numbers");
        let data: Vec<bf16> = data.par_iter().map(|v| bf16::from_bits((v.to_bits() >> 16) as u16)).collect();
        Self { numbers: Numbers::Bf16(Arc::new(data)), shape }
    }

    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// The numbers of anything but a frozen factor.
    pub fn data(&self) -> &[f32] {
        self.view().f32()
    }

    /// The numbers, copied only if another handle holds them, too.
    pub fn into_buffer(self) -> Buffer {
        match self.numbers {
            Numbers::F32(data) => Arc::unwrap_or_clone(data),
            Numbers::Bf16(_) => self.view().row_major(),
        }
    }

    /// As it lies.
    pub fn view(&self) -> View<'_> {
        let data = match &self.numbers {
            Numbers::F32(data) => Slice::F32(data),
            Numbers::Bf16(data) => Slice::Bf16(data),
        };
        View::of(data, self.shape, [self.shape[1], 1])
    }
}

/// What becomes of the numbers that were there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Into {
    Replace,
    Add,
}

/// `factor * a b`.
#[derive(Clone, Copy)]
pub struct Term<'a> {
    pub factor: f32,
    pub a: View<'a>,
    pub b: View<'a>,
}

/// `out (+)= factor * a b`, for `out` with rows `row_stride` apart.
pub fn product(out: &mut [f32], row_stride: usize, how: Into, factor: f32, a: View, b: View) {
    sum_of_products(out, row_stride, how, &[Term { factor, a, b }]);
}

/// `out (+)=` the sum of `terms`, in their order, for `out` with rows `row_stride` apart. A large sum is cut into tasks by
/// its shape alone, so the order of additions does not depend on the number of threads; a task adds all terms while its
/// numbers are near.
pub fn sum_of_products(out: &mut [f32], row_stride: usize, how: Into, terms: &[Term]) {
    let Some(first) = terms.first() else { return };
    let [m, n] = [first.a.shape[0], first.b.shape[1]];
    let mut work = 0;
    for Term { a, b, .. } in terms {
        assert_eq!([a.shape[0], b.shape[1]], [m, n], "terms of a sum have one shape");
        assert_eq!(a.shape[1], b.shape[0], "inner sizes of a product are equal");
        work += m * n * a.shape[1];
    }
    assert!(reach([m, n], [row_stride, 1]) <= out.len(), "a product stays within its place");
    assert!(row_stride >= n || m <= 1, "rows of a product do not overlap");
    if m * n == 0 {
        return;
    }
    if few::are_few(terms) {
        return few::sum_of_products(out, row_stride, how, terms);
    }
    // What columns come from is packed by the kernel library, on one thread: each task packs its own share. Of few
    // columns, tasks are rows.
    let (rows, columns) = match (work < PARALLEL_PRODUCT, n >= NARROW) {
        (true, _) => (m, n),
        (false, true) => (pieces(m, TASK_ROWS, 1), pieces(n, TASK_COLUMNS, 2)),
        (false, false) => (pieces(m, TASK_COLUMNS, 2), n),
    };
    let place = Place { first: out.as_mut_ptr(), row_stride };
    let per_row = n.div_ceil(columns);
    let task = |task: usize| {
        let (row, column) = (task / per_row * rows, task % per_row * columns);
        for (i, Term { factor, a, b }) in terms.iter().enumerate() {
            let (a, b) = (a.rows(row, rows.min(m - row)), b.t().rows(column, columns.min(n - column)).t());
            let turned = b.strides[0] == 1 && a.shape[0] >= TURNED_FOR;
            let copied = (turned || b.is_bf16()).then(|| b.row_major());
            let b = copied.as_ref().map_or(b, |data| View::new(data, b.shape, [b.shape[1], 1]));
            // SAFETY: `out` is borrowed mutably and reaches as far as checked above; tasks share no row and column, and
            // rows do not overlap.
            #[expect(unsafe_code, reason = "the call into the kernel library")]
            unsafe {
                place.at(row, column).product(if i == 0 { how } else { Into::Add }, *factor, a, b);
            }
        }
    };
    match m.div_ceil(rows) * per_row {
        1 => task(0),
        n_tasks => (0..n_tasks).into_par_iter().with_max_len(1).for_each(task),
    }
}

/// Length of equal pieces of `n`, about `length` each and at least `least` of them, in whole vectors.
fn pieces(n: usize, length: usize, least: usize) -> usize {
    n.div_ceil(n.div_ceil(length).max(least)).next_multiple_of(16)
}

/// Where a task writes.
#[derive(Clone, Copy)]
struct Place {
    first: *mut f32,
    row_stride: usize,
}

// SAFETY: tasks of a product write to numbers of their own.
#[expect(unsafe_code, reason = "a pointer that tasks share")]
unsafe impl Send for Place {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "a pointer that tasks share")]
unsafe impl Sync for Place {}

impl Place {
    fn at(self, row: usize, column: usize) -> Self {
        Self { first: self.first.wrapping_add(row * self.row_stride + column), ..self }
    }

    /// `out (+)= factor * a b` on this thread.
    ///
    /// # Safety
    /// All of `out` is writable, nobody else uses it, and its rows do not overlap.
    #[expect(unsafe_code, reason = "the call into the kernel library")]
    unsafe fn product(self, how: Into, factor: f32, a: View, b: View) {
        let ([m, k], [_, n]) = (a.shape, b.shape);
        let [[a_row, a_column], [b_row, b_column]] = [a.strides, b.strides].map(|s| s.map(|n| n as isize));
        // SAFETY: views reach no further than their slices; the caller answers for `out`.
        unsafe {
            gemm::gemm(
                m,
                n,
                k,
                self.first,
                1,
                self.row_stride as isize,
                how == Into::Add,
                a.f32().as_ptr(),
                a_column,
                a_row,
                b.f32().as_ptr(),
                b_column,
                b_row,
                1.0,
                factor,
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
        }
    }
}

#[cfg(test)]
mod tests;
