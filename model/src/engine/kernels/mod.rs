//! What an engine over Burn computes by kernels of its own, beside the plain operations that each is equal to.

use std::ops::Range;

use burn::tensor::{Int, Tensor, backend::Backend};

use super::Precision;
use crate::ops::{CrossEntropy, Dropout, Uniform};
use crate::sums::{StepSums, Sums};

#[cfg(feature = "gpu")]
mod cross_entropy;
#[cfg(feature = "gpu")]
mod cube;
#[cfg(feature = "gpu")]
mod elements;
mod plain;
#[cfg(feature = "gpu")]
mod rows;
#[cfg(feature = "gpu")]
mod sums;

#[cfg(feature = "gpu")]
pub use cube::Cube;
pub use plain::Plain;

/// Operations that no library has, or not in one pass over memory.
pub trait Kernels<B: Backend>: Send + Sync + 'static {
    /// A step's gradients on the device; `()` where the host adds them up.
    type DeviceSums: Default;

    /// Whether the device keeps numbers as bf16 and multiplies them.
    fn has_bf16(device: &B::Device) -> bool;
    /// Bytes of the device's memory that the program holds; none where it is the machine's.
    fn memory(device: &B::Device) -> Option<u64>;
    /// `a b` of f32 numbers, as f32 multiplies and adds; or of bf16 numbers, added in f32. The product is f32.
    fn matmul<const D: usize>(a: Tensor<B, D>, b: Tensor<B, D>) -> Tensor<B, D>;
    /// Random numbers in f32.
    fn uniform(numbers: Uniform, shape: [usize; 2], device: &B::Device) -> Tensor<B, 2>;
    /// `x` in f32, with element `n` (row-major) times `mask.factor(n)`.
    fn dropout(x: Tensor<B, 2>, mask: Dropout) -> Tensor<B, 2>;
    /// `x` in f32, rounded to the nearest bf16, ties to even.
    fn round_bf16<const D: usize>(x: Tensor<B, D>) -> Tensor<B, D>;
    /// A linear layer from its products: `y + bias + factor * more` for `Some((more, factor))`, each operation rounded to
    /// `precision`; `bias` is one row.
    fn linear(
        y: Tensor<B, 2>,
        bias: Option<Tensor<B, 2>>,
        more: Option<(Tensor<B, 2>, f32)>,
        precision: Precision,
    ) -> Tensor<B, 2>;
    /// As [`crate::Ops::gelu`], rounded to `precision`.
    fn gelu(x: Tensor<B, 2>, precision: Precision) -> Tensor<B, 2>;
    /// As [`crate::Ops::gelu_backward`], rounded to `precision`.
    fn gelu_backward(dy: Tensor<B, 2>, x: Tensor<B, 2>, precision: Precision) -> Tensor<B, 2>;
    /// As [`crate::Ops::gelu_mul`], rounded to `precision`.
    fn gelu_mul(gate: Tensor<B, 2>, up: Tensor<B, 2>, precision: Precision) -> Tensor<B, 2>;
    /// As [`crate::Ops::gelu_mul_backward`], rounded to `precision`.
    fn gelu_mul_backward(
        dh: Tensor<B, 2>,
        gate: Tensor<B, 2>,
        up: Tensor<B, 2>,
        precision: Precision,
    ) -> (Tensor<B, 2>, Tensor<B, 2>);
    /// As [`crate::Ops::layer_norm`], rounded to `precision`.
    fn layer_norm(x: Tensor<B, 2>, w: Tensor<B, 2>, b: Tensor<B, 2>, eps: f32, precision: Precision) -> Tensor<B, 2>;
    /// As [`crate::Ops::layer_norm_backward`], rounded to `precision`.
    fn layer_norm_backward(
        dy: Tensor<B, 2>,
        x: Tensor<B, 2>,
        w: Tensor<B, 2>,
        eps: f32,
        precision: Precision,
    ) -> Tensor<B, 2>;
    /// As [`crate::Ops::rms_norm`], rounded to `precision`.
    fn rms_norm(x: Tensor<B, 2>, gain: Tensor<B, 2>, eps: f32, precision: Precision) -> Tensor<B, 2>;
    /// As [`crate::Ops::rms_norm_backward`], rounded to `precision`.
    fn rms_norm_backward(
        dy: Tensor<B, 2>,
        x: Tensor<B, 2>,
        gain: Tensor<B, 2>,
        eps: f32,
        precision: Precision,
    ) -> Tensor<B, 2>;
    /// As [`crate::Ops::cross_entropy`].
    fn cross_entropy(logits: Tensor<B, 2>, targets: Tensor<B, 1, Int>, scale: f32) -> CrossEntropy<Tensor<B, 2>>;
    /// As [`crate::Ops::add_gradient`].
    fn add_gradient(sums: &mut Sums<Self::DeviceSums>, ranges: &[Range<usize>], gradient: Tensor<B, 2>);
    /// As [`crate::Ops::count_not_finite`].
    fn count_not_finite(sums: &mut Sums<Self::DeviceSums>);
    /// As [`crate::Ops::collect`].
    fn collect(sums: Sums<Self::DeviceSums>) -> StepSums;
}
