//! The CPU engine: one pass over memory for each operation, in f32, with the same bits for any number of threads.
//! In bf16 precision factors of products are rounded to bf16 as autocast does, and every result once.

mod attention;
mod buffer;
mod few;
mod math;
mod matrix;
mod rows;
mod view;

use std::ops::Range;

use self::buffer::Buffer;
pub(crate) use self::math::exp;
pub use self::matrix::Matrix;
use self::matrix::{Into, Term, product, sum_of_products};
use self::view::View;
use super::Precision;
use crate::ops::{AttentionSaved, AttentionShape, CrossEntropy, Dropout, Ops};
use crate::sums::{StepSums, Sums};

/// Operations on this machine's cores.
pub struct Cpu {
    precision: Precision,
}

impl Cpu {
    /// An engine of a precision.
    #[must_use]
    pub fn new(precision: Precision) -> Self {
        Self { precision }
    }

    fn round(&self, values: &mut [f32]) {
        if self.precision == Precision::Bf16 {
            rows::map(values, [], |v, []| *v = half::bf16::from_f32(*v).to_f32());
        }
    }

    /// The finished numbers of an operation.
    fn finish(&self, data: impl std::convert::Into<Buffer>, shape: [usize; 2]) -> Matrix {
        let mut data = data.into();
        self.round(&mut data);
        Matrix::new(data, shape)
    }

    /// A factor of a product, rounded.
    fn factor(&self, x: &Matrix) -> Matrix {
        match self.precision {
            Precision::F32 => x.clone(),
            Precision::Bf16 if x.view().is_bf16() => x.clone(),
            Precision::Bf16 => self.finish(copy(x), x.shape()),
        }
    }

    fn product(&self, a: View, b: View, [m, n]: [usize; 2]) -> Buffer {
        let mut out = Buffer::stale(m * n);
        product(&mut out, n, Into::Replace, 1.0, a, b);
        out
    }

    /// A new matrix like `x`, element by element.
    fn map<const N: usize>(&self, like: &Matrix, inputs: [&Matrix; N], f: impl Fn([f32; N]) -> f32 + Sync) -> Matrix {
        let mut out = Buffer::stale(like.data().len());
        rows::map(&mut out, inputs.map(Matrix::data), |out, x| *out = f(x));
        self.finish(out, like.shape())
    }

    /// A new matrix like `inputs[0]`, by runs of `width`.
    fn map_rows<const N: usize>(
        &self,
        width: usize,
        inputs: [&Matrix; N],
        f: impl Fn(&mut [f32], [&[f32]; N]) + Sync,
    ) -> Matrix {
        let mut out = Buffer::stale(inputs[0].data().len());
        rows::map_rows(&mut out, width, inputs.map(Matrix::data), f);
        self.finish(out, inputs[0].shape())
    }
}

impl Ops for Cpu {
    type Tensor = Matrix;
    type AttentionPlan = AttentionShape;
    type DeviceSums = ();

    fn upload(&self, data: Vec<f32>, shape: [usize; 2]) -> Matrix {
        Matrix::new(data, shape)
    }

    fn upload_weight(&self, data: Vec<f32>, shape: [usize; 2]) -> Matrix {
        self.finish(data, shape)
    }

    fn upload_factor(&self, mut data: Vec<f32>, shape: [usize; 2]) -> Matrix {
        self.round(&mut data);
        Matrix::frozen(data, shape)
    }

    fn download(&self, x: &Matrix) -> Vec<f32> {
        let [rows, columns] = x.shape();
        let mut out = vec![0.0; rows * columns];
        x.view().row(0).copy_to(&mut out);
        out
    }

    fn rounded(&self, x: f32) -> f32 {
        let mut one = [x];
        self.round(&mut one);
        one[0]
    }

    fn shape(&self, x: &Matrix) -> [usize; 2] {
        x.shape()
    }

    fn add(&self, a: Matrix, b: &Matrix) -> Matrix {
        let shape = a.shape();
        let mut out = a.into_buffer();
        if b.data().len() == out.len() {
            rows::map(&mut out, [b.data()], |a, [b]| *a += b);
        } else {
            rows::map_rows(&mut out, b.data().len(), [], |row, []| {
                row.iter_mut().zip(b.data()).for_each(|(a, b)| *a += b);
            });
        }
        self.finish(out, shape)
    }

    fn scale(&self, a: Matrix, factor: f32) -> Matrix {
        let shape = a.shape();
        let mut out = a.into_buffer();
        rows::map(&mut out, [], |a, []| *a *= factor);
        self.finish(out, shape)
    }

    fn matmul(&self, a: &Matrix, b: &Matrix) -> Matrix {
        let shape = [a.shape()[0], b.shape()[1]];
        let (a, b) = (self.factor(a), self.factor(b));
        self.finish(self.product(a.view(), b.view(), shape), shape)
    }

    fn matmul_nt(&self, a: &Matrix, b: &Matrix) -> Matrix {
        let shape = [a.shape()[0], b.shape()[0]];
        let (a, b) = (self.factor(a), self.factor(b));
        self.finish(self.product(a.view(), b.view().t(), shape), shape)
    }

    fn linear(
        &self,
        x: &Matrix,
        w: &Matrix,
        bias: Option<&Matrix>,
        adapter: Option<(&Matrix, &Matrix, f32)>,
    ) -> Matrix {
        let shape = [x.shape()[0], w.shape()[0]];
        let mut y = Buffer::stale(shape[0] * shape[1]);
        if let Some(bias) = bias {
            rows::map_indexed_rows(&mut y, shape[1], |_, row| row.copy_from_slice(bias.data()));
        }
        let how = if bias.is_some() { Into::Add } else { Into::Replace };
        let rounded = |(a, b, factor)| (self.factor(a), self.factor(b), factor);
        let factors: Vec<_> = [(x, w, 1.0)].into_iter().chain(adapter).map(rounded).collect();
        let terms = factors.iter().map(|(a, b, factor)| Term { factor: *factor, a: a.view(), b: b.view().t() });
        sum_of_products(&mut y, shape[1], how, &terms.collect::<Vec<_>>());
        self.finish(y, shape)
    }

    fn sum_of_matmuls(&self, pairs: &[(&Matrix, &Matrix)]) -> Matrix {
        let shape = pairs.first().map_or([0, 0], |(a, b)| [a.shape()[0], b.shape()[1]]);
        let mut sum = Buffer::stale(shape[0] * shape[1]);
        let factors: Vec<_> = pairs.iter().map(|(a, b)| (self.factor(a), self.factor(b))).collect();
        let terms = factors.iter().map(|(a, b)| Term { factor: 1.0, a: a.view(), b: b.view() });
        sum_of_products(&mut sum, shape[1], Into::Replace, &terms.collect::<Vec<_>>());
        self.finish(sum, shape)
    }

    fn matmul_tn(&self, a: &Matrix, b: &Matrix) -> Matrix {
        let shape = [a.shape()[1], b.shape()[1]];
        let (a, b) = (self.factor(a), self.factor(b));
        // The kernels read the wider side along its rows; what is narrow is turned afterwards. A gradient of an adapter
        // stays f32.
        if shape[0] <= shape[1] {
            return Matrix::new(self.product(a.view().t(), b.view(), shape), shape);
        }
        let turned = self.product(b.view().t(), a.view(), [shape[1], shape[0]]);
        let mut out = Buffer::stale(turned.len());
        rows::map_indexed_rows(&mut out, shape[1], |row, values| {
            values.iter_mut().enumerate().for_each(|(column, v)| *v = turned[column * shape[0] + row]);
        });
        Matrix::new(out, shape)
    }

    fn dropout(&self, x: &Matrix, mask: Dropout) -> Matrix {
        let width = x.shape()[1];
        let mut out = Buffer::stale(x.data().len());
        rows::map_indexed_rows(&mut out, width, |row, values| {
            let (first, x) = ((row * width) as u32, &x.data()[row * width..][..width]);
            values.iter_mut().zip(x).zip(first..).for_each(|((v, x), n)| *v = x * mask.factor(n));
        });
        Matrix::new(out, x.shape())
    }

    fn rms_norm(&self, x: &Matrix, gain: &Matrix, eps: f32) -> Matrix {
        self.map_rows(
            gain.shape()[1],
            [x],
            #[inline(always)]
            |out, [x]| {
                let inverse = rows::inverse_rms(x, eps);
                out.iter_mut().zip(x).zip(gain.data()).for_each(|((y, x), g)| *y = x * inverse * g);
            },
        )
    }

    fn rms_norm_backward(&self, dy: &Matrix, x: &Matrix, gain: &Matrix, eps: f32) -> Matrix {
        let gain = gain.data();
        self.map_rows(
            gain.len(),
            [dy, x],
            #[inline(always)]
            |out, [dy, x]| {
                let inverse = rows::inverse_rms(x, eps);
                let along = rows::sum([dy, gain, x], |[dy, g, x]| dy * g * x) * inverse * inverse / x.len() as f32;
                let inputs = dy.iter().zip(gain).zip(x);
                out.iter_mut().zip(inputs).for_each(|(dx, ((dy, g), x))| *dx = (dy * g - x * along) * inverse);
            },
        )
    }

    fn layer_norm(&self, x: &Matrix, w: &Matrix, b: &Matrix, eps: f32) -> Matrix {
        self.map_rows(
            w.shape()[1],
            [x],
            #[inline(always)]
            |out, [x]| {
                let (mean, inverse) = rows::mean_and_inverse_std(x, eps);
                let weights = w.data().iter().zip(b.data());
                out.iter_mut().zip(x).zip(weights).for_each(|((y, x), (w, b))| *y = (x - mean) * inverse * w + b);
            },
        )
    }

    fn layer_norm_backward(&self, dy: &Matrix, x: &Matrix, w: &Matrix, eps: f32) -> Matrix {
        let w = w.data();
        self.map_rows(
            w.len(),
            [dy, x],
            #[inline(always)]
            |out, [dy, x]| {
                let (mean, inverse) = rows::mean_and_inverse_std(x, eps);
                let n = x.len() as f32;
                let dmean = rows::sum([dy, w], |[dy, w]| dy * w) / n;
                let along = rows::sum([dy, w, x], |[dy, w, x]| dy * w * (x - mean)) * inverse * inverse / n;
                let inputs = dy.iter().zip(w).zip(x);
                out.iter_mut()
                    .zip(inputs)
                    .for_each(|(dx, ((dy, w), x))| *dx = (dy * w - dmean - (x - mean) * along) * inverse);
            },
        )
    }

    fn gelu(&self, x: &Matrix) -> Matrix {
        self.map(x, [x], |[x]| math::gelu(x))
    }

    fn gelu_backward(&self, dy: &Matrix, x: &Matrix) -> Matrix {
        self.map(x, [dy, x], |[dy, x]| dy * math::gelu_and_slope(x).1)
    }

    fn gelu_mul(&self, gate: &Matrix, up: &Matrix) -> Matrix {
        self.map(gate, [gate, up], |[gate, up]| math::gelu(gate) * up)
    }

    fn gelu_mul_backward(&self, dh: &Matrix, gate: &Matrix, up: &Matrix) -> (Matrix, Matrix) {
        let [mut dgate, mut dup] = [0, 1].map(|_| Buffer::stale(dh.data().len()));
        rows::map_both(&mut dgate, &mut dup, [dh, gate, up].map(Matrix::data), |dgate, dup, [dh, gate, up]| {
            let (gelu, slope) = math::gelu_and_slope(gate);
            *dgate = dh * up * slope;
            *dup = dh * gelu;
        });
        (self.finish(dgate, dh.shape()), self.finish(dup, dh.shape()))
    }

    fn rope(&self, x: &Matrix, cos: &Matrix, sin: &Matrix) -> Matrix {
        let ([_, width], [_, half]) = (x.shape(), cos.shape());
        let mut out = Buffer::stale(x.data().len());
        rows::map_indexed_rows(&mut out, width, |token, heads| {
            let [cos, sin] = [cos, sin].map(|table| &table.data()[token * half..][..half]);
            let x = x.data()[token * width..][..width].chunks_exact(2 * half);
            for (head, x) in heads.chunks_exact_mut(2 * half).zip(x) {
                let ((first, second), (x1, x2)) = (head.split_at_mut(half), x.split_at(half));
                for i in 0..half {
                    first[i] = x1[i] * cos[i] - x2[i] * sin[i];
                    second[i] = x2[i] * cos[i] + x1[i] * sin[i];
                }
            }
        });
        self.finish(out, x.shape())
    }

    fn plan_attention(&self, shape: AttentionShape) -> AttentionShape {
        shape
    }

    fn attention(&self, q: &Matrix, k: &Matrix, v: &Matrix, plan: &AttentionShape) -> (Matrix, Matrix) {
        let (out, lse) = attention::forward([q, k, v], plan, |p| self.round(p));
        let out_shape = out.shape();
        (self.finish(out.into_buffer(), out_shape), lse)
    }

    fn attention_backward(&self, dout: &Matrix, saved: &AttentionSaved<Matrix>, plan: &AttentionShape) -> [Matrix; 3] {
        attention::backward(dout, saved, plan, |p| self.round(p)).map(|grad| {
            let shape = grad.shape();
            self.finish(grad.into_buffer(), shape)
        })
    }

    fn stack_rows(&self, parts: &[&Matrix]) -> Matrix {
        match parts {
            [one] => (*one).clone(),
            _ => {
                let rows = parts.iter().map(|x| x.shape()[0]).sum();
                let data = parts.iter().map(|x| x.data()).collect::<Vec<_>>().concat();
                Matrix::new(data, [rows, parts.first().map_or(0, |x| x.shape()[1])])
            }
        }
    }

    fn stack_columns(&self, parts: &[&Matrix]) -> Matrix {
        let [one, ..] = parts else { return Matrix::new(vec![], [0, 0]) };
        if parts.len() == 1 {
            return (*one).clone();
        }
        let [height, width] = [one.shape()[0], parts.iter().map(|x| x.shape()[1]).sum()];
        let mut data = Buffer::stale(height * width);
        for (i, mut row) in data.chunks_exact_mut(width.max(1)).enumerate() {
            for part in parts {
                let n = part.shape()[1];
                let (own, rest) = row.split_at_mut(n);
                own.copy_from_slice(&part.data()[i * n..][..n]);
                row = rest;
            }
        }
        Matrix::new(data, [height, width])
    }

    fn columns(&self, x: &Matrix, columns: Range<usize>) -> Matrix {
        let [height, width] = x.shape();
        if columns.len() == width {
            return x.clone();
        }
        let mut data = Buffer::stale(height * columns.len());
        for (own, row) in data.chunks_exact_mut(columns.len()).zip(x.data().chunks_exact(width)) {
            own.copy_from_slice(&row[columns.clone()]);
        }
        Matrix::new(data, [height, columns.len()])
    }

    fn gather_rows(&self, x: &Matrix, index: &[u32]) -> Matrix {
        let width = x.shape()[1];
        let mut data = Buffer::stale(index.len() * width);
        rows::map_indexed_rows(&mut data, width, |i, row| {
            x.view().row(index[i] as usize).copy_to(row);
        });
        Matrix::new(data, [index.len(), width])
    }

    fn replace_rows(&self, x: Matrix, index: &[u32], values: &Matrix) -> Matrix {
        let shape = x.shape();
        let mut data = x.into_buffer();
        for (&row, value) in index.iter().zip(values.data().chunks(shape[1])) {
            data[row as usize * shape[1]..][..shape[1]].copy_from_slice(value);
        }
        Matrix::new(data, shape)
    }

    fn patches(&self, pages: &[u8], size: usize, patch: usize) -> Matrix {
        let normalised = super::normalised_pixels();
        let (per_side, width) = (size / patch, 3 * patch * patch);
        let n = pages.len() / (size * size * 3) * per_side * per_side;
        let mut out = Buffer::stale(n * width);
        rows::map_indexed_rows(&mut out, width, |at, row| {
            let (page, y, x) = (at / (per_side * per_side), at / per_side % per_side, at % per_side);
            let corner = (page * size + y * patch) * size + x * patch;
            for (i, value) in row.iter_mut().enumerate() {
                let (channel, dy, dx) = (i / (patch * patch), i / patch % patch, i % patch);
                *value = normalised[pages[(corner + dy * size + dx) * 3 + channel] as usize];
            }
        });
        self.finish(out, [n, width])
    }

    fn avg_pool(&self, x: &Matrix, grid: usize, k: usize) -> Matrix {
        let ([tokens, width], side) = (x.shape(), grid / k);
        let mut out = Buffer::zeros(tokens / (k * k) * width);
        rows::map_indexed_rows(&mut out, width, |at, mean| {
            for window in windows(at, grid, side, k) {
                mean.iter_mut().zip(&x.data()[window * width..][..width]).for_each(|(m, x)| *m += x);
            }
            mean.iter_mut().for_each(|m| *m /= (k * k) as f32);
        });
        self.finish(out, [tokens / (k * k), width])
    }

    fn avg_pool_backward(&self, dy: &Matrix, grid: usize, k: usize) -> Matrix {
        let ([pooled, width], side) = (dy.shape(), grid / k);
        let mut out = Buffer::stale(pooled * k * k * width);
        for at in 0..pooled {
            let dy = &dy.data()[at * width..][..width];
            for window in windows(at, grid, side, k) {
                out[window * width..][..width].iter_mut().zip(dy).for_each(|(dx, dy)| *dx = dy / (k * k) as f32);
            }
        }
        Matrix::new(out, [pooled * k * k, width])
    }

    fn cross_entropy(&self, logits: Matrix, targets: &[u32], scale: f32) -> CrossEntropy<Matrix> {
        let shape = logits.shape();
        let mut dlogits = logits.into_buffer();
        let mut found = vec![(0.0, 0.0, 0); targets.len()];
        rows::map_rows_with(
            &mut dlogits,
            shape[1],
            &mut found,
            #[inline(always)]
            |i, row, found| {
                let target = targets[i] as usize;
                let max = rows::max(row);
                let best = row.iter().position(|&l| l == max).unwrap_or(0);
                let logit = row[target] - max;
                let [total, weighted] = rows::exponentials(row, max);
                let (log_total, weighted) = (total.ln(), weighted / total);
                let factor = scale / total;
                row.iter_mut().for_each(|e| *e *= factor);
                row[target] -= scale;
                *found = (log_total - logit, log_total - weighted, best as u32);
            },
        );
        CrossEntropy {
            loss: found.iter().map(|&(loss, _, _)| loss).collect(),
            entropy: found.iter().map(|&(_, entropy, _)| entropy).collect(),
            predicted: found.iter().map(|&(_, _, best)| best).collect(),
            dlogits: Matrix::new(dlogits, shape),
        }
    }

    fn add_gradient(&self, sums: &mut Sums<()>, ranges: &[Range<usize>], gradient: &Matrix) {
        sums.host.add_gradients(ranges, gradient.data());
    }

    fn count_not_finite(&self, _: &mut Sums<()>) {}

    fn collect(&self, sums: Sums<()>) -> StepSums {
        sums.host
    }
}

/// A copy that is its own.
fn copy(x: &Matrix) -> Buffer {
    let mut out = Buffer::stale(x.data().len());
    rows::map(&mut out, [x.data()], |out, [x]| *out = x);
    out
}

/// Rows of the `k x k` window that becomes pooled row `at`, for images of `grid x grid` pooled to `side x side`.
fn windows(at: usize, grid: usize, side: usize, k: usize) -> impl Iterator<Item = usize> {
    let (image, y, x) = (at / (side * side), at / side % side, at % side);
    (0..k * k).map(move |i| (image * grid + y * k + i / k) * grid + x * k + i % k)
}
