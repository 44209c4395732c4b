use proptest::prelude::*;

use super::*;

const PLAIN: Sampling = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, seed: 7 };

/// What is left of a vocabulary, and how likely each token is among it.
fn warped(sampling: Sampling, logits: &[f32]) -> Vec<(u32, f64)> {
    let tokens = sampling.candidates(logits);
    let probabilities = softmax(&tokens);
    let kept = sampling.nucleus(&probabilities);
    let total: f64 = probabilities[..kept].iter().sum();
    tokens[..kept].iter().zip(&probabilities).map(|(&(id, _), p)| (id, p / total)).collect()
}

/// Each of a hundred thousand draws is one of `expected`, as often as it says.
fn check(sampling: Sampling, logits: &[f32], expected: &[(u32, f64)]) {
    let n = 100_000;
    let mut counts = vec![0; logits.len()];
    (0..n).for_each(|nth| counts[sampling.draw(logits, 3, nth) as usize] += 1);
    let mut left = vec![0.0; logits.len()];
    expected.iter().for_each(|&(id, p)| left[id as usize] = p);
    for (id, (&count, p)) in counts.iter().zip(left).enumerate() {
        // Five standard deviations of a count; draws are fixed, so the verdict is, too.
        let (mean, deviation) = (p * n as f64, (p * (1.0 - p) * n as f64).sqrt());
        assert!((f64::from(count) - mean).abs() <= 5.0 * deviation, "token {id}: {count} of {n}, expected {mean}");
    }
}

/// Natural logarithms of probabilities, so that the expectations can be read.
fn logs<const N: usize>(probabilities: [f64; N]) -> [f32; N] {
    probabilities.map(|p| p.ln() as f32)
}

#[test]
fn tokens_are_drawn_as_likely_as_the_warpers_leave_them() {
    let logits = logs([0.1, 0.4, 0.2, 0.3]);
    check(PLAIN, &logits, &[(0, 0.1), (1, 0.4), (2, 0.2), (3, 0.3)]);
    check(Sampling { top_k: 2, ..PLAIN }, &logits, &[(1, 4.0 / 7.0), (3, 3.0 / 7.0)]);
    check(Sampling { top_k: 9, ..PLAIN }, &logits, &[(0, 0.1), (1, 0.4), (2, 0.2), (3, 0.3)]);
    check(Sampling { top_p: 0.6, ..PLAIN }, &logits, &[(1, 4.0 / 7.0), (3, 3.0 / 7.0)]);
    check(Sampling { top_p: 0.01, ..PLAIN }, &logits, &[(1, 1.0)]);
    check(
        Sampling { temperature: 0.5, ..PLAIN },
        &logits,
        &[(0, 0.01 / 0.3), (1, 0.16 / 0.3), (2, 0.04 / 0.3), (3, 0.3)],
    );
    // Of equals at the edge of top-k all stay, as in transformers.
    check(Sampling { top_k: 2, ..PLAIN }, &logs([0.25, 0.5, 0.25]), &[(0, 0.25), (1, 0.5), (2, 0.25)]);
    // Top-p measures what temperature and top-k left: of 4/7 and 3/7 the first alone reaches 0.57.
    check(Sampling { top_k: 2, top_p: 0.57, ..PLAIN }, &logits, &[(1, 1.0)]);
}

#[test]
fn a_draw_depends_on_seed_prompt_and_place_alone() {
    let logits = [0.0; 1000];
    let request = |ids: &[u32], pixel| GenerateRequest { input_ids: ids.into(), pages: vec![vec![0, 0, pixel]] };
    let of = |seed, request: &GenerateRequest| {
        let sampling = Sampling { seed, ..PLAIN };
        let key = sampling.key(request);
        (0..8).map(|nth| sampling.draw(&logits, key, nth)).collect::<Vec<_>>()
    };
    let drawn = of(1, &request(&[5, 6], 0));
    assert_eq!(drawn, of(1, &request(&[5, 6], 0)));
    assert_eq!(drawn, [156, 761, 997, 544, 674, 278, 714, 678], "the very tokens, on any machine");
    assert_ne!(drawn, of(2, &request(&[5, 6], 0)), "seed");
    assert_ne!(drawn, of(1, &request(&[6, 5], 0)), "text");
    assert_ne!(drawn, of(1, &request(&[5, 6], 1)), "page");
}

proptest! {
    /// Against the definitions, written without sorting or selecting.
    #[test]
    fn warpers_leave_what_their_definitions_say(
        logits in prop::collection::vec((-40..40_i32).prop_map(|l| l as f32 / 8.0), 1..60),
        temperature in 0.25..2.0_f32,
        top_k in 0..70_usize,
        top_p in 0.0..1.2_f64,
    ) {
        let sampling = Sampling { temperature, top_k, top_p, seed: 0 };
        let above = |l: f32| logits.iter().filter(|other| **other > l).count();
        let by_k: Vec<u32> = (0..).zip(&logits).filter(|(_, l)| top_k == 0 || above(**l) < top_k).map(|(id, _)| id).collect();
        let weight = |id: u32| (f64::from(logits[id as usize]) / f64::from(temperature)).exp();
        let total: f64 = by_k.iter().map(|&id| weight(id)).sum();
        let before = |id: u32| {
            let rank = |id: u32| (-logits[id as usize], id);
            by_k.iter().filter(|&&other| rank(other) < rank(id)).map(|&other| weight(other)).sum::<f64>() / total
        };
        let left = warped(sampling, &logits);
        for &id in &by_k {
            let edge = (before(id) - top_p).abs() < 1e-5;
            let first = before(id) == 0.0;
            let kept = left.iter().any(|&(other, _)| other == id);
            prop_assert!(edge || kept == (first || top_p >= 1.0 || before(id) < top_p), "token {id}");
        }
        prop_assert!(left.iter().all(|(id, _)| by_k.contains(id)));
    }
}
