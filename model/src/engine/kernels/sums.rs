//! A step's gradients as fixed point on the device, in whole numbers alone: the bits of [`StepSums`], which is the plain form,
//! on devices without f64 or i64.

use std::ops::Range;

use burn::tensor::{Int, Tensor};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::{BoolElement, CubeRuntime};
use cubecl::prelude::*;

use super::cube::{Backend, Matrix};
use super::elements::a_unit_each;
use crate::parts::Part;
use crate::sums::{Stat, Sums};

/// Sums of all gradients, each as its low and its high word, and how many numbers did not fit since that was asked.
pub struct DeviceSums<R: CubeRuntime, M: BoolElement> {
    words: Tensor<Backend<R, M>, 1, Int>,
    refused: Tensor<Backend<R, M>, 1, Int>,
}

/// As [`crate::StepSums::add_gradients`].
pub(super) fn add_gradient<R: CubeRuntime, M: BoolElement>(
    sums: &mut Sums<Option<DeviceSums<R, M>>>,
    ranges: &[Range<usize>],
    gradient: Matrix<R, M>,
) {
    let _part = Part::Sums.enter();
    let zeroes = |n: usize| Tensor::zeros([n], &gradient.device());
    let n_params = sums.host.n_params();
    let device = sums.device.get_or_insert_with(|| DeviceSums { words: zeroes(2 * n_params), refused: zeroes(1) });
    let gradient = into_contiguous(gradient.into_primitive().tensor());
    let client = &gradient.client;
    let mut from = 0;
    for range in ranges {
        let (count, dim) = a_unit_each(client, range.len());
        add_each::launch(
            client,
            count,
            dim,
            gradient.clone().into_array_arg(),
            device.words.clone().into_primitive().into_array_arg(),
            device.refused.clone().into_primitive().into_array_arg(),
            from,
            range.start as u32,
            range.len() as u32,
        );
        from += range.len() as u32;
    }
}

/// Brings the host's count of refused numbers up to date.
pub(super) fn count_not_finite<R: CubeRuntime, M: BoolElement>(sums: &mut Sums<Option<DeviceSums<R, M>>>) {
    if let Some(device) = &mut sums.device {
        let zero = Tensor::zeros([1], &device.refused.device());
        let refused = std::mem::replace(&mut device.refused, zero);
        sums.host.count(Stat::NotFinite, refused.into_data().iter::<i64>().sum());
    }
}

/// Adds the device's sums to the host's.
pub(super) fn download<R: CubeRuntime, M: BoolElement>(sums: &mut Sums<Option<DeviceSums<R, M>>>) {
    count_not_finite(sums);
    if let Some(device) = sums.device.take() {
        let words = device.words.into_data().convert::<i32>();
        sums.host.add_words(words.as_slice().expect("just converted"));
    }
}

/// Adds `round(g * 2^40)` of numbers `from..from + n` of a gradient to the sums `to..to + n`: a shift of the significand, to
/// nearest, ties to even. From 2^22 on a number does not fit, nor does a sum beyond 64 bits.
#[cube(launch)]
fn add_each(
    gradient: &Array<f32>,
    words: &mut Array<u32>,
    refused: &mut Array<Atomic<u32>>,
    from: u32,
    to: u32,
    n: u32,
) {
    let i = ABSOLUTE_POS as u32;
    if i < n {
        let bits = u32::reinterpret(gradient[(from + i) as usize]);
        let exponent = (bits >> 23) & 0xffu32;
        // What is far below a unit, subnormal numbers and zero too, becomes 0 by the longest shift.
        let right = select(exponent < 110, select(exponent < 85, 25u32, 110 - exponent), 0u32);
        let left = select(exponent > 110, exponent - 110, 0u32);
        let significand = (bits & 0x007f_ffffu32) | 0x0080_0000u32;
        let whole = significand >> right;
        let one = 1u32 << right;
        let twice_rest = 2 * (significand & (one - 1));
        let up = twice_rest > one || (twice_rest == one && (whole & 1) == 1);
        let rounded = whole + u32::cast_from(up);

        let is_long = left >= 32;
        let shifted = rounded << (left & 31);
        let low = select(is_long, 0u32, shifted);
        let high = select(is_long, shifted, (rounded >> 1) >> ((31 - left) & 31));
        let is_negative = (bits >> 31) == 1;
        let high = select(is_negative, 0 - high - u32::cast_from(low != 0), high);
        let low = select(is_negative, 0 - low, low);

        let at = 2 * (to + i) as usize;
        let old_low = words[at];
        let old_high = words[at + 1];
        let sum_low = old_low + low;
        let sum_high = old_high + high + u32::cast_from(sum_low < old_low);
        // Both of one sign, and their sum of the other.
        let wraps = (((old_high ^ sum_high) & (high ^ sum_high)) >> 31) == 1;
        if exponent >= 149 || wraps {
            refused[0].fetch_add(1u32);
        } else {
            words[at] = sum_low;
            words[at + 1] = sum_high;
        }
    }
}
