//! Kernels that take each row by one cube, whose units add up in shared memory: in one order, which follows from the row's
//! width, so a repetition has the same bits. They ask a device for no planes and for no atomic floats.

use burn::tensor::{Tensor, TensorPrimitive};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::{BoolElement, CubeRuntime};
use cubecl::calculate_cube_count_elemwise;
use cubecl::prelude::*;

use super::cube::Matrix;
use super::elements::rounded;
use crate::engine::Precision;

/// Units that take a row of a norm.
const UNITS: usize = 256;

/// As [`crate::Ops::rms_norm`].
pub(super) fn rms_norm<R: CubeRuntime, M: BoolElement>(
    x: Matrix<R, M>,
    gain: Matrix<R, M>,
    eps: f32,
    precision: Precision,
) -> Matrix<R, M> {
    let (width, to_bf16) = (gain.dims()[1], precision == Precision::Bf16);
    each_row([x, gain], width, |client, count, dim, [x, gain], y, units| {
        rms_norm_each::launch(client, count, dim, x, gain, y, width, eps, units, to_bf16);
    })
}

/// As [`crate::Ops::rms_norm_backward`].
pub(super) fn rms_norm_backward<R: CubeRuntime, M: BoolElement>(
    dy: Matrix<R, M>,
    x: Matrix<R, M>,
    gain: Matrix<R, M>,
    eps: f32,
    precision: Precision,
) -> Matrix<R, M> {
    let (width, to_bf16) = (gain.dims()[1], precision == Precision::Bf16);
    each_row([dy, x, gain], width, |client, count, dim, [dy, x, gain], dx, units| {
        rms_norm_backward_each::launch(client, count, dim, dy, x, gain, dx, width, eps, units, to_bf16);
    })
}

/// As [`crate::Ops::layer_norm`].
pub(super) fn layer_norm<R: CubeRuntime, M: BoolElement>(
    x: Matrix<R, M>,
    w: Matrix<R, M>,
    b: Matrix<R, M>,
    eps: f32,
    precision: Precision,
) -> Matrix<R, M> {
    let (width, to_bf16) = (w.dims()[1], precision == Precision::Bf16);
    each_row([x, w, b], width, |client, count, dim, [x, w, b], y, units| {
        layer_norm_each::launch(client, count, dim, x, w, b, y, width, eps, units, to_bf16);
    })
}

/// As [`crate::Ops::layer_norm_backward`].
pub(super) fn layer_norm_backward<R: CubeRuntime, M: BoolElement>(
    dy: Matrix<R, M>,
    x: Matrix<R, M>,
    w: Matrix<R, M>,
    eps: f32,
    precision: Precision,
) -> Matrix<R, M> {
    let (width, to_bf16) = (w.dims()[1], precision == Precision::Bf16);
    each_row([dy, x, w], width, |client, count, dim, [dy, x, w], dx, units| {
        layer_norm_backward_each::launch(client, count, dim, dy, x, w, dx, width, eps, units, to_bf16);
    })
}

/// A new matrix of the shape of the first input, whose runs of `width` numbers are made by a cube each.
fn each_row<R: CubeRuntime, M: BoolElement, const N: usize>(
    inputs: [Matrix<R, M>; N],
    width: usize,
    launch: impl FnOnce(&ComputeClient<R>, CubeCount, CubeDim, [ArrayArg<R>; N], ArrayArg<R>, usize),
) -> Matrix<R, M> {
    let inputs = inputs.map(|x| into_contiguous(x.into_primitive().tensor()));
    let like = &inputs[0];
    let (client, rows) = (like.client.clone(), like.meta.num_elements() / width);
    let y = empty_device_contiguous_dtype(client.clone(), like.device.clone(), like.meta.shape().clone(), like.dtype);
    let (count, dim, units) = a_cube_each(&client, rows, UNITS);
    launch(&client, count, dim, inputs.map(|x| x.into_array_arg()), y.clone().into_array_arg(), units);
    Tensor::from_primitive(TensorPrimitive::Float(y))
}

/// A launch of one cube for each row, and the units of each: a power of two, `most` where the device has so many.
pub(super) fn a_cube_each<R: CubeRuntime>(
    client: &ComputeClient<R>,
    rows: usize,
    most: usize,
) -> (CubeCount, CubeDim, usize) {
    let units = most.min(1 << client.properties().hardware.max_units_per_cube.ilog2());
    let dim = CubeDim::new_1d(units as u32);
    (calculate_cube_count_elemwise(client, rows * units, dim), dim, units)
}

#[cube(launch)]
fn rms_norm_each(
    x: &Array<f32>,
    gain: &Array<f32>,
    y: &mut Array<f32>,
    width: usize,
    eps: f32,
    #[comptime] units: usize,
    #[comptime] to_bf16: bool,
) {
    let start = CUBE_POS * width;
    if start < y.len() {
        let mut squares = 0.0f32;
        let mut i = UNIT_POS as usize;
        while i < width {
            squares += x[start + i] * x[start + i];
            i += units;
        }
        let mut shared = SharedMemory::<f32>::new(units);
        let inverse = 1.0 / f32::sqrt(sum_of_units(&mut shared, squares, units) / f32::cast_from(width) + eps);
        let mut i = UNIT_POS as usize;
        while i < width {
            y[start + i] = rounded(x[start + i] * inverse * gain[i], to_bf16);
            i += units;
        }
    }
}

#[cube(launch)]
fn rms_norm_backward_each(
    dy: &Array<f32>,
    x: &Array<f32>,
    gain: &Array<f32>,
    dx: &mut Array<f32>,
    width: usize,
    eps: f32,
    #[comptime] units: usize,
    #[comptime] to_bf16: bool,
) {
    let start = CUBE_POS * width;
    if start < dx.len() {
        let mut squares = 0.0f32;
        let mut along = 0.0f32;
        let mut i = UNIT_POS as usize;
        while i < width {
            squares += x[start + i] * x[start + i];
            along += dy[start + i] * gain[i] * x[start + i];
            i += units;
        }
        let mut shared = SharedMemory::<f32>::new(units);
        let n = f32::cast_from(width);
        let inverse = 1.0 / f32::sqrt(sum_of_units(&mut shared, squares, units) / n + eps);
        let along = sum_of_units(&mut shared, along, units) * inverse * inverse / n;
        let mut i = UNIT_POS as usize;
        while i < width {
            dx[start + i] = rounded((dy[start + i] * gain[i] - x[start + i] * along) * inverse, to_bf16);
            i += units;
        }
    }
}

#[cube(launch)]
fn layer_norm_each(
    x: &Array<f32>,
    w: &Array<f32>,
    b: &Array<f32>,
    y: &mut Array<f32>,
    width: usize,
    eps: f32,
    #[comptime] units: usize,
    #[comptime] to_bf16: bool,
) {
    let start = CUBE_POS * width;
    if start < y.len() {
        let mut shared = SharedMemory::<f32>::new(units);
        let (mean, inverse) = mean_and_inverse_std(x, start, width, eps, &mut shared, units);
        let mut i = UNIT_POS as usize;
        while i < width {
            y[start + i] = rounded((x[start + i] - mean) * inverse * w[i] + b[i], to_bf16);
            i += units;
        }
    }
}

#[cube(launch)]
fn layer_norm_backward_each(
    dy: &Array<f32>,
    x: &Array<f32>,
    w: &Array<f32>,
    dx: &mut Array<f32>,
    width: usize,
    eps: f32,
    #[comptime] units: usize,
    #[comptime] to_bf16: bool,
) {
    let start = CUBE_POS * width;
    if start < dx.len() {
        let mut shared = SharedMemory::<f32>::new(units);
        let (mean, inverse) = mean_and_inverse_std(x, start, width, eps, &mut shared, units);
        let mut sum = 0.0f32;
        let mut along = 0.0f32;
        let mut i = UNIT_POS as usize;
        while i < width {
            let dx_hat = dy[start + i] * w[i];
            sum += dx_hat;
            along += dx_hat * (x[start + i] - mean);
            i += units;
        }
        let n = f32::cast_from(width);
        let shift = sum_of_units(&mut shared, sum, units) / n;
        let along = sum_of_units(&mut shared, along, units) * inverse * inverse / n;
        let mut i = UNIT_POS as usize;
        while i < width {
            let centred = dy[start + i] * w[i] - shift;
            dx[start + i] = rounded((centred - (x[start + i] - mean) * along) * inverse, to_bf16);
            i += units;
        }
    }
}

/// Mean of a row, and `1 / sqrt(var + eps)`.
#[cube]
fn mean_and_inverse_std(
    x: &Array<f32>,
    start: usize,
    width: usize,
    eps: f32,
    shared: &mut SharedMemory<f32>,
    #[comptime] units: usize,
) -> (f32, f32) {
    let n = f32::cast_from(width);
    let mut sum = 0.0f32;
    let mut i = UNIT_POS as usize;
    while i < width {
        sum += x[start + i];
        i += units;
    }
    let mean = sum_of_units(shared, sum, units) / n;
    let mut squares = 0.0f32;
    let mut i = UNIT_POS as usize;
    while i < width {
        let centred = x[start + i] - mean;
        squares += centred * centred;
        i += units;
    }
    (mean, 1.0 / f32::sqrt(sum_of_units(shared, squares, units) / n + eps))
}

/// The sum of what all units of the cube have, for each of them; `shared` may be used again at once.
#[cube]
pub(super) fn sum_of_units(shared: &mut SharedMemory<f32>, value: f32, #[comptime] units: usize) -> f32 {
    let unit = UNIT_POS as usize;
    shared[unit] = value;
    sync_cube();
    let mut half = (units / 2).runtime();
    while half > 0 {
        if unit < half {
            shared[unit] = shared[unit] + shared[unit + half];
        }
        sync_cube();
        half /= 2;
    }
    let sum = shared[0];
    sync_cube();
    sum
}
