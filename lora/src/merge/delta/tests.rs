use super::*;
use crate::fixtures;

/// The bf16 merge of `fixtures/ops`: torch's own numbers.
fn torchs() -> (Delta, Vec<f32>, Vec<f32>) {
    let mut ops = fixtures::read(&fixtures::path("ops/ops.safetensors"));
    let mut take = |name: &str| ops.remove(&format!("merge.{name}")).unwrap();
    let (w, merged) = (take("w"), take("out"));
    assert_eq!((w.0, merged.0), (Dtype::Bf16, Dtype::Bf16));
    let delta = Delta { lora_a: take("A").2, lora_b: take("B").2, r: 3, in_features: w.1[1], scaling: 2.0 };
    (delta, w.2, merged.2)
}

#[test]
fn the_merge_is_torchs_to_the_bit() {
    let (delta, mut weights, merged) = torchs();
    let change = delta.add_to(0, &mut weights, Dtype::Bf16, Rounding::Once);
    assert_eq!(weights, merged);
    assert_eq!(change.wanted, 48);
}

#[test]
fn rows_may_be_computed_apart() {
    let (delta, ..) = torchs();
    let whole = delta.rows(0, 8);
    for first_row in 0..8 {
        assert_eq!(delta.rows(first_row, 1), whole[first_row * 6..][..6]);
    }
    assert_eq!(delta.rows(2, 5), whole[12..42]);
}

#[test]
fn each_number_is_a_fused_chain_in_the_order_of_r() {
    let fused = |b: [f32; 2], a: [f32; 2]| b[1].mul_add(a[1], b[0] * a[0]);
    // 1 + 2^-12 squared does not fit in 24 bits: only the fused sum keeps its last bit.
    let x = 1.0 + 2f32.powi(-12);
    let delta = Delta { lora_a: vec![-1.0, x], lora_b: vec![1.0, x], r: 2, in_features: 1, scaling: 1.0 };
    let expected = fused([1.0, x], [-1.0, x]);
    assert_eq!(delta.rows(0, 1), [expected]);
    assert_ne!(x * x - 1.0, expected);
}

#[test]
fn rounding_once_is_nearer_to_the_exact_sum_than_pefts_safe_merge() {
    let (delta, weights, _) = torchs();
    let error = |rounding| {
        let mut merged = weights.clone();
        delta.add_to(0, &mut merged, Dtype::Bf16, rounding);
        let exact = |i: usize| {
            let product = |k: usize| f64::from(delta.lora_b[i / 6 * 3 + k]) * f64::from(delta.lora_a[k * 6 + i % 6]);
            f64::from(weights[i]) + 2.0 * (0..3).map(product).sum::<f64>()
        };
        merged.iter().enumerate().map(|(i, m)| (f64::from(*m) - exact(i)).abs()).collect::<Vec<_>>()
    };
    let (once, peft) = (error(Rounding::Once), error(Rounding::Peft));
    assert!(once.iter().zip(&peft).all(|(once, peft)| once <= peft), "never farther");
    assert!(once.iter().sum::<f64>() < peft.iter().sum::<f64>());
}

#[test]
fn what_rounding_takes_is_counted() {
    // bf16 holds 1 + 2^-7 beside 1: of these four changes one is zero, one too small, two large enough.
    let delta = Delta { lora_a: vec![0.0, 0.001, 0.01, -1.0], lora_b: vec![1.0], r: 1, in_features: 4, scaling: 1.0 };
    let mut weights = vec![1.0; 4];
    let change = delta.add_to(0, &mut weights, Dtype::Bf16, Rounding::Once);
    assert_eq!((change.wanted, change.survived), (3, 2));
    assert_eq!(weights, [1.0, 1.0, 1.0 + 2f32.powi(-7), 0.0]);
    assert_eq!((change.share(), Change::default().share()), (2.0 / 3.0, 1.0));
}
