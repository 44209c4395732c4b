//! Kernels that take each row by one cube, whose units add up in shared memory: in one order, which follows from the row's
//! width, so a repetition has the same bits. They ask a device for no planes and for no atomic floats.

use burn::tensor::{Tensor, TensorPrimitive};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{BoolElement, CubeRuntime};
use cubecl::calculate_cube_count_elemwise;
use cubecl::prelude::*;

use super::cube::{Backend, bf16};
use crate::engine::Precision;

/// Units that take a row of a norm.
const UNITS: usize = 256;

/// As [`crate::Ops::rms_norm`].
pub(super) fn rms_norm<R: CubeRuntime, M: BoolElement>(
    x: Tensor<Backend<R, M>, 2>,
    gain: Tensor<Backend<R, M>, 2>,
    eps: f32,
    precision: Precision,
) -> Tensor<Backend<R, M>, 2> {
    let [x, gain] = [x, gain].map(|x| into_contiguous(x.into_primitive().tensor()));
    let (client, y, [rows, width]) = (x.client.clone(), like(&x), rows_of(&x, &gain));
    let (count, dim, units) = a_cube_each(&client, rows, UNITS);
    let [x, gain, to] = [x, gain, y.clone()].map(CubeTensor::into_array_arg);
    rms_norm_each::launch(&client, count, dim, x, gain, to, width, eps, units, precision == Precision::Bf16);
    Tensor::from_primitive(TensorPrimitive::Float(y))
}

/// As [`crate::Ops::rms_norm_backward`].
pub(super) fn rms_norm_backward<R: CubeRuntime, M: BoolElement>(
    dy: Tensor<Backend<R, M>, 2>,
    x: Tensor<Backend<R, M>, 2>,
    gain: Tensor<Backend<R, M>, 2>,
    eps: f32,
    precision: Precision,
) -> Tensor<Backend<R, M>, 2> {
    let [dy, x, gain] = [dy, x, gain].map(|x| into_contiguous(x.into_primitive().tensor()));
    let (client, dx, [rows, width]) = (x.client.clone(), like(&x), rows_of(&x, &gain));
    let (count, dim, units) = a_cube_each(&client, rows, UNITS);
    let [dy, x, gain, to] = [dy, x, gain, dx.clone()].map(CubeTensor::into_array_arg);
    rms_norm_backward_each::launch(
        &client,
        count,
        dim,
        dy,
        x,
        gain,
        to,
        width,
        eps,
        units,
        precision == Precision::Bf16,
    );
    Tensor::from_primitive(TensorPrimitive::Float(dx))
}

/// A tensor of the shape of `x`, to be filled.
fn like<R: CubeRuntime>(x: &CubeTensor<R>) -> CubeTensor<R> {
    empty_device_contiguous_dtype(x.client.clone(), x.device.clone(), x.meta.shape().clone(), x.dtype)
}

/// Runs of `gain` columns in `x`, and how long they are.
fn rows_of<R: CubeRuntime>(x: &CubeTensor<R>, gain: &CubeTensor<R>) -> [usize; 2] {
    let width = gain.meta.num_elements();
    [x.meta.num_elements() / width, width]
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

#[cube]
fn rounded(x: f32, #[comptime] to_bf16: bool) -> f32 {
    if to_bf16 { bf16(x) } else { x }
}
