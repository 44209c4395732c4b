//! Each backward written by hand against two more witnesses: finite differences in f64 and Burn's autodiff.
//!
//! Tolerances, relative to the largest element: central differences with a step of 2^-10 are off by about its square
//! times a third derivative (1e-6), we allow 1e-5; autodiff in f32 sums in another order, we allow 1e-5.

use burn::backend::{Autodiff, Flex};
use burn::tensor::Tensor;
use model::engine::{Burn, Precision};
use model::lora_linear::{Adapter, LoraLinear, backward_all, forward_all};
use model::ops::{AttentionRow, AttentionSaved, AttentionShape, Ops, Place};
use model::{StepSums, Sums};

const STEP: f32 = 1.0 / 1024.0;
const TOLERANCE: f64 = 1e-5;

type Exact = Burn<Flex>;
type Auto = Burn<Autodiff<Flex>>;

/// Numbers without a pattern, of order 1, as a pure function of `seed`.
fn numbers(seed: u32, n: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| (next() + next()) * 1.5).collect()
}

/// One input of an operation: its shape. Inputs are drawn by their place.
type Shapes = &'static [[usize; 2]];

/// An operation over any engine, and its backward: gradients by each input of `sum(out * probe)`.
trait Operation {
    const NAME: &'static str;
    const INPUTS: Shapes;
    fn forward<O: Ops>(ops: &O, x: &[O::Tensor]) -> O::Tensor;
    fn backward<O: Ops>(ops: &O, probe: &O::Tensor, x: &[O::Tensor]) -> Vec<O::Tensor>;
}

fn uploaded<O: Ops>(ops: &O, inputs: &[Vec<f32>], shapes: Shapes) -> Vec<O::Tensor> {
    inputs.iter().zip(shapes).map(|(data, &shape)| ops.upload(data.clone(), shape)).collect()
}

#[track_caller]
fn check(name: &str, found: &[f64], expected: &[f64]) {
    let largest = expected.iter().fold(0.0_f64, |a, b| a.max(b.abs()));
    let diff = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(largest > 1e-3, "{name}: a gradient of nothing proves nothing");
    assert!(diff <= TOLERANCE * largest.max(1.0), "{name}: differs by {diff:e} of {largest:e}");
}

fn against_differences<P: Operation>() {
    let ops = Exact::exact(Default::default());
    let inputs: Vec<Vec<f32>> = P::INPUTS.iter().enumerate().map(|(i, [r, c])| numbers(i as u32 + 1, r * c)).collect();
    let x = uploaded(&ops, &inputs, P::INPUTS);
    let shape = ops.shape(&P::forward(&ops, &x));
    let probe = numbers(77, shape[0] * shape[1]);
    let value = |inputs: &[Vec<f32>]| -> f64 {
        let out = ops.download_f64(&P::forward(&ops, &uploaded(&ops, inputs, P::INPUTS)));
        out.iter().zip(&probe).map(|(&o, &p)| o * f64::from(p)).sum()
    };
    let grads = P::backward(&ops, &ops.upload(probe.clone(), shape), &x);
    assert!(!grads.is_empty());
    for (i, grad) in grads.iter().enumerate() {
        let slope = |n: usize| {
            let [up, down] = [STEP, -STEP].map(|step| {
                let mut moved = inputs.clone();
                moved[i][n] += step;
                (f64::from(moved[i][n]), value(&moved))
            });
            (up.1 - down.1) / (up.0 - down.0)
        };
        let expected: Vec<f64> = (0..inputs[i].len()).map(slope).collect();
        check(&format!("{} by input {i}, differences", P::NAME), &ops.download_f64(grad), &expected);
    }
}

fn against_autodiff<P: Operation>() {
    let ops = Auto::new(Default::default(), Precision::F32);
    let inputs: Vec<Vec<f32>> = P::INPUTS.iter().enumerate().map(|(i, [r, c])| numbers(i as u32 + 1, r * c)).collect();
    let x: Vec<Tensor<Autodiff<Flex>, 2>> =
        uploaded(&ops, &inputs, P::INPUTS).into_iter().map(Tensor::require_grad).collect();
    let out = P::forward(&ops, &x);
    let shape = ops.shape(&out);
    let probe = ops.upload(numbers(77, shape[0] * shape[1]), shape);
    let found = P::backward(&ops, &probe, &x);
    let tape = (out * probe).sum().backward();
    for (i, grad) in found.iter().enumerate() {
        let expected = x[i].grad(&tape).expect("the output depends on it").to_data().convert::<f64>();
        let expected: Vec<f64> = expected.into_vec().expect("just converted");
        check(&format!("{} by input {i}, autodiff", P::NAME), &ops.download_f64(grad), &expected);
    }
}

macro_rules! operation {
    ($name:ident, $inputs:expr, |$o:ident, $x:ident| $forward:expr, |$p:ident| $backward:expr) => {
        struct $name;
        impl Operation for $name {
            const NAME: &'static str = stringify!($name);
            const INPUTS: Shapes = $inputs;
            fn forward<O: Ops>($o: &O, $x: &[O::Tensor]) -> O::Tensor {
                $forward
            }
            #[allow(unused_variables, reason = "a linear operation does not look at its input")]
            fn backward<O: Ops>($o: &O, $p: &O::Tensor, $x: &[O::Tensor]) -> Vec<O::Tensor> {
                $backward
            }
        }
    };
}

operation!(RmsNorm, &[[4, 12], [1, 6]], |o, x| o.rms_norm(&x[0], &x[1], 1e-6), |p| vec![
    o.rms_norm_backward(p, &x[0], &x[1], 1e-6)
]);
operation!(LayerNorm, &[[4, 7], [1, 7], [1, 7]], |o, x| o.layer_norm(&x[0], &x[1], &x[2], 1e-6), |p| vec![
    o.layer_norm_backward(p, &x[0], &x[1], 1e-6)
]);
operation!(Gelu, &[[3, 9]], |o, x| o.gelu(&x[0]), |p| vec![o.gelu_backward(p, &x[0])]);
operation!(GeluMul, &[[3, 9], [3, 9]], |o, x| o.gelu_mul(&x[0], &x[1]), |p| {
    let (gate, up) = o.gelu_mul_backward(p, &x[0], &x[1]);
    vec![gate, up]
});
operation!(Linear, &[[5, 6], [4, 6]], |o, x| o.matmul_nt(&x[0], &x[1]), |p| vec![
    o.matmul(p, &x[1]),
    o.matmul_tn(p, &x[0])
]);
operation!(Pooling, &[[2 * 16, 3]], |o, x| o.avg_pool(&x[0], 4, 2), |p| vec![o.avg_pool_backward(p, 4, 2)]);
operation!(Rotation, &[[5, 16]], |o, x| rotate(o, &x[0], 1.0), |p| vec![rotate(o, p, -1.0)]);
operation!(GroupedAttention, &[[8, 24], [12, 12], [12, 12]], |o, x| attend(o, x).0.out, |p| {
    let (saved, plan) = attend(o, x);
    o.attention_backward(p, &saved, &plan).to_vec()
});

operation!(
    AdapterUnderDropout,
    &[[5, 6], [2, 6], [4, 2]],
    |o, x| adapted(o, x).forward(o, x[0].clone(), DROPPED).0,
    |p| {
        let mut sums = Sums::new(StepSums::zero(20));
        let linear = adapted(o, x);
        let dx = linear.backward(o, p, &linear.again(o, x[0].clone(), DROPPED), DROPPED, &mut sums);
        let grads = o.collect(sums).gradients(1.0);
        vec![dx, o.upload(grads[..12].to_vec(), [2, 6]), o.upload(grads[12..].to_vec(), [4, 2])]
    }
);

operation!(AdaptersOfOneInput, TOGETHER, |o, x| together(o, x, Place::Eval), |p| {
    together_backward(o, p, x, Place::Eval)
});
operation!(AdaptersOfOneInputUnderDropout, TOGETHER, |o, x| together(o, x, DROPPED), |p| {
    together_backward(o, p, x, DROPPED)
});

/// An input, and the A and B of its first linear (rank 2) and of its third (rank 3).
const TOGETHER: Shapes = &[[5, 6], [2, 6], [4, 2], [3, 6], [5, 3]];

/// Linears of one input, 4, 3 and 5 wide; the second has no adapter.
fn linears<O: Ops>(ops: &O, x: &[O::Tensor]) -> [LoraLinear<O::Tensor>; 3] {
    let linear = |module: usize, width, adapter| {
        let w = ops.upload(numbers(module as u32 + 30, 6 * width), [width, 6]);
        LoraLinear { w, bias: None, module, adapter }
    };
    let adapter = |i: usize, ranges, scaling| {
        Some(Adapter { lora_a: x[i].clone(), lora_b: x[i + 1].clone(), ranges, scaling, dropout: 0.4 })
    };
    [
        linear(0, 4, adapter(1, [0..12, 12..20], 1.5)),
        linear(1, 3, None),
        linear(2, 5, adapter(3, [20..38, 38..53], 0.5)),
    ]
}

fn together<O: Ops>(ops: &O, x: &[O::Tensor], at: Place) -> O::Tensor {
    let (out, _) = forward_all(ops, linears(ops, x).each_ref(), x[0].clone(), at);
    ops.stack_columns(&out.each_ref())
}

fn together_backward<O: Ops>(ops: &O, probe: &O::Tensor, x: &[O::Tensor], at: Place) -> Vec<O::Tensor> {
    let mut sums = Sums::new(StepSums::zero(53));
    let linears = linears(ops, x);
    let (_, saved) = forward_all(ops, linears.each_ref(), x[0].clone(), at);
    let probes = [0..4, 4..7, 7..12].map(|columns| ops.columns(probe, columns));
    let dx = backward_all(ops, linears.each_ref(), probes.each_ref(), &saved, at, &mut sums);
    let grads = ops.collect(sums).gradients(1.0);
    let adapters = linears.iter().filter_map(|linear| linear.adapter.as_ref());
    let ranges = adapters.flat_map(|adapter| adapter.ranges.clone()).zip(&TOGETHER[1..]);
    [dx].into_iter().chain(ranges.map(|(range, &shape)| ops.upload(grads[range].to_vec(), shape))).collect()
}

const DROPPED: Place = Place::Train { seed: 1, step: 2, micro_batch: 3 };

/// A frozen linear with the adapter `x[1]`, `x[2]`.
fn adapted<O: Ops>(ops: &O, x: &[O::Tensor]) -> LoraLinear<O::Tensor> {
    let (lora_a, lora_b) = (x[1].clone(), x[2].clone());
    let adapter = Adapter { lora_a, lora_b, ranges: [0..12, 12..20], scaling: 1.5, dropout: 0.4 };
    let w = ops.upload(numbers(9, 24), [4, 6]);
    LoraLinear { w, bias: None, module: 5, adapter: Some(adapter) }
}

fn rotate<O: Ops>(ops: &O, x: &O::Tensor, sign: f32) -> O::Tensor {
    let angle = |i: usize| (i / 4) as f32 * 0.7 + (i % 4) as f32;
    let cos = ops.upload((0..20).map(|i| angle(i).cos()).collect(), [5, 4]);
    let sin = ops.upload((0..20).map(|i| sign * angle(i).sin()).collect(), [5, 4]);
    ops.rope(x, &cos, &sin)
}

/// Rows of 3, 2, 5 and 2 tokens: causal, nobody sees, a window of 2 with a block seen both ways of which two tokens do not
/// see, everything.
fn attend<O: Ops>(ops: &O, x: &[O::Tensor]) -> (AttentionSaved<O::Tensor>, O::AttentionPlan) {
    let causal = AttentionRow { n_keys: 3, seen: vec![[0, 1], [0, 2], [0, 3]] };
    let blind = AttentionRow { n_keys: 2, seen: vec![] };
    let window = AttentionRow { n_keys: 5, seen: vec![[0, 4], [2, 4], [3, 5]] };
    let rows = vec![causal, blind, window, AttentionRow::full(2, 2)];
    let plan = ops.plan_attention(AttentionShape { rows, heads: 4, kv_heads: 2, head_dim: 6, scale: 0.4 });
    let (out, lse) = ops.attention(&x[0], &x[1], &x[2], &plan);
    (AttentionSaved { q: x[0].clone(), k: x[1].clone(), v: x[2].clone(), out, lse }, plan)
}

/// Blocks of one query, of some, and of everything: a query's softmax is over all its keys in each.
#[test]
fn attention_in_blocks_is_that_of_the_whole() {
    let shapes = <GroupedAttention as Operation>::INPUTS;
    let inputs: Vec<Vec<f32>> = shapes.iter().enumerate().map(|(i, [r, c])| numbers(i as u32 + 1, r * c)).collect();
    let found = |max_scores: usize| {
        let ops = Burn::<Flex>::new(Default::default(), Precision::F32).with_max_scores(max_scores);
        let (saved, plan) = attend(&ops, &uploaded(&ops, &inputs, shapes));
        let probe = ops.upload(numbers(77, 240), [10, 24]);
        let grads = ops.attention_backward(&probe, &saved, &plan);
        [saved.out, saved.lse].into_iter().chain(grads).map(|x| ops.download_f64(&x)).collect::<Vec<_>>()
    };
    let whole = found(1 << 20);
    for max_scores in [1, 24, 50, 80] {
        for (what, (found, expected)) in
            ["out", "lse", "dq", "dk", "dv"].iter().zip(found(max_scores).iter().zip(&whole))
        {
            check(&format!("{what} with at most {max_scores} scores"), found, expected);
        }
    }
}

macro_rules! every_operation {
    ($check:ident) => {
        $check::<RmsNorm>();
        $check::<LayerNorm>();
        $check::<Gelu>();
        $check::<GeluMul>();
        $check::<Linear>();
        $check::<Pooling>();
        $check::<Rotation>();
        $check::<GroupedAttention>();
        $check::<AdapterUnderDropout>();
        $check::<AdaptersOfOneInput>();
        $check::<AdaptersOfOneInputUnderDropout>();
    };
}

#[test]
fn backwards_equal_finite_differences_in_f64() {
    every_operation!(against_differences);
}

#[test]
fn backwards_equal_burns_autodiff() {
    every_operation!(against_autodiff);
}
