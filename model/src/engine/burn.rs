//! The engine over any Burn backend. Matrices are `Tensor<B, 2>` in f32; in bf16 precision every product, norm and
//! activation is rounded to bf16 as autocast does, while norms, softmax and loss are computed in f32. Where the device has
//! bf16, matrices of the base are kept so, and products are made of such numbers: the same results in half the memory.

use std::marker::PhantomData;
use std::ops::Range;

use burn::tensor::{FloatDType, IndexingUpdateOp, Int, Tensor, TensorData, backend::Backend};

use super::kernels::{Kernels, Plain};
use super::{Precision, burn_attention};
use crate::ops::{AttentionSaved, AttentionShape, CrossEntropy, Dropout, Ops, Uniform};
use crate::sums::{StepSums, Sums};

/// Operations on one device of a Burn backend; `K` is what has kernels of its own there.
pub struct Burn<B: Backend, K = Plain> {
    device: B::Device,
    precision: Precision,
    /// f64 throughout.
    exact: bool,
    /// In bf16 precision, matrices of the base are kept as bf16 and products are made of bf16.
    has_bf16: bool,
    /// Scores that attention makes at once, in numbers.
    pub(super) max_scores: usize,
    kernels: PhantomData<K>,
}

/// Scores that attention makes at once at most: 64 MB as f32. Its backward holds three such matrices.
pub(crate) const MAX_SCORES: usize = 1 << 24;

impl<B: Backend, K: Kernels<B>> Burn<B, K> {
    /// An engine on `device`.
    #[must_use]
    pub fn new(device: B::Device, precision: Precision) -> Self {
        let has_bf16 = precision == Precision::Bf16 && K::has_bf16(&device);
        Self { device, precision, exact: false, has_bf16, max_scores: MAX_SCORES, kernels: PhantomData }
    }

    /// An engine in f64, for proofs and not for runs: finite differences need more digits than f32 has.
    #[must_use]
    pub fn exact(device: B::Device) -> Self {
        Self { exact: true, ..Self::new(device, Precision::F32) }
    }

    /// The same with attention in blocks of at most so many scores, but never less than those of one query.
    #[must_use]
    pub fn with_max_scores(self, max_scores: usize) -> Self {
        Self { max_scores, ..self }
    }

    pub(super) fn tensor<const D: usize>(&self, data: Vec<f32>, shape: [usize; D]) -> Tensor<B, D> {
        let tensor: Tensor<B, D> = Tensor::from_data(TensorData::new(data, shape), &self.device);
        if self.exact { tensor.cast(FloatDType::F64) } else { tensor }
    }

    /// The numbers of a matrix with all their digits.
    #[must_use]
    pub fn download_f64(&self, x: &Tensor<B, 2>) -> Vec<f64> {
        x.to_data().convert::<f64>().into_vec().expect("just converted")
    }

    fn ids(&self, ids: &[u32]) -> Tensor<B, 1, Int> {
        let ids: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
        let n = ids.len();
        Tensor::from_data(TensorData::new(ids, [n]), &self.device)
    }

    /// `x` rounded to the engine's precision.
    pub(super) fn round<const D: usize>(&self, x: Tensor<B, D>) -> Tensor<B, D> {
        match self.precision {
            Precision::F32 => x,
            Precision::Bf16 => K::round_bf16(x),
        }
    }

    /// `x` as products take it: in bf16 precision as bf16, or rounded to it where the device knows no bf16.
    fn factor<const D: usize>(&self, x: Tensor<B, D>) -> Tensor<B, D> {
        if self.has_bf16 { x.cast(FloatDType::BF16) } else { self.round(x) }
    }

    /// A frozen weight, or any matrix, as the other operations take it.
    fn wide<const D: usize>(&self, x: Tensor<B, D>) -> Tensor<B, D> {
        if self.has_bf16 { x.cast(FloatDType::F32) } else { x }
    }

    /// `a b` of numbers rounded to the engine's precision, added in f32.
    pub(super) fn product<const D: usize>(&self, a: Tensor<B, D>, b: Tensor<B, D>) -> Tensor<B, D> {
        K::matmul(self.factor(a), self.factor(b))
    }
}

impl<B: Backend, K: Kernels<B>> Ops for Burn<B, K> {
    type Tensor = Tensor<B, 2>;
    type AttentionPlan = burn_attention::Plan<B>;
    type DeviceSums = K::DeviceSums;

    fn upload(&self, data: Vec<f32>, shape: [usize; 2]) -> Self::Tensor {
        self.tensor(data, shape)
    }

    fn upload_weight(&self, data: Vec<f32>, shape: [usize; 2]) -> Self::Tensor {
        let weight = self.tensor(data, shape);
        if shape[0] == 1 { self.round(weight) } else { self.factor(weight) }
    }

    fn random_factor(&self, numbers: Uniform, shape: [usize; 2]) -> Self::Tensor {
        let weight = K::uniform(numbers, shape, &self.device);
        self.factor(if self.exact { weight.cast(FloatDType::F64) } else { weight })
    }

    fn download(&self, x: &Self::Tensor) -> Vec<f32> {
        x.to_data().convert::<f32>().into_vec().expect("just converted")
    }

    fn waiter(&self) -> Option<Box<dyn Fn()>> {
        let device = self.device.clone();
        // What a device reports here, it reports to the next operation as well.
        Some(Box::new(move || drop(B::sync(&device))))
    }

    fn device_memory(&self) -> Option<u64> {
        K::memory(&self.device)
    }

    fn rounded(&self, x: f32) -> f32 {
        match self.precision {
            Precision::F32 => x,
            Precision::Bf16 => half::bf16::from_f32(x).to_f32(),
        }
    }

    fn shape(&self, x: &Self::Tensor) -> [usize; 2] {
        x.dims()
    }

    fn add(&self, a: Self::Tensor, b: &Self::Tensor) -> Self::Tensor {
        let ([rows, columns], [block, _], b) = (a.dims(), b.dims(), self.wide(b.clone()));
        if block == rows || block == 1 {
            return self.round(a + b);
        }
        let blocks = a.reshape([rows / block, block, columns]) + b.reshape([1, block, columns]);
        self.round(blocks.reshape([rows, columns]))
    }

    fn scale(&self, a: Self::Tensor, factor: f32) -> Self::Tensor {
        self.round(a.mul_scalar(factor))
    }

    fn matmul(&self, a: &Self::Tensor, b: &Self::Tensor) -> Self::Tensor {
        self.round(self.product(a.clone(), b.clone()))
    }

    fn matmul_nt(&self, a: &Self::Tensor, b: &Self::Tensor) -> Self::Tensor {
        self.round(self.product(a.clone(), b.clone().transpose()))
    }

    fn linear(
        &self,
        x: &Self::Tensor,
        w: &Self::Tensor,
        bias: Option<&Self::Tensor>,
        adapter: Option<(&Self::Tensor, &Self::Tensor, f32)>,
    ) -> Self::Tensor {
        let nt = |a: &Self::Tensor, b: &Self::Tensor| self.product(a.clone(), b.clone().transpose());
        let more = adapter.map(|(h, b, factor)| (nt(h, b), factor));
        K::linear(nt(x, w), bias.cloned(), more, self.precision)
    }

    fn sum_of_matmuls(&self, pairs: &[(&Self::Tensor, &Self::Tensor)]) -> Self::Tensor {
        let (first, rest) = pairs.split_first().expect("at least one product");
        let product = |(a, b): &(&Self::Tensor, &Self::Tensor)| self.product((*a).clone(), (*b).clone());
        let Some((second, rest)) = rest.split_first() else { return self.round(product(first)) };
        let add = |sum, pair| K::linear(sum, None, Some((product(pair), 1.0)), self.precision);
        rest.iter().fold(add(product(first), second), add)
    }

    fn matmul_tn(&self, a: &Self::Tensor, b: &Self::Tensor) -> Self::Tensor {
        self.product(a.clone().transpose(), b.clone())
    }

    fn dropout(&self, x: &Self::Tensor, mask: Dropout) -> Self::Tensor {
        K::dropout(x.clone(), mask)
    }

    fn rms_norm(&self, x: &Self::Tensor, gain: &Self::Tensor, eps: f32) -> Self::Tensor {
        K::rms_norm(x.clone(), gain.clone(), eps, self.precision)
    }

    fn rms_norm_backward(&self, dy: &Self::Tensor, x: &Self::Tensor, gain: &Self::Tensor, eps: f32) -> Self::Tensor {
        K::rms_norm_backward(dy.clone(), x.clone(), gain.clone(), eps, self.precision)
    }

    fn layer_norm(&self, x: &Self::Tensor, w: &Self::Tensor, b: &Self::Tensor, eps: f32) -> Self::Tensor {
        K::layer_norm(x.clone(), w.clone(), b.clone(), eps, self.precision)
    }

    fn layer_norm_backward(&self, dy: &Self::Tensor, x: &Self::Tensor, w: &Self::Tensor, eps: f32) -> Self::Tensor {
        K::layer_norm_backward(dy.clone(), x.clone(), w.clone(), eps, self.precision)
    }

    fn gelu(&self, x: &Self::Tensor) -> Self::Tensor {
        K::gelu(x.clone(), self.precision)
    }

    fn gelu_backward(&self, dy: &Self::Tensor, x: &Self::Tensor) -> Self::Tensor {
        K::gelu_backward(dy.clone(), x.clone(), self.precision)
    }

    fn gelu_mul(&self, gate: &Self::Tensor, up: &Self::Tensor) -> Self::Tensor {
        K::gelu_mul(gate.clone(), up.clone(), self.precision)
    }

    fn gelu_mul_backward(
        &self,
        dh: &Self::Tensor,
        gate: &Self::Tensor,
        up: &Self::Tensor,
    ) -> (Self::Tensor, Self::Tensor) {
        K::gelu_mul_backward(dh.clone(), gate.clone(), up.clone(), self.precision)
    }

    fn rope(&self, x: &Self::Tensor, cos: &Self::Tensor, sin: &Self::Tensor) -> Self::Tensor {
        let ([tokens, width], [_, half]) = (x.dims(), cos.dims());
        let heads = width / (2 * half);
        let x = x.clone().reshape([tokens, heads, 2, half]);
        let [x1, x2] = [0, 1].map(|i| x.clone().narrow(2, i, 1));
        let [cos, sin] = [cos, sin].map(|t| self.wide(t.clone()).reshape([tokens, 1, 1, half]));
        let y1 = x1.clone() * cos.clone() - x2.clone() * sin.clone();
        let y2 = x2 * cos + x1 * sin;
        self.round(Tensor::cat(vec![y1, y2], 2).reshape([tokens, width]))
    }

    fn plan_attention(&self, shape: AttentionShape) -> Self::AttentionPlan {
        burn_attention::Plan::new(self, &shape)
    }

    fn attention(
        &self,
        q: &Self::Tensor,
        k: &Self::Tensor,
        v: &Self::Tensor,
        plan: &Self::AttentionPlan,
    ) -> (Self::Tensor, Self::Tensor) {
        burn_attention::forward(self, q, k, v, plan)
    }

    fn attention_backward(
        &self,
        dout: &Self::Tensor,
        saved: &AttentionSaved<Self::Tensor>,
        plan: &Self::AttentionPlan,
    ) -> [Self::Tensor; 3] {
        burn_attention::backward(self, dout, saved, plan)
    }

    fn stack_rows(&self, parts: &[&Self::Tensor]) -> Self::Tensor {
        Tensor::cat(parts.iter().map(|&x| x.clone()).collect(), 0)
    }

    fn stack_columns(&self, parts: &[&Self::Tensor]) -> Self::Tensor {
        Tensor::cat(parts.iter().map(|&x| x.clone()).collect(), 1)
    }

    fn columns(&self, x: &Self::Tensor, columns: Range<usize>) -> Self::Tensor {
        x.clone().narrow(1, columns.start, columns.len())
    }

    fn gather_rows(&self, x: &Self::Tensor, index: &[u32]) -> Self::Tensor {
        self.wide(x.clone().select(0, self.ids(index)))
    }

    fn replace_rows(&self, x: Self::Tensor, index: &[u32], values: &Self::Tensor) -> Self::Tensor {
        let ids = self.ids(index);
        // First to exactly 0: adding the difference alone would round.
        let minus_old = x.clone().select(0, ids.clone()).neg();
        let cleared = x.select_assign(0, ids.clone(), minus_old, IndexingUpdateOp::Add);
        cleared.select_assign(0, ids, values.clone(), IndexingUpdateOp::Add)
    }

    fn patches(&self, pages: &[u8], size: usize, patch: usize) -> Self::Tensor {
        let per_side = size / patch;
        let n = pages.len() / (size * size * 3);
        let normalised = super::normalised_pixels();
        let pixels = pages.iter().map(|&v| normalised[v as usize]).collect();
        self.round(self.tensor(pixels, [n, per_side, patch, per_side, patch * 3]))
            .reshape([n, per_side, patch, per_side, patch, 3])
            .permute([0, 1, 3, 5, 2, 4])
            .reshape([n * per_side * per_side, 3 * patch * patch])
    }

    fn avg_pool(&self, x: &Self::Tensor, grid: usize, k: usize) -> Self::Tensor {
        let ([rows, width], side) = (x.dims(), grid / k);
        let n = rows / (grid * grid);
        let windows = x.clone().reshape([n * side, k, side, k, width]).mean_dim(3).mean_dim(1);
        self.round(windows.reshape([n * side * side, width]))
    }

    fn avg_pool_backward(&self, dy: &Self::Tensor, grid: usize, k: usize) -> Self::Tensor {
        let ([pooled, width], side) = (dy.dims(), grid / k);
        let n = pooled / (side * side);
        let share = dy.clone().div_scalar((k * k) as f32).reshape([n * side, 1, side, 1, width]);
        share.expand([n * side, k, side, k, width]).reshape([n * grid * grid, width])
    }

    fn cross_entropy(&self, logits: Self::Tensor, targets: &[u32], scale: f32) -> CrossEntropy<Self::Tensor> {
        K::cross_entropy(logits, self.ids(targets), scale)
    }

    fn add_gradient(&self, sums: &mut Sums<K::DeviceSums>, ranges: &[Range<usize>], gradient: &Self::Tensor) {
        K::add_gradient(sums, ranges, gradient.clone());
    }

    fn count_not_finite(&self, sums: &mut Sums<K::DeviceSums>) {
        K::count_not_finite(sums);
    }

    fn collect(&self, sums: Sums<K::DeviceSums>) -> StepSums {
        K::collect(sums)
    }
}
