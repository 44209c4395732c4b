use super::*;
use crate::fixtures;

/// The bf16 merge of `fixtures/ops`: torch's own numbers.
fn torchs() -> (Delta, Vec<f32>, Vec<f32>) {
    let mut ops = fixtures::read(&fixtures::path("ops/ops.safetensors"));
    let mut take = |name: &str| ops.remove(&format!("merge.{name}")).unwrap();
    let (w, merged) = (take("w"), take("out"));
    assert_eq!((w.0, merged.0), (Dtype::Bf16, Dtype::Bf16));
    let delta = Delta::new(&take("A").2, take("B").2, w.1[1], 2.0);
    assert_eq!(delta.r, 3);
    (delta, w.2, merged.2)
}

fn rows(delta: &Delta, first_row: usize, n_rows: usize) -> Vec<f32> {
    let mut rows = vec![f32::NAN; n_rows * delta.in_features];
    delta.rows(first_row, &mut rows);
    rows
}

fn add_to(delta: &Delta, weights: &mut [f32], rounding: Rounding) -> Change {
    delta.add_to(0, weights, &mut Vec::new(), Dtype::Bf16, rounding)
}

#[test]
fn the_merge_is_torchs_to_the_bit() {
    let (delta, mut weights, merged) = torchs();
    let change = add_to(&delta, &mut weights, Rounding::Once);
    assert_eq!(weights, merged);
    assert_eq!(change.wanted, 48);
}

#[test]
fn rows_may_be_computed_apart() {
    let (delta, ..) = torchs();
    let whole = rows(&delta, 0, 8);
    for first_row in 0..8 {
        assert_eq!(rows(&delta, first_row, 1), whole[first_row * 6..][..6]);
    }
    assert_eq!(rows(&delta, 2, 5), whole[12..42]);
}

/// Shapes that end within a tile and within a group of rows.
#[test]
fn tiles_do_not_change_a_bit() {
    for (r, n_in, n_out) in [(1, 1, 1), (3, 64, 4), (5, 65, 7), (32, 200, 9), (7, 130, 3)] {
        let number = |i: usize| ((i * 7919 + 13) % 1000) as f32 / 700.0 - 0.5;
        let a: Vec<f32> = (0..r * n_in).map(number).collect();
        let b: Vec<f32> = (0..n_out * r).map(|i| number(i + 5)).collect();
        let plain = |i: usize| {
            let (row, column) = (i / n_in, i % n_in);
            0.3 * (0..r).fold(0.0_f32, |sum, k| b[row * r + k].mul_add(a[k * n_in + column], sum))
        };
        let expected: Vec<f32> = (0..n_out * n_in).map(plain).collect();
        assert_eq!(rows(&Delta::new(&a, b.clone(), n_in, 0.3), 0, n_out), expected, "r {r}, {n_out} x {n_in}");
    }
}

#[test]
fn each_number_is_a_fused_chain_in_the_order_of_r() {
    let fused = |b: [f32; 2], a: [f32; 2]| b[1].mul_add(a[1], b[0] * a[0]);
    // 1 + 2^-12 squared does not fit in 24 bits: only the fused sum keeps its last bit.
    let x = 1.0 + 2f32.powi(-12);
    let delta = Delta::new(&[-1.0, x], vec![1.0, x], 1, 1.0);
    let expected = fused([1.0, x], [-1.0, x]);
    assert_eq!(rows(&delta, 0, 1), [expected]);
    assert_ne!(x * x - 1.0, expected);
}

#[test]
fn rounding_once_is_nearer_to_the_exact_sum_than_pefts_safe_merge() {
    let (delta, weights, _) = torchs();
    let error = |rounding| {
        let mut merged = weights.clone();
        add_to(&delta, &mut merged, rounding);
        let exact = |i: usize| {
            let product = |k: usize| f64::from(delta.lora_b[i / 6 * 3 + k]) * f64::from(delta.lora_a[k * TILE + i % 6]);
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
    let delta = Delta::new(&[0.0, 0.001, 0.01, -1.0], vec![1.0], 4, 1.0);
    let mut weights = vec![1.0; 4];
    let change = add_to(&delta, &mut weights, Rounding::Once);
    assert_eq!((change.wanted, change.survived), (3, 2));
    assert_eq!(weights, [1.0, 1.0, 1.0 + 2f32.powi(-7), 0.0]);
    assert_eq!((change.share(), Change::default().share()), (2.0 / 3.0, 1.0));
}
