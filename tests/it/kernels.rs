//! Each kernel of the engine for GPUs against its plain form, on Vulkan's first device: Mesa's software driver in CI. Whole
//! numbers have the same bits; others are compared with the plain form in f64, to a few roundings of f32, and in bf16 to a
//! few of its own (eight at most, 2^-9 each). A repetition has the same bits.

use burn::backend::Flex;
use model::engine::{Burn, Precision};
use model::ops::{Dropout, Ops, Uniform};
use model::{Stat, StepSums, Sums};

use crate::fixture::{Tensor, check_relative};
use crate::vulkan::engine;

#[test]
fn a_dropout_mask_has_the_bits_of_its_function() {
    let Some(ops) = engine(Precision::F32) else { return };
    let shape = [301, 257];
    let n = shape[0] * shape[1];
    for (key, p) in [(0, 0.05), (u64::MAX, 0.3), (0x0123_4567_89ab_cdef, 0.0), (7, 0.999)] {
        let mask = Dropout::new(key, p);
        let x: Vec<f32> = (0..n).map(|i| (i as f32 - 40_000.0) / 7.0).collect();
        let found = ops.download(&ops.dropout(&ops.upload(x.clone(), shape), mask));
        let expected = x.iter().enumerate().map(|(i, x)| x * mask.factor(i as u32));
        assert!(found.iter().map(|f| f.to_bits()).eq(expected.map(f32::to_bits)), "key {key:x}, p {p}");
    }
}

#[test]
fn random_weights_have_the_bits_of_their_function() {
    let Some(ops) = engine(Precision::F32) else { return };
    for (key, columns, bound) in [(0, 1, 1.0), (u64::MAX, 2560, 1.0 / 64.0), (0x0123_4567_89ab_cdef, 1024, 1.0 / 32.0)]
    {
        let (numbers, shape) = (Uniform::new(key, columns), [301, 257]);
        let found = ops.download(&ops.random_factor(numbers, shape));
        let expected = numbers.numbers(shape);
        assert!(found.iter().zip(&expected).all(|(f, e)| f.to_bits() == e.to_bits()), "key {key:x}");
        let inside = |x: &f32| (-bound..bound).contains(x) && x.to_bits().trailing_zeros() >= 16;
        // Of a uniform distribution: 0 on average, a third of the bound's square as variance, each within 2 %.
        let mean =
            |of: fn(f64) -> f64| found.iter().map(|&x| of(f64::from(x / bound))).sum::<f64>() / found.len() as f64;
        assert!(found.iter().all(inside) && mean(|x| x).abs() < 0.02 && (mean(|x| x * x) - 1.0 / 3.0).abs() < 0.02);
    }
}

#[test]
fn rounding_to_bf16_is_to_nearest_ties_to_even() {
    let Some(ops) = engine(Precision::Bf16) else { return };
    let ties = (0..1 << 16).map(|high: u32| f32::from_bits((high << 16) | 0x8000));
    let beside = (0..1 << 16).map(|high: u32| f32::from_bits((high << 16) | (0x7fff + (high & 2))));
    // Whether a device keeps numbers below the least normal one is its own affair.
    let x: Vec<f32> = ties.chain(beside).filter(|x| x.is_normal() || *x == 0.0 || !x.is_finite()).collect();
    let found = ops.download(&ops.upload_weight(x.clone(), [1, x.len()]));
    for (x, found) in x.iter().zip(found) {
        let expected = ops.rounded(*x);
        let same = found.to_bits() == expected.to_bits() || (found.is_nan() && expected.is_nan());
        assert!(same, "{x:e} ({:08x}): {found:e} for {expected:e}", x.to_bits());
    }
}

/// Numbers between -1 and 1 without a pattern.
fn numbers(key: u32, n: usize) -> Vec<f32> {
    let bits = |i: u32| (i ^ key.wrapping_mul(0x9e37_79b9)).wrapping_mul(0x846c_a68b);
    (0..n as u32).map(|i| (bits(bits(i) >> 7) as i32) as f32 / 2.0_f32.powi(31)).collect()
}

#[track_caller]
fn check_wide(what: &str, found: &[f32], expected: &[f64], tolerance: f64) {
    check_relative(what, found, &Tensor { shape: vec![], data: expected.to_vec() }, tolerance);
}

/// What has a kernel, of matrices without a pattern: norms of `heads` runs of a row each, and what takes numbers alone.
fn operations<O: Ops>(ops: &O, [rows, heads, width]: [usize; 3]) -> Vec<(&'static str, O::Tensor)> {
    let columns = heads * width;
    let matrix = |key, [rows, columns]: [usize; 2], from: f32, size: f32| {
        let numbers = numbers(key, rows * columns).iter().map(|x| from + size * x).collect();
        ops.upload(numbers, [rows, columns])
    };
    let [x, dy, up] = [1, 2, 3].map(|key| matrix(key, [rows, columns], 0.0, 4.0));
    let [gain, w] = [width, columns].map(|n| matrix(4, [1, n], 1.0, 0.5));
    let bias = matrix(5, [1, columns], 0.0, 1.0);
    let [h, b, a] = [[rows, 3], [columns, 3], [3, columns]].map(|shape| matrix(6, shape, 0.0, 1.0));
    let weight = matrix(7, [columns, 5], 0.0, 0.5);
    let (input, back) = (matrix(8, [rows, 5], 0.0, 1.0), matrix(9, [5, columns], 0.0, 1.0));
    let (dgate, dup) = ops.gelu_mul_backward(&dy, &x, &up);
    vec![
        ("rms norm", ops.rms_norm(&x, &gain, 1e-6)),
        ("gradient of rms norm", ops.rms_norm_backward(&dy, &x, &gain, 1e-6)),
        ("layer norm", ops.layer_norm(&x, &w, &bias, 1e-6)),
        ("gradient of layer norm", ops.layer_norm_backward(&dy, &x, &w, 1e-6)),
        ("gelu", ops.gelu(&x)),
        ("gradient of gelu", ops.gelu_backward(&dy, &x)),
        ("gelu times up", ops.gelu_mul(&x, &up)),
        ("its gradient by gate", dgate),
        ("its gradient by up", dup),
        ("linear", ops.linear(&input, &weight, None, None)),
        ("linear with bias", ops.linear(&input, &weight, Some(&bias), None)),
        ("linear with adapter", ops.linear(&input, &weight, None, Some((&h, &b, 1.5)))),
        ("linear with both", ops.linear(&input, &weight, Some(&bias), Some((&h, &b, 1.5)))),
        ("one product", ops.sum_of_matmuls(&[(&h, &a)])),
        ("three products", ops.sum_of_matmuls(&[(&h, &a), (&input, &back), (&h, &a)])),
    ]
}

/// At widths around that of a group of units, the model's, and with more rows than a grid has in a line.
#[test]
fn operations_by_kernels_equal_their_plain_form() {
    let Some(f32) = engine(Precision::F32) else { return };
    let Some(bf16) = engine(Precision::Bf16) else { return };
    let exact = Burn::<Flex>::exact(Default::default());
    for shape in [[7, 1, 3], [5, 4, 16], [70_000, 1, 4], [7, 2, 255], [9, 8, 256], [2, 1, 257], [6, 1, 2560]] {
        let expected = operations(&exact, shape);
        for (engine, tolerance) in [(&f32, 4e-6), (&bf16, 1.0 / 64.0)] {
            let again = operations(engine, shape);
            for (((what, found), (_, again)), (_, expected)) in
                operations(engine, shape).iter().zip(again).zip(&expected)
            {
                let what = format!("{what} of {shape:?} to {tolerance:e}");
                let found = engine.download(found);
                check_wide(&what, &found, &exact.download_f64(expected), tolerance);
                assert!(found == engine.download(&again), "{what}: another time, other bits");
            }
        }
    }
}

/// Against the plain form in f64, for small and large logits, equal ones, and rows shorter and longer than a cube.
#[test]
fn cross_entropy_by_kernel_equals_its_plain_form() {
    let Some(ops) = engine(Precision::F32) else { return };
    let exact = Burn::<Flex>::exact(Default::default());
    for (n, width, size) in [(1, 2, 1.0), (5, 50, 10.0), (3, 1023, 0.0), (4, 1025, 1e4), (3, 40_000, 30.0)] {
        let mut logits = numbers(7, n * width);
        // The largest twice, and a target on it, before it, behind it and at both ends.
        let targets: Vec<u32> = (0..n).map(|row| [width / 3, 0, width - 1, width / 2, 1][row] as u32).collect();
        for row in logits.chunks_mut(width) {
            (row[width / 3], row[width / 2]) = (1.0, 1.0);
            row.iter_mut().for_each(|l| *l *= size);
        }
        let what = format!("{n} x {width}, logits to {size:e}");
        let upload = || ops.upload(logits.clone(), [n, width]);
        let expected = exact.cross_entropy(exact.upload(logits.clone(), [n, width]), &targets, 0.25);
        let found = ops.cross_entropy(upload(), &targets, 0.25);
        let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
        check_wide(&format!("loss of {what}"), &found.loss, &wide(&expected.loss), 1e-6);
        check_wide(&format!("entropy of {what}"), &found.entropy, &wide(&expected.entropy), 4e-6);
        let dlogits = ops.download(&found.dlogits);
        check_wide(&format!("gradient of {what}"), &dlogits, &exact.download_f64(&expected.dlogits), 2e-6);
        let first = if size == 0.0 { 0 } else { width / 3 };
        assert!(found.predicted.iter().all(|&id| id as usize == first), "{what}: the first of the largest");
        // What somebody else still holds is not written over, and a repetition has the same bits.
        let held = upload();
        let again = ops.cross_entropy(held.clone(), &targets, 0.25);
        assert_eq!(ops.download(&held), logits, "{what}: held");
        assert!((again.loss, again.entropy) == (found.loss, found.entropy), "{what}: another time, other bits");
        assert!(ops.download(&again.dlogits) == dlogits, "{what}: another time, other bits");
    }
    // A logit that is no number makes the loss none.
    for bad in [f32::NAN, f32::INFINITY] {
        let ce = ops.cross_entropy(ops.upload(vec![0.0, bad, 1.0], [1, 3]), &[0], 1.0);
        assert!(!ce.loss[0].is_finite() && ce.predicted[0] < 3, "{bad}: {:?}, {:?}", ce.loss, ce.predicted);
    }
}

/// Gradients that are hard to add: around every power of two half units, ties and their neighbours, all that is not a number,
/// the ends of the range, and bits without a pattern.
fn hard_gradients() -> Vec<f32> {
    let powers = (0..=255).flat_map(|exponent| {
        [0, 1, 2, 3, 0x3f_ffff, 0x40_0000, 0x40_0001, 0x7f_fffe, 0x7f_ffff]
            .map(|rest| f32::from_bits(exponent << 23 | rest))
    });
    let halves = (0..64).map(|n| (n as f32 + 0.5) * 2.0_f32.powi(-40));
    let patterns = (0..1 << 14).map(|n: u32| f32::from_bits(n.wrapping_mul(0x9e37_79b9) ^ n));
    powers.chain(halves).chain(patterns).flat_map(|x| [x, -x]).collect()
}

/// In two ranges that lie the other way round among the sums: four times the same, so that sums overflow, then each number to
/// another's sum with the other sign.
#[test]
fn gradients_add_up_on_the_device_to_the_bits_of_the_host() {
    let Some(ops) = engine(Precision::F32) else { return };
    let mut gradient = hard_gradients();
    let (n, first) = (gradient.len(), 1001);
    let ranges = [n - first + 5..n + 5, 5..n - first + 5];
    let mut expected = StepSums::zero(n + 8);
    let mut sums = Sums::new(StepSums::zero(n + 8));
    for round in 0..5 {
        expected.add_gradients(&ranges, &gradient);
        ops.add_gradient(&mut sums, &ranges, &ops.upload(gradient.clone(), [n / 2, 2]));
        ops.count_not_finite(&mut sums);
        let counted = expected.counted(Stat::NotFinite);
        assert!(counted > 0 && sums.host.counted(Stat::NotFinite) == counted, "round {round}");
        if round > 2 {
            gradient.rotate_right(7);
        }
    }
    let mut found = ops.collect(sums);
    for (i, (found, expected)) in found.as_mut_slice().iter().zip(expected.as_mut_slice()).enumerate() {
        assert_eq!(found, expected, "sum {i}");
    }
}
