use proptest::prelude::*;

use super::*;

fn mean(values: &[f64], weights: &[u32]) -> Vec<Option<f64>> {
    let n: u32 = weights.iter().sum();
    vec![Some(values.iter().zip(weights).map(|(v, &w)| v * f64::from(w)).sum::<f64>() / f64::from(n))]
}

fn of(seed: u64, values: &[f64]) -> [f64; 2] {
    let bootstrap = Bootstrap { resamples: 1000, seed };
    bootstrap.intervals(values.len(), &|weights| mean(values, weights))[0].unwrap()
}

/// The mean of n rows of a coin has the standard deviation 0.5 / sqrt(n); 1.96 of them are 95 %.
#[test]
fn the_interval_of_a_coin_is_the_known_one() {
    let coin: Vec<f64> = (0..400).map(|i| f64::from(i % 2)).collect();
    let [low, high] = of(1, &coin);
    assert!((low - 0.451).abs() < 0.006 && (high - 0.549).abs() < 0.006, "{low} to {high}");
}

#[test]
fn seeds_differ_and_one_seed_repeats() {
    let values: Vec<f64> = (0..50).map(f64::from).collect();
    assert_eq!(of(1, &values), of(1, &values));
    assert_ne!(of(1, &values), of(2, &values));
}

#[test]
fn percentiles_are_numpys() {
    assert_eq!(percentile(&[1.0, 2.0, 3.0, 4.0], 0.025), Some(1.075));
    assert_eq!(percentile(&[5.0], 0.975), Some(5.0));
    assert_eq!(percentile(&[], 0.5), None);
}

/// Of 1,000 resamples of 10 rows each row is drawn about 1,000 times: 5 standard deviations are 150.
#[test]
fn every_row_is_drawn_equally_often() {
    let bootstrap = Bootstrap { resamples: 1000, seed: 3 };
    let mut drawn = [0; 10];
    for resample in 0..1000 {
        (0..10).for_each(|place| drawn[bootstrap.draw(resample, place, 10)] += 1);
    }
    assert!(drawn.iter().all(|&n| (850..1150).contains(&n)), "{drawn:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn an_interval_lies_within_the_values(values in prop::collection::vec(-1e3..1e3_f64, 1..40), seed: u64) {
        let [low, high] = Bootstrap { resamples: 100, seed }.intervals(values.len(), &|w| mean(&values, w))[0].unwrap();
        let (least, most) = values.iter().fold((f64::MAX, f64::MIN), |(a, b), &v| (a.min(v), b.max(v)));
        prop_assert!(least - 1e-9 <= low && low <= high && high <= most + 1e-9);
    }
}
