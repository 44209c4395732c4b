//! Kernels in CubeCL: written once for NVIDIA's GPUs and for Vulkan. A launch is checked: no kernel here can write outside
//! its tensors.

use std::ops::Range;

use burn::tensor::{DType, Int, Tensor, TensorPrimitive};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::kernel::matmul::init_matmul_output;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{BoolElement, CubeBackend, CubeRuntime};
use cubecl::calculate_cube_count_elemwise;
use cubecl::prelude::*;
use cubek::matmul::definition::{MatmulElems, MatmulGlobalElems, MatmulSetupError};
use cubek::matmul::launch::{Strategy, launch_ref};
use cubek::matmul::routines::BlueprintStrategy;
use cubek::std::InputBinding;

use super::sums::{self, DeviceSums};
use super::{Kernels, cross_entropy, rows};
use crate::engine::Precision;
use crate::ops::{CrossEntropy, Dropout, Uniform};
use crate::sums::{StepSums, Sums};

/// Its own kernels on any backend that CubeCL compiles for.
#[derive(Clone, Copy, Debug)]
pub struct Cube;

pub(super) type Backend<R, M> = CubeBackend<R, f32, i32, M>;

impl<R: CubeRuntime, M: BoolElement> Kernels<Backend<R, M>> for Cube {
    type DeviceSums = Option<DeviceSums<R, M>>;

    fn has_bf16(device: &R::Device) -> bool {
        let client = R::client(device);
        let (bf16, f32) = (DType::BF16.into(), DType::F32.into());
        let tiles = &client.properties().features.matmul.cmma;
        tiles.iter().any(|tile| (tile.a_type, tile.b_type, tile.cd_type) == (bf16, bf16, f32))
    }

    fn memory(device: &R::Device) -> Option<u64> {
        R::client(device).memory_usage().ok().map(|usage| usage.bytes_reserved)
    }

    /// Burn's own product takes f32 for TF32 where a GPU has it, which keeps 10 bits of 23.
    fn matmul<const D: usize>(a: Tensor<Backend<R, M>, D>, b: Tensor<Backend<R, M>, D>) -> Tensor<Backend<R, M>, D> {
        let [a, b] = [a, b].map(|x| x.into_primitive().tensor());
        let y = init_matmul_output(&a, &b, DType::F32);
        let tiles = Strategy::SimpleCyclicCmma(BlueprintStrategy::default());
        if a.dtype != DType::BF16 || multiply(&tiles, &a, &b, &y).is_err() {
            let units = Strategy::SimpleUnit(BlueprintStrategy::default());
            multiply(&units, &a, &b, &y).expect("units multiply any shapes on any device");
        }
        Tensor::from_primitive(TensorPrimitive::Float(y))
    }

    fn uniform(numbers: Uniform, shape: [usize; 2], device: &R::Device) -> Tensor<Backend<R, M>, 2> {
        let Uniform { key: [low, high], bound } = numbers;
        let client = R::client(device);
        let y = empty_device_contiguous_dtype(client.clone(), device.clone(), shape.into(), DType::F32);
        let n = shape[0] * shape[1];
        let dim = CubeDim::new(&client, n);
        let count = calculate_cube_count_elemwise(&client, n, dim);
        uniform_each::launch(&client, count, dim, y.clone().into_array_arg(), low, high, bound);
        Tensor::from_primitive(TensorPrimitive::Float(y))
    }

    fn dropout(x: Tensor<Backend<R, M>, 2>, mask: Dropout) -> Tensor<Backend<R, M>, 2> {
        let Dropout { key: [low, high], threshold, scale } = mask;
        each(x, |client, count, dim, x, y| {
            dropout_each::launch(client, count, dim, x, y, low, high, threshold, scale);
        })
    }

    fn round_bf16<const D: usize>(x: Tensor<Backend<R, M>, D>) -> Tensor<Backend<R, M>, D> {
        each(x, |client, count, dim, x, y| round_bf16_each::launch(client, count, dim, x, y))
    }

    fn rms_norm(
        x: Tensor<Backend<R, M>, 2>,
        gain: Tensor<Backend<R, M>, 2>,
        eps: f32,
        precision: Precision,
    ) -> Tensor<Backend<R, M>, 2> {
        rows::rms_norm(x, gain, eps, precision)
    }

    fn rms_norm_backward(
        dy: Tensor<Backend<R, M>, 2>,
        x: Tensor<Backend<R, M>, 2>,
        gain: Tensor<Backend<R, M>, 2>,
        eps: f32,
        precision: Precision,
    ) -> Tensor<Backend<R, M>, 2> {
        rows::rms_norm_backward(dy, x, gain, eps, precision)
    }

    fn cross_entropy(
        logits: Tensor<Backend<R, M>, 2>,
        targets: Tensor<Backend<R, M>, 1, Int>,
        scale: f32,
    ) -> CrossEntropy<Tensor<Backend<R, M>, 2>> {
        cross_entropy::cross_entropy(logits, targets, scale)
    }

    fn add_gradient(sums: &mut Sums<Self::DeviceSums>, ranges: &[Range<usize>], gradient: Tensor<Backend<R, M>, 2>) {
        sums::add_gradient(sums, ranges, gradient);
    }

    fn count_not_finite(sums: &mut Sums<Self::DeviceSums>) {
        sums::count_not_finite(sums);
    }

    fn collect(mut sums: Sums<Self::DeviceSums>) -> StepSums {
        sums::download(&mut sums);
        sums.host
    }
}

fn multiply<R: CubeRuntime>(
    strategy: &Strategy,
    a: &CubeTensor<R>,
    b: &CubeTensor<R>,
    y: &CubeTensor<R>,
) -> Result<(), MatmulSetupError> {
    let dtypes = MatmulGlobalElems { lhs: a.dtype.into(), rhs: b.dtype.into(), out: y.dtype.into() };
    let [a, b] = [a, b].map(|x| InputBinding::new(x.clone().binding(), x.dtype.into()));
    launch_ref(strategy, &y.client, a, b, y.clone().binding(), &mut MatmulElems::from_globals(&dtypes))
}

/// A new tensor from each number of `x` alone.
fn each<R: CubeRuntime, M: BoolElement, const D: usize>(
    x: Tensor<Backend<R, M>, D>,
    launch: impl FnOnce(&ComputeClient<R>, CubeCount, CubeDim, ArrayArg<R>, ArrayArg<R>),
) -> Tensor<Backend<R, M>, D> {
    let x = into_contiguous(x.into_primitive().tensor());
    let y = empty_device_contiguous_dtype(x.client.clone(), x.device.clone(), x.meta.shape().clone(), x.dtype);
    let (client, n) = (x.client.clone(), x.meta.num_elements());
    let dim = CubeDim::new(&client, n);
    launch(
        &client,
        calculate_cube_count_elemwise(&client, n, dim),
        dim,
        x.into_array_arg(),
        y.clone().into_array_arg(),
    );
    Tensor::from_primitive(TensorPrimitive::Float(y))
}

/// As [`Dropout::factor`], to the bit.
#[cube(launch)]
fn dropout_each(x: &Array<f32>, y: &mut Array<f32>, low: u32, high: u32, threshold: u32, scale: f32) {
    if ABSOLUTE_POS < y.len() {
        let hash = hash(ABSOLUTE_POS as u32, low, high);
        y[ABSOLUTE_POS] = x[ABSOLUTE_POS] * select(hash >= threshold, scale, 0.0);
    }
}

/// As [`Uniform::number`], to the bit.
#[cube(launch)]
fn uniform_each(y: &mut Array<f32>, low: u32, high: u32, bound: f32) {
    if ABSOLUTE_POS < y.len() {
        let hash = hash(ABSOLUTE_POS as u32, low, high);
        y[ABSOLUTE_POS] = (f32::cast_from(hash >> 8) / 8_388_608.0 - 1.0) * bound;
    }
}

/// As that of masks and random weights in `ops.rs`.
#[cube]
fn hash(n: u32, low: u32, high: u32) -> u32 {
    scramble(scramble(n ^ low) ^ high)
}

#[cube]
fn scramble(x: u32) -> u32 {
    let x = (x ^ (x >> 16)) * 0x7feb_352du32;
    let x = (x ^ (x >> 15)) * 0x846c_a68bu32;
    x ^ (x >> 16)
}

#[cube(launch)]
fn round_bf16_each(x: &Array<f32>, y: &mut Array<f32>) {
    if ABSOLUTE_POS < y.len() {
        y[ABSOLUTE_POS] = bf16(x[ABSOLUTE_POS]);
    }
}

/// The nearest bf16, in whole numbers, so that a device needs to know nothing of bf16.
#[cube]
pub(super) fn bf16(x: f32) -> f32 {
    let bits = u32::reinterpret(x);
    let is_nan = (bits & 0x7fff_ffffu32) > 0x7f80_0000u32;
    let nearest = bits + 0x7fffu32 + ((bits >> 16) & 1);
    f32::reinterpret(select(is_nan, bits | 0x0040_0000u32, nearest) & 0xffff_0000u32)
}
