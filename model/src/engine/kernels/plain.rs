//! What each own kernel computes, in operations of any backend: what backends without kernels run, and what tests compare
//! the kernels with.

use std::ops::Range;

use burn::tensor::{DType, FloatDType, IndexingUpdateOp, Int, Tensor, TensorData, activation, backend::Backend};

use super::Kernels;
use crate::engine::Precision;
use crate::ops::{CrossEntropy, Dropout, Uniform};
use crate::sums::{StepSums, Sums};

/// None of its own: the backend's operations, and the host where there is none.
#[derive(Clone, Copy, Debug)]
pub struct Plain;

impl<B: Backend> Kernels<B> for Plain {
    type DeviceSums = ();

    fn has_bf16(device: &B::Device) -> bool {
        B::supports_dtype(device, DType::BF16)
    }

    fn memory(_: &B::Device) -> Option<u64> {
        None
    }

    fn matmul<const D: usize>(a: Tensor<B, D>, b: Tensor<B, D>) -> Tensor<B, D> {
        // A library's own product of bf16 would round its result.
        let widened = |x: Tensor<B, D>| if x.dtype() == DType::BF16 { x.cast(FloatDType::F32) } else { x };
        widened(a).matmul(widened(b))
    }

    fn uniform(numbers: Uniform, shape: [usize; 2], device: &B::Device) -> Tensor<B, 2> {
        Tensor::from_data(TensorData::new(numbers.numbers(shape), shape), device)
    }

    fn dropout(x: Tensor<B, 2>, mask: Dropout) -> Tensor<B, 2> {
        let (shape, device) = (x.dims(), x.device());
        let factors: Vec<f32> = (0..(shape[0] * shape[1]) as u32).map(|n| mask.factor(n)).collect();
        let factors = Tensor::<B, 2>::from_data(TensorData::new(factors, shape), &device);
        let dtype = x.dtype();
        x * factors.cast(dtype)
    }

    fn round_bf16<const D: usize>(x: Tensor<B, D>) -> Tensor<B, D> {
        x.cast(FloatDType::BF16).cast(FloatDType::F32)
    }

    fn rms_norm(x: Tensor<B, 2>, gain: Tensor<B, 2>, eps: f32, precision: Precision) -> Tensor<B, 2> {
        let (shape, width) = (x.dims(), gain.dims()[1]);
        let x = x.reshape([shape[0] * shape[1] / width, width]);
        let inverse = inverse_rms(&x, eps);
        rounded((x * inverse * gain).reshape(shape), precision)
    }

    fn rms_norm_backward(
        dy: Tensor<B, 2>,
        x: Tensor<B, 2>,
        gain: Tensor<B, 2>,
        eps: f32,
        precision: Precision,
    ) -> Tensor<B, 2> {
        let (shape, width) = (x.dims(), gain.dims()[1]);
        let rows = [shape[0] * shape[1] / width, width];
        let x = x.reshape(rows);
        let inverse = inverse_rms(&x, eps);
        let x_hat = x * inverse.clone();
        let dx_hat = dy.reshape(rows) * gain;
        let along = (dx_hat.clone() * x_hat.clone()).mean_dim(1);
        rounded(((dx_hat - x_hat * along) * inverse).reshape(shape), precision)
    }

    fn cross_entropy(logits: Tensor<B, 2>, targets: Tensor<B, 1, Int>, scale: f32) -> CrossEntropy<Tensor<B, 2>> {
        let [n, _] = logits.dims();
        let target = targets.reshape([n, 1]);
        let log_p = activation::log_softmax(logits.clone(), 1);
        let p = log_p.clone().exp();
        let loss = log_p.clone().gather(1, target.clone()).neg();
        let entropy = (p.clone() * log_p).sum_dim(1).neg();
        let predicted = logits.argmax(1);
        let minus_one = loss.zeros_like().sub_scalar(1.0);
        let numbers = |x: Tensor<B, 2>| x.into_data().iter::<f32>().collect();
        CrossEntropy {
            loss: numbers(loss),
            entropy: numbers(entropy),
            predicted: predicted.into_data().iter::<u32>().collect(),
            dlogits: p.scatter(1, target, minus_one, IndexingUpdateOp::Add).mul_scalar(scale),
        }
    }

    fn add_gradient(sums: &mut Sums<()>, ranges: &[Range<usize>], gradient: Tensor<B, 2>) {
        let gradient = gradient.into_data().convert::<f32>();
        sums.host.add_gradients(ranges, gradient.as_slice().expect("just converted"));
    }

    fn count_not_finite(_: &mut Sums<()>) {}

    fn collect(sums: Sums<()>) -> StepSums {
        sums.host
    }
}

/// `1 / sqrt(mean(x^2) + eps)` of each row.
pub(in crate::engine) fn inverse_rms<B: Backend>(x: &Tensor<B, 2>, eps: f32) -> Tensor<B, 2> {
    x.clone().square().mean_dim(1).add_scalar(eps).sqrt().recip()
}

fn rounded<B: Backend>(x: Tensor<B, 2>, precision: Precision) -> Tensor<B, 2> {
    match precision {
        Precision::F32 => x,
        Precision::Bf16 => Plain::round_bf16(x),
    }
}
