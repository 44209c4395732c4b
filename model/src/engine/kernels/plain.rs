//! What each own kernel computes, in operations of any backend: what backends without kernels run, and what tests compare
//! the kernels with.

use std::ops::Range;

use burn::tensor::{DType, FloatDType, IndexingUpdateOp, Int, Tensor, TensorData, activation, backend::Backend};

use super::Kernels;
use crate::engine::Precision;
use crate::ops::{CrossEntropy, Dropout, Uniform};
use crate::sums::{StepSums, Sums};

/// `sqrt(2 / pi)` of GELU's tanh form.
const GELU_INNER: f64 = 0.797_884_560_802_865_4;
const GELU_CUBIC: f64 = 0.044_715;

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

    fn linear(
        y: Tensor<B, 2>,
        bias: Option<Tensor<B, 2>>,
        more: Option<(Tensor<B, 2>, f32)>,
        precision: Precision,
    ) -> Tensor<B, 2> {
        let rounded = |x| rounded(x, precision);
        let y = bias.into_iter().fold(rounded(y), |y, bias| rounded(y + bias));
        more.into_iter().fold(y, |y, (more, factor)| rounded(y + rounded(rounded(more).mul_scalar(factor))))
    }

    fn gelu(x: Tensor<B, 2>, precision: Precision) -> Tensor<B, 2> {
        rounded(x.clone() * (gelu_tanh(&x) + 1.0) * 0.5, precision)
    }

    fn gelu_backward(dy: Tensor<B, 2>, x: Tensor<B, 2>, precision: Precision) -> Tensor<B, 2> {
        rounded(dy * gelu_slope(&x), precision)
    }

    fn gelu_mul(gate: Tensor<B, 2>, up: Tensor<B, 2>, precision: Precision) -> Tensor<B, 2> {
        rounded(Self::gelu(gate, precision) * up, precision)
    }

    fn gelu_mul_backward(
        dh: Tensor<B, 2>,
        gate: Tensor<B, 2>,
        up: Tensor<B, 2>,
        precision: Precision,
    ) -> (Tensor<B, 2>, Tensor<B, 2>) {
        let dgate = dh.clone() * up * gelu_slope(&gate);
        (rounded(dgate, precision), Self::gelu_mul(gate, dh, precision))
    }

    fn layer_norm(x: Tensor<B, 2>, w: Tensor<B, 2>, b: Tensor<B, 2>, eps: f32, precision: Precision) -> Tensor<B, 2> {
        let (x_hat, _) = standardised(&x, eps);
        rounded(x_hat * w + b, precision)
    }

    fn layer_norm_backward(
        dy: Tensor<B, 2>,
        x: Tensor<B, 2>,
        w: Tensor<B, 2>,
        eps: f32,
        precision: Precision,
    ) -> Tensor<B, 2> {
        let (x_hat, inverse) = standardised(&x, eps);
        let dx_hat = dy * w;
        let along = (dx_hat.clone() * x_hat.clone()).mean_dim(1);
        let centred = dx_hat.clone() - dx_hat.mean_dim(1);
        rounded((centred - x_hat * along) * inverse, precision)
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
fn inverse_rms<B: Backend>(x: &Tensor<B, 2>, eps: f32) -> Tensor<B, 2> {
    x.clone().square().mean_dim(1).add_scalar(eps).sqrt().recip()
}

/// Rows minus their mean, and `1 / sqrt(var + eps)` of each.
fn standardised<B: Backend>(x: &Tensor<B, 2>, eps: f32) -> (Tensor<B, 2>, Tensor<B, 2>) {
    let centred = x.clone() - x.clone().mean_dim(1);
    let inverse = inverse_rms(&centred, eps);
    (centred * inverse.clone(), inverse)
}

/// `tanh` of GELU's inner term.
fn gelu_tanh<B: Backend>(x: &Tensor<B, 2>) -> Tensor<B, 2> {
    (x.clone() * (x.clone().square() * GELU_CUBIC + 1.0) * GELU_INNER).tanh()
}

/// `d gelu(x) / dx`.
fn gelu_slope<B: Backend>(x: &Tensor<B, 2>) -> Tensor<B, 2> {
    let tanh = gelu_tanh(x);
    let inner = (x.clone().square() * (3.0 * GELU_CUBIC) + 1.0) * GELU_INNER;
    let rest = (tanh.clone().square() * -1.0 + 1.0) * x.clone() * inner;
    (tanh + 1.0 + rest) * 0.5
}

fn rounded<B: Backend>(x: Tensor<B, 2>, precision: Precision) -> Tensor<B, 2> {
    match precision {
        Precision::F32 => x,
        Precision::Bf16 => Plain::round_bf16(x),
    }
}
