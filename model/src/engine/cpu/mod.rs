//! The CPU engine: one pass over memory for each operation, in f32, with the same bits for any number of threads.
//! In bf16 precision every product, norm and activation is rounded to bf16 as autocast does.

mod attention;
mod math;
mod matrix;
mod rows;

pub use self::matrix::Matrix;
use self::matrix::{Into, View, product};
use super::Precision;
use crate::ops::{AttentionSaved, AttentionShape, CrossEntropy, Dropout, Ops};

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
    fn finish(&self, mut data: Vec<f32>, shape: [usize; 2]) -> Matrix {
        self.round(&mut data);
        Matrix::new(data, shape)
    }

    /// A factor of a product, rounded.
    fn factor(&self, x: &Matrix) -> Matrix {
        match self.precision {
            Precision::F32 => x.clone(),
            Precision::Bf16 => self.finish(x.data().to_vec(), x.shape()),
        }
    }

    fn product(&self, a: View, b: View, [m, n]: [usize; 2]) -> Vec<f32> {
        let mut out = vec![0.0; m * n];
        product(&mut out, n, Into::Replace, 1.0, a, b);
        out
    }

    /// A new matrix like `x`, element by element.
    fn map<const N: usize>(&self, like: &Matrix, inputs: [&Matrix; N], f: impl Fn([f32; N]) -> f32 + Sync) -> Matrix {
        let mut out = vec![0.0; like.data().len()];
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
        let mut out = vec![0.0; inputs[0].data().len()];
        rows::map_rows(&mut out, width, inputs.map(Matrix::data), f);
        self.finish(out, inputs[0].shape())
    }
}

impl Ops for Cpu {
    type Tensor = Matrix;
    type AttentionPlan = AttentionShape;

    fn upload(&self, data: Vec<f32>, shape: [usize; 2]) -> Matrix {
        Matrix::new(data, shape)
    }

    fn upload_weight(&self, data: Vec<f32>, shape: [usize; 2]) -> Matrix {
        self.finish(data, shape)
    }

    fn download(&self, x: &Matrix) -> Vec<f32> {
        x.data().to_vec()
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
        let mut out = a.into_vec();
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
        let mut out = a.into_vec();
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

    fn add_matmul_nt(&self, y: Matrix, a: &Matrix, b: &Matrix, factor: f32) -> Matrix {
        match self.precision {
            Precision::F32 => add_product(y, factor, a.view(), b.view().t()),
            Precision::Bf16 => self.add(y, &self.scale(self.matmul_nt(a, b), factor)),
        }
    }

    fn add_matmul(&self, y: Matrix, a: &Matrix, b: &Matrix) -> Matrix {
        match self.precision {
            Precision::F32 => add_product(y, 1.0, a.view(), b.view()),
            Precision::Bf16 => self.add(y, &self.matmul(a, b)),
        }
    }

    fn matmul_tn(&self, a: &Matrix, b: &Matrix) -> Matrix {
        let shape = [a.shape()[1], b.shape()[1]];
        let (a, b) = (self.factor(a), self.factor(b));
        Matrix::new(self.product(a.view().t(), b.view(), shape), shape) // The gradient of an adapter stays f32.
    }

    fn dropout(&self, x: &Matrix, mask: Dropout) -> Matrix {
        let width = x.shape()[1];
        let mut out = x.data().to_vec();
        rows::map_indexed_rows(&mut out, width, |row, values| {
            let first = (row * width) as u32;
            values.iter_mut().zip(first..).for_each(|(v, n)| *v *= mask.factor(n));
        });
        Matrix::new(out, x.shape())
    }

    fn rms_norm(&self, x: &Matrix, gain: &Matrix, eps: f32) -> Matrix {
        self.map_rows(gain.shape()[1], [x], |out, [x]| {
            let inverse = rows::inverse_rms(x, eps);
            out.iter_mut().zip(x).zip(gain.data()).for_each(|((y, x), g)| *y = x * inverse * g);
        })
    }

    fn rms_norm_backward(&self, dy: &Matrix, x: &Matrix, gain: &Matrix, eps: f32) -> Matrix {
        let gain = gain.data();
        self.map_rows(gain.len(), [dy, x], |out, [dy, x]| {
            let inverse = rows::inverse_rms(x, eps);
            let along = rows::sum([dy, gain, x], |[dy, g, x]| dy * g * x) * inverse * inverse / x.len() as f32;
            let inputs = dy.iter().zip(gain).zip(x);
            out.iter_mut().zip(inputs).for_each(|(dx, ((dy, g), x))| *dx = (dy * g - x * along) * inverse);
        })
    }

    fn layer_norm(&self, x: &Matrix, w: &Matrix, b: &Matrix, eps: f32) -> Matrix {
        self.map_rows(w.shape()[1], [x], |out, [x]| {
            let (mean, inverse) = rows::mean_and_inverse_std(x, eps);
            let weights = w.data().iter().zip(b.data());
            out.iter_mut().zip(x).zip(weights).for_each(|((y, x), (w, b))| *y = (x - mean) * inverse * w + b);
        })
    }

    fn layer_norm_backward(&self, dy: &Matrix, x: &Matrix, w: &Matrix, eps: f32) -> Matrix {
        let w = w.data();
        self.map_rows(w.len(), [dy, x], |out, [dy, x]| {
            let (mean, inverse) = rows::mean_and_inverse_std(x, eps);
            let n = x.len() as f32;
            let dmean = rows::sum([dy, w], |[dy, w]| dy * w) / n;
            let along = rows::sum([dy, w, x], |[dy, w, x]| dy * w * (x - mean)) * inverse * inverse / n;
            let inputs = dy.iter().zip(w).zip(x);
            out.iter_mut()
                .zip(inputs)
                .for_each(|(dx, ((dy, w), x))| *dx = (dy * w - dmean - (x - mean) * along) * inverse);
        })
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
        let (mut dgate, mut dup) = (vec![0.0; dh.data().len()], dh.data().to_vec());
        rows::map_both(&mut dgate, &mut dup, [gate.data(), up.data()], |dgate, dup, [gate, up]| {
            let (gelu, slope) = math::gelu_and_slope(gate);
            *dgate = *dup * up * slope;
            *dup *= gelu;
        });
        (self.finish(dgate, dh.shape()), self.finish(dup, dh.shape()))
    }

    fn rope(&self, x: &Matrix, cos: &Matrix, sin: &Matrix) -> Matrix {
        let ([_, width], [_, half]) = (x.shape(), cos.shape());
        let mut out = x.data().to_vec();
        rows::map_indexed_rows(&mut out, width, |token, heads| {
            let [cos, sin] = [cos, sin].map(|table| &table.data()[token * half..][..half]);
            for head in heads.chunks_exact_mut(2 * half) {
                let (first, second) = head.split_at_mut(half);
                for i in 0..half {
                    let (x1, x2) = (first[i], second[i]);
                    first[i] = x1 * cos[i] - x2 * sin[i];
                    second[i] = x2 * cos[i] + x1 * sin[i];
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
        (self.finish(out.into_vec(), out_shape), lse)
    }

    fn attention_backward(&self, dout: &Matrix, saved: &AttentionSaved<Matrix>, plan: &AttentionShape) -> [Matrix; 3] {
        attention::backward(dout, saved, plan, |p| self.round(p)).map(|grad| {
            let shape = grad.shape();
            self.finish(grad.into_vec(), shape)
        })
    }

    fn concat_sequence(&self, old: &Matrix, new: &Matrix, rows: usize) -> Matrix {
        let [n_old, n_new] = [old, new].map(|x| x.data().len() / rows);
        let both = old.data().chunks(n_old).zip(new.data().chunks(n_new));
        let data = both.flat_map(|(old, new)| old.iter().chain(new).copied()).collect();
        Matrix::new(data, [old.shape()[0] + new.shape()[0], old.shape()[1]])
    }

    fn gather_rows(&self, x: &Matrix, index: &[u32]) -> Matrix {
        let width = x.shape()[1];
        let mut data = Vec::with_capacity(index.len() * width);
        index.iter().for_each(|&row| data.extend_from_slice(&x.data()[row as usize * width..][..width]));
        Matrix::new(data, [index.len(), width])
    }

    fn replace_rows(&self, x: Matrix, index: &[u32], values: &Matrix) -> Matrix {
        let shape = x.shape();
        let mut data = x.into_vec();
        for (&row, value) in index.iter().zip(values.data().chunks(shape[1])) {
            data[row as usize * shape[1]..][..shape[1]].copy_from_slice(value);
        }
        Matrix::new(data, shape)
    }

    fn patches(&self, pages: &[u8], size: usize, patch: usize) -> Matrix {
        let normalised = super::normalised_pixels();
        let (per_side, width) = (size / patch, 3 * patch * patch);
        let n = pages.len() / (size * size * 3) * per_side * per_side;
        let mut out = vec![0.0; n * width];
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
        let mut out = vec![0.0; tokens / (k * k) * width];
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
        let mut out = vec![0.0; pooled * k * k * width];
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
        let mut dlogits = logits.into_vec();
        let mut found = vec![(0.0, 0.0, 0); targets.len()];
        rows::map_rows_with(&mut dlogits, shape[1], &mut found, |i, row, found| {
            let target = targets[i] as usize;
            let max = rows::max(row);
            let best = row.iter().position(|&l| l == max).unwrap_or(0);
            let logit = row[target] - max;
            row.iter_mut().for_each(|l| *l -= max);
            let total = rows::sum([row], |[l]| math::exp(l));
            let log_total = total.ln();
            let weighted = rows::sum([row], |[l]| math::exp(l) * l) / total;
            let factor = scale / total;
            row.iter_mut().for_each(|l| *l = math::exp(*l) * factor);
            row[target] -= scale;
            *found = (log_total - logit, log_total - weighted, best as u32);
        });
        CrossEntropy {
            loss: found.iter().map(|&(loss, _, _)| loss).collect(),
            entropy: found.iter().map(|&(_, entropy, _)| entropy).collect(),
            predicted: found.iter().map(|&(_, _, best)| best).collect(),
            dlogits: Matrix::new(dlogits, shape),
        }
    }
}

/// `y + factor * a b` in the place of `y`.
fn add_product(y: Matrix, factor: f32, a: View, b: View) -> Matrix {
    let shape = y.shape();
    let mut out = y.into_vec();
    product(&mut out, shape[1], Into::Add, factor, a, b);
    Matrix::new(out, shape)
}

/// Rows of the `k x k` window that becomes pooled row `at`, for images of `grid x grid` pooled to `side x side`.
fn windows(at: usize, grid: usize, side: usize, k: usize) -> impl Iterator<Item = usize> {
    let (image, y, x) = (at / (side * side), at / side % side, at % side);
    (0..k * k).map(move |i| (image * grid + y * k + i / k) * grid + x * k + i % k)
}
