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
fn many_at_once_are_rounded_as_one_is() {
    let unit = 1.0 / FRACTION as f32;
    let ends = [
        0.0,
        -0.0,
        0.5,
        -0.5,
        1.5,
        2.5,
        -2.5,
        1.0e9,
        2.0_f32.powi(49),
        -(2.0_f32.powi(50)),
        2.0_f32.powi(61),
        2.0_f32.powi(62),
    ];
    let values: Vec<f32> = (0..1000).map(|i| ends[i % ends.len()] * unit + (i / ends.len()) as f32 * 1e-7).collect();
    let mut together = StepSums::zero(values.len());
    let mut one_by_one = together.clone();
    for _ in 0..3 {
        together.add_gradient(0..values.len(), &values);
        values.iter().enumerate().for_each(|(i, &g)| {
            let fits = add_fixed(&mut one_by_one.values[i], f64::from(g));
            one_by_one.count(Stat::NotFinite, i64::from(!fits));
        });
    }
    assert_eq!(together.values, one_by_one.values);
    assert!(together.counted(Stat::NotFinite) > 0);
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

#[test]
fn prompts_and_answers_are_told_apart() {
    let of = |counts: [i64; 4]| {
        let mut sums = StepSums::zero(0);
        let stats = [Stat::Supervised, Stat::Correct, Stat::Answer, Stat::AnswerCorrect];
        stats.into_iter().zip(counts).for_each(|(stat, n)| sums.count(stat, n));
        let TokenAccuracy { all, answers, prompts } = sums.token_accuracy();
        (all, answers, prompts)
    };
    assert_eq!(of([10, 4, 2, 2]), (0.4, 1.0, Some(0.25)));
    assert_eq!(of([10, 4, 10, 4]), (0.4, 0.4, None), "only answers are learned");
    assert_eq!(of([8, 2, 0, 0]), (0.25, 0.0, Some(0.25)), "a step without answers");
    assert_eq!(of([0, 0, 0, 0]), (0.0, 0.0, None));
}
