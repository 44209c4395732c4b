//! Kernels that take each number alone: one pass over memory, rounded to the precision where it is written.

use burn::tensor::{DType, Tensor, TensorPrimitive};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::{BoolElement, CubeRuntime};
use cubecl::calculate_cube_count_elemwise;
use cubecl::prelude::*;

use super::cube::{Backend, Matrix};
use crate::engine::Precision;
use crate::ops::{Dropout, Uniform};

/// As [`Uniform::numbers`].
pub(super) fn uniform<R: CubeRuntime, M: BoolElement>(
    numbers: Uniform,
    shape: [usize; 2],
    device: &R::Device,
) -> Matrix<R, M> {
    let Uniform { key: [low, high], bound } = numbers;
    let client = R::client(device);
    let y = empty_device_contiguous_dtype(client.clone(), device.clone(), shape.into(), DType::F32);
    let (count, dim) = a_unit_each(&client, shape[0] * shape[1]);
    uniform_each::launch(&client, count, dim, y.clone().into_array_arg(), low, high, bound);
    Tensor::from_primitive(TensorPrimitive::Float(y))
}

/// As [`crate::Ops::dropout`].
pub(super) fn dropout<R: CubeRuntime, M: BoolElement>(x: Matrix<R, M>, mask: Dropout) -> Matrix<R, M> {
    let Dropout { key: [low, high], threshold, scale } = mask;
    each([x], |client, count, dim, [x], y| {
        dropout_each::launch(client, count, dim, x, y, low, high, threshold, scale);
    })
}

/// The nearest bf16 of each.
pub(super) fn round_bf16<R: CubeRuntime, M: BoolElement, const D: usize>(
    x: Tensor<Backend<R, M>, D>,
) -> Tensor<Backend<R, M>, D> {
    each([x], |client, count, dim, [x], y| round_bf16_each::launch(client, count, dim, x, y))
}

/// As [`crate::Ops::gelu`].
pub(super) fn gelu<R: CubeRuntime, M: BoolElement>(x: Matrix<R, M>, precision: Precision) -> Matrix<R, M> {
    each([x], |client, count, dim, [x], y| gelu_each::launch(client, count, dim, x, y, precision == Precision::Bf16))
}

/// As [`crate::Ops::gelu_backward`].
pub(super) fn gelu_backward<R: CubeRuntime, M: BoolElement>(
    dy: Matrix<R, M>,
    x: Matrix<R, M>,
    precision: Precision,
) -> Matrix<R, M> {
    each([dy, x], |client, count, dim, [dy, x], dx| {
        gelu_backward_each::launch(client, count, dim, dy, x, dx, precision == Precision::Bf16);
    })
}

/// As [`crate::Ops::gelu_mul`].
pub(super) fn gelu_mul<R: CubeRuntime, M: BoolElement>(
    gate: Matrix<R, M>,
    up: Matrix<R, M>,
    precision: Precision,
) -> Matrix<R, M> {
    each([gate, up], |client, count, dim, [gate, up], y| {
        gelu_mul_each::launch(client, count, dim, gate, up, y, precision == Precision::Bf16);
    })
}

/// As [`crate::Ops::gelu_mul_backward`].
pub(super) fn gelu_mul_backward<R: CubeRuntime, M: BoolElement>(
    dh: Matrix<R, M>,
    gate: Matrix<R, M>,
    up: Matrix<R, M>,
    precision: Precision,
) -> (Matrix<R, M>, Matrix<R, M>) {
    let dup = gelu_mul(gate.clone(), dh.clone(), precision);
    let dgate = each([dh, gate, up], |client, count, dim, [dh, gate, up], dgate| {
        gelu_mul_backward_each::launch(client, count, dim, dh, gate, up, dgate, precision == Precision::Bf16);
    });
    (dgate, dup)
}

/// As [`super::Kernels::linear`].
pub(super) fn linear<R: CubeRuntime, M: BoolElement>(
    y: Matrix<R, M>,
    bias: Option<Matrix<R, M>>,
    more: Option<(Matrix<R, M>, f32)>,
    precision: Precision,
) -> Matrix<R, M> {
    if bias.is_none() && more.is_none() && precision == Precision::F32 {
        return y;
    }
    let width = y.dims()[1];
    let mut y = into_contiguous(y.into_primitive().tensor());
    if !y.can_mut() {
        y = y.copy();
    }
    let argument = |x: Matrix<R, M>| into_contiguous(x.into_primitive().tensor()).into_array_arg();
    let (more, factor) = more.map_or((None, 1.0), |(more, factor)| (Some(argument(more)), factor));
    let (client, to) = (y.client.clone(), y.clone().into_array_arg());
    let (count, dim) = a_unit_each(&client, y.meta.num_elements());
    let (bias, to_bf16) = (bias.map(argument), precision == Precision::Bf16);
    linear_each::launch(&client, count, dim, to, bias.into(), more.into(), factor, width, to_bf16);
    Tensor::from_primitive(TensorPrimitive::Float(y))
}

/// A new tensor of the shape of all inputs, each of its numbers from theirs at its place.
fn each<R: CubeRuntime, M: BoolElement, const N: usize, const D: usize>(
    inputs: [Tensor<Backend<R, M>, D>; N],
    launch: impl FnOnce(&ComputeClient<R>, CubeCount, CubeDim, [ArrayArg<R>; N], ArrayArg<R>),
) -> Tensor<Backend<R, M>, D> {
    let inputs = inputs.map(|x| into_contiguous(x.into_primitive().tensor()));
    let like = &inputs[0];
    let (client, n) = (like.client.clone(), like.meta.num_elements());
    let y = empty_device_contiguous_dtype(client.clone(), like.device.clone(), like.meta.shape().clone(), like.dtype);
    let (count, dim) = a_unit_each(&client, n);
    launch(&client, count, dim, inputs.map(|x| x.into_array_arg()), y.clone().into_array_arg());
    Tensor::from_primitive(TensorPrimitive::Float(y))
}

/// A launch of one unit for each of `n` numbers.
pub(super) fn a_unit_each<R: CubeRuntime>(client: &ComputeClient<R>, n: usize) -> (CubeCount, CubeDim) {
    let dim = CubeDim::new(client, n);
    (calculate_cube_count_elemwise(client, n, dim), dim)
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
        y[ABSOLUTE_POS] = (f32::cast_from(hash >> 24) / 128.0 - 1.0) * bound;
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

#[cube(launch)]
fn gelu_each(x: &Array<f32>, y: &mut Array<f32>, #[comptime] to_bf16: bool) {
    if ABSOLUTE_POS < y.len() {
        y[ABSOLUTE_POS] = rounded(gelu_of(x[ABSOLUTE_POS]), to_bf16);
    }
}

#[cube(launch)]
fn gelu_backward_each(dy: &Array<f32>, x: &Array<f32>, dx: &mut Array<f32>, #[comptime] to_bf16: bool) {
    if ABSOLUTE_POS < dx.len() {
        dx[ABSOLUTE_POS] = rounded(dy[ABSOLUTE_POS] * gelu_slope(x[ABSOLUTE_POS]), to_bf16);
    }
}

#[cube(launch)]
fn gelu_mul_each(gate: &Array<f32>, up: &Array<f32>, y: &mut Array<f32>, #[comptime] to_bf16: bool) {
    if ABSOLUTE_POS < y.len() {
        y[ABSOLUTE_POS] = rounded(rounded(gelu_of(gate[ABSOLUTE_POS]), to_bf16) * up[ABSOLUTE_POS], to_bf16);
    }
}

#[cube(launch)]
fn gelu_mul_backward_each(
    dh: &Array<f32>,
    gate: &Array<f32>,
    up: &Array<f32>,
    dgate: &mut Array<f32>,
    #[comptime] to_bf16: bool,
) {
    if ABSOLUTE_POS < dgate.len() {
        let slope = gelu_slope(gate[ABSOLUTE_POS]);
        dgate[ABSOLUTE_POS] = rounded(dh[ABSOLUTE_POS] * up[ABSOLUTE_POS] * slope, to_bf16);
    }
}

/// Each sum and product is rounded as the operation of its own that it is in the reference.
#[cube(launch)]
fn linear_each(
    y: &mut Array<f32>,
    bias: ComptimeOption<Array<f32>>,
    more: ComptimeOption<Array<f32>>,
    factor: f32,
    width: usize,
    #[comptime] to_bf16: bool,
) {
    if ABSOLUTE_POS < y.len() {
        let mut sum = rounded(y[ABSOLUTE_POS], to_bf16);
        #[comptime]
        match bias {
            ComptimeOption::Some(bias) => sum = rounded(sum + bias[ABSOLUTE_POS % width], to_bf16),
            ComptimeOption::None => {}
        }
        #[comptime]
        match more {
            ComptimeOption::Some(more) => {
                sum = rounded(sum + rounded(rounded(more[ABSOLUTE_POS], to_bf16) * factor, to_bf16), to_bf16);
            }
            ComptimeOption::None => {}
        }
        y[ABSOLUTE_POS] = sum;
    }
}

#[cube]
fn gelu_of(x: f32) -> f32 {
    x * (gelu_tanh(x) + 1.0) * 0.5
}

/// `d gelu(x) / dx`.
#[cube]
fn gelu_slope(x: f32) -> f32 {
    let tanh = gelu_tanh(x);
    let inner = (x * x * 0.134_145 + 1.0) * 0.797_884_6;
    (tanh + 1.0 + (1.0 - tanh * tanh) * x * inner) * 0.5
}

/// `tanh(sqrt(2 / pi) (x + 0.044715 x^3))`.
#[cube]
fn gelu_tanh(x: f32) -> f32 {
    f32::tanh(x * (x * x * 0.044_715 + 1.0) * 0.797_884_6)
}

/// `x` as the precision has it.
#[cube]
pub(super) fn rounded(x: f32, #[comptime] to_bf16: bool) -> f32 {
    if to_bf16 { bf16(x) } else { x }
}

/// The nearest bf16, in whole numbers, so that a device needs to know nothing of bf16.
#[cube]
fn bf16(x: f32) -> f32 {
    let bits = u32::reinterpret(x);
    let is_nan = (bits & 0x7fff_ffffu32) > 0x7f80_0000u32;
    let nearest = bits + 0x7fffu32 + ((bits >> 16) & 1);
    f32::reinterpret(select(is_nan, bits | 0x0040_0000u32, nearest) & 0xffff_0000u32)
}
