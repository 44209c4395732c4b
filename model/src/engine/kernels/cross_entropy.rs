//! Cross-entropy of rows of logits, its statistics and its gradient, which is written over the logits: there is no second
//! matrix of a vocabulary.

use burn::tensor::{Int, Tensor, TensorPrimitive};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::{BoolElement, CubeRuntime};
use cubecl::prelude::*;

use super::cube::{Backend, Matrix};
use super::rows::{a_cube_each, sum_of_units};
use crate::ops::CrossEntropy;

/// Units that take a row: rows are few and long.
const UNITS: usize = 1024;

/// As [`crate::Ops::cross_entropy`].
pub(super) fn cross_entropy<R: CubeRuntime, M: BoolElement>(
    logits: Matrix<R, M>,
    targets: Tensor<Backend<R, M>, 1, Int>,
    scale: f32,
) -> CrossEntropy<Matrix<R, M>> {
    let ([n, width], device) = (logits.dims(), logits.device());
    let mut logits = into_contiguous(logits.into_primitive().tensor());
    if !logits.can_mut() {
        logits = logits.copy();
    }
    let found = Tensor::<Backend<R, M>, 1, Int>::zeros([3 * n], &device);
    let client = logits.client.clone();
    let (count, dim, units) = a_cube_each(&client, n, UNITS);
    cross_entropy_each::launch(
        &client,
        count,
        dim,
        logits.clone().into_array_arg(),
        targets.into_primitive().into_array_arg(),
        found.clone().into_primitive().into_array_arg(),
        width,
        scale,
        units,
    );
    let found: Vec<u32> = found.into_data().iter::<i32>().map(i32::cast_unsigned).collect();
    let (floats, predicted) = found.split_at(2 * n);
    let (loss, entropy) = floats.split_at(n);
    let numbers = |bits: &[u32]| bits.iter().copied().map(f32::from_bits).collect();
    CrossEntropy {
        loss: numbers(loss),
        entropy: numbers(entropy),
        predicted: predicted.to_vec(),
        dlogits: Tensor::from_primitive(TensorPrimitive::Float(logits)),
    }
}

/// `found` are the bits of each row's loss, then of each row's entropy, then each row's prediction.
#[cube(launch)]
fn cross_entropy_each(
    logits: &mut Array<f32>,
    targets: &Array<u32>,
    found: &mut Array<u32>,
    width: usize,
    scale: f32,
    #[comptime] units: usize,
) {
    let row = CUBE_POS;
    let n = targets.len();
    if row < n {
        let (start, unit, target) = (row * width, UNIT_POS as usize, targets[row] as usize);
        let mut max = f32::min_value();
        let mut place = unit as u32;
        let mut i = unit;
        while i < width {
            if logits[start + i] > max {
                max = logits[start + i];
                place = i as u32;
            }
            i += units;
        }
        let mut shared = SharedMemory::<f32>::new(units);
        let mut places = SharedMemory::<u32>::new(units);
        let (max, place) = largest_of_units(&mut shared, &mut places, max, place, units);

        let logit = logits[start + target] - max;
        let mut total = 0.0f32;
        let mut weighted = 0.0f32;
        let mut i = unit;
        while i < width {
            let below = logits[start + i] - max;
            let e = f32::exp(below);
            total += e;
            weighted += below * e;
            i += units;
        }
        let total = sum_of_units(&mut shared, total, units);
        let weighted = sum_of_units(&mut shared, weighted, units);

        let factor = scale / total;
        let mut i = unit;
        while i < width {
            let gradient = f32::exp(logits[start + i] - max) * factor;
            logits[start + i] = gradient - select(i == target, scale, 0.0f32);
            i += units;
        }
        if unit == 0 {
            let log_total = f32::ln(total);
            found[row] = u32::reinterpret(log_total - logit);
            found[n + row] = u32::reinterpret(log_total - weighted / total);
            found[2 * n + row] = place;
        }
    }
}

/// The largest of what all units of the cube have, and the least place that has it.
#[cube]
fn largest_of_units(
    shared: &mut SharedMemory<f32>,
    places: &mut SharedMemory<u32>,
    value: f32,
    place: u32,
    #[comptime] units: usize,
) -> (f32, u32) {
    let unit = UNIT_POS as usize;
    shared[unit] = value;
    places[unit] = place;
    sync_cube();
    let mut half = (units / 2).runtime();
    while half > 0 {
        if unit < half {
            let (other, other_place) = (shared[unit + half], places[unit + half]);
            if other > shared[unit] || (other == shared[unit] && other_place < places[unit]) {
                shared[unit] = other;
                places[unit] = other_place;
            }
        }
        sync_cube();
        half /= 2;
    }
    let largest = shared[0];
    let place = places[0];
    sync_cube();
    (largest, place)
}
