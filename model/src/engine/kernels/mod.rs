//! What an engine over Burn computes by kernels of its own, beside the plain operations that each is equal to.

use std::ops::Range;

use burn::tensor::{DType, FloatDType, Tensor, TensorData, backend::Backend};

use crate::ops::Dropout;
use crate::sums::{StepSums, Sums};

#[cfg(feature = "gpu")]
mod cube;
#[cfg(feature = "gpu")]
mod sums;

#[cfg(feature = "gpu")]
pub use cube::Cube;

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
    /// `x` in f32, with element `n` (row-major) times `mask.factor(n)`.
    fn dropout(x: Tensor<B, 2>, mask: Dropout) -> Tensor<B, 2>;
    /// `x` in f32, rounded to the nearest bf16, ties to even.
    fn round_bf16<const D: usize>(x: Tensor<B, D>) -> Tensor<B, D>;
    /// As [`crate::Ops::add_gradient`].
    fn add_gradient(sums: &mut Sums<Self::DeviceSums>, ranges: &[Range<usize>], gradient: Tensor<B, 2>);
    /// As [`crate::Ops::count_not_finite`].
    fn count_not_finite(sums: &mut Sums<Self::DeviceSums>);
    /// As [`crate::Ops::collect`].
    fn collect(sums: Sums<Self::DeviceSums>) -> StepSums;
}

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

    fn add_gradient(sums: &mut Sums<()>, ranges: &[Range<usize>], gradient: Tensor<B, 2>) {
        let gradient = gradient.into_data().convert::<f32>();
        sums.host.add_gradients(ranges, gradient.as_slice().expect("just converted"));
    }

    fn count_not_finite(_: &mut Sums<()>) {}

    fn collect(sums: Sums<()>) -> StepSums {
        sums.host
    }
}
