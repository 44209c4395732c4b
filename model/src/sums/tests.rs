use super::*;

#[test]
fn the_order_of_addition_does_not_change_a_bit() {
    let values: Vec<f32> = (0..1000).map(|i| ((i * 7919) % 1013) as f32 * 1.0e-4 - 0.05).collect();
    let (mut up, mut down) = (StepSums::zero(1), StepSums::zero(1));
    values.iter().for_each(|&v| up.add_gradient(0..1, &[v]));
    values.iter().rev().for_each(|&v| down.add_gradient(0..1, &[v]));
    assert_eq!(up.gradients(3.0), down.gradients(3.0));
    let exact: f64 = values.iter().map(|&v| f64::from(v)).sum();
    assert!((f64::from(up.gradients(1.0)[0]) - exact).abs() < 1e-6);
}

#[test]
fn what_is_not_finite_or_too_large_is_counted_and_not_added() {
    let mut sums = StepSums::zero(2);
    for bad in [f32::NAN, f32::INFINITY, -1.0e30] {
        sums.add_gradient(0..2, &[1.0, bad]);
    }
    assert_eq!(sums.counted(Stat::NotFinite), 3);
    assert_eq!(sums.gradients(1.0), [3.0, 0.0]);
}

#[test]
fn statistics_and_counts_are_kept_apart_from_gradients() {
    let mut sums = StepSums::zero(1);
    sums.add(Stat::Loss, 1.5);
    sums.count(Stat::Supervised, 7);
    assert_eq!((sums.sum(Stat::Loss), sums.counted(Stat::Supervised)), (1.5, 7));
    assert_eq!(sums.gradients(1.0), [0.0]);
}
