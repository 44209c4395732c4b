//! Matrices of the CPU engine and their product. The product is `gemm`'s, which burn-flex uses, too, but on strided
//! views and into a place that is added to: no transposed, permuted or summed copy is ever made.

use std::sync::Arc;

/// Below this many multiplications a product is not worth waking other threads for.
const PARALLEL_PRODUCT: usize = 192 * 192 * 192;

/// Row-major numbers behind a handle; an operation that owns the only handle works in place.
#[derive(Clone, Debug)]
pub struct Matrix {
    data: Arc<Vec<f32>>,
    shape: [usize; 2],
}

impl Matrix {
    pub fn new(data: Vec<f32>, shape: [usize; 2]) -> Self {
        assert_eq!(data.len(), shape[0] * shape[1], "a matrix has rows * columns numbers");
        Self { data: Arc::new(data), shape }
    }

    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    pub fn data(&self) -> &[f32] {
        &self.data
    }

    /// The numbers, copied only if another handle holds them, too.
    pub fn into_vec(self) -> Vec<f32> {
        Arc::try_unwrap(self.data).unwrap_or_else(|shared| shared.to_vec())
    }

    /// As it lies.
    pub fn view(&self) -> View<'_> {
        View::new(&self.data, self.shape, [self.shape[1], 1])
    }
}

/// Some rows and columns of a slice.
#[derive(Clone, Copy)]
pub struct View<'a> {
    data: &'a [f32],
    shape: [usize; 2],
    strides: [usize; 2],
}

impl<'a> View<'a> {
    pub fn new(data: &'a [f32], shape: [usize; 2], strides: [usize; 2]) -> Self {
        assert!(reach(shape, strides) <= data.len(), "a view stays within its slice");
        Self { data, shape, strides }
    }

    /// The transposed view.
    pub fn t(self) -> Self {
        let ([rows, columns], [row, column]) = (self.shape, self.strides);
        Self { data: self.data, shape: [columns, rows], strides: [column, row] }
    }
}

/// One past the last number that `shape` and `strides` touch.
fn reach([rows, columns]: [usize; 2], [row, column]: [usize; 2]) -> usize {
    if rows * columns == 0 { 0 } else { (rows - 1) * row + (columns - 1) * column + 1 }
}

/// What becomes of the numbers that were there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Into {
    Replace,
    Add,
}

/// `out (+)= factor * a b`, for `out` with rows `row_stride` apart. The order of the sums depends on the shapes alone,
/// not on the number of threads.
pub fn product(out: &mut [f32], row_stride: usize, how: Into, factor: f32, a: View, b: View) {
    let ([m, k], [k_b, n]) = (a.shape, b.shape);
    assert_eq!(k, k_b, "inner sizes of a product are equal");
    assert!(reach([m, n], [row_stride, 1]) <= out.len(), "a product stays within its place");
    if m * n == 0 {
        return;
    }
    let parallelism = if m * n * k < PARALLEL_PRODUCT { gemm::Parallelism::None } else { gemm::Parallelism::Rayon(0) };
    let [[a_row, a_column], [b_row, b_column]] = [a.strides, b.strides].map(|s| s.map(|n| n as isize));
    // SAFETY: `reach` was checked against each slice, so every address lies within; `out` is borrowed mutably, so it
    // overlaps neither `a` nor `b`; its rows are `row_stride >= n` apart or single, so no element is written twice.
    #[expect(unsafe_code, reason = "the one call into the kernel library")]
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            row_stride as isize,
            how == Into::Add,
            a.data.as_ptr(),
            a_column,
            a_row,
            b.data.as_ptr(),
            b_column,
            b_row,
            1.0,
            factor,
            false,
            false,
            false,
            parallelism,
        );
    }
}
