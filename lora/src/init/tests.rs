use super::*;
use crate::Module;

fn layout(names: &[&str]) -> Layout {
    let module = |name: &&str| Module { name: (*name).to_owned(), in_features: 400, out_features: 300 };
    Layout::new(names.iter().map(module).collect(), 32)
}

#[test]
fn a_is_uniform_below_the_bound_and_b_is_zero() {
    let layout = layout(&["x"]);
    let flat = init(&layout, 42);
    let bound = 1.0 / 20.0;
    let a = &flat[layout.a(0)];
    assert!(a.iter().all(|x| (-bound..bound).contains(x)));
    assert!(flat[layout.b(0)].iter().all(|x| *x == 0.0));
    let n = a.len() as f32;
    let mean = a.iter().sum::<f32>() / n;
    let variance = a.iter().map(|x| x * x).sum::<f32>() / n;
    // 12,800 draws: four standard errors of the mean, and of the variance of a uniform.
    assert!(mean.abs() < 4.0 * bound / (3.0 * n).sqrt(), "{mean}");
    assert!((variance / (bound * bound / 3.0) - 1.0).abs() < 4.0 * (0.8 / n).sqrt(), "{variance}");
}

#[test]
fn a_number_depends_on_seed_name_and_element_only() {
    let (one, two) = (layout(&["x", "y"]), layout(&["y", "z", "x"]));
    let (first, second) = (init(&one, 7), init(&two, 7));
    assert_eq!(first[one.a(0)], second[two.a(2)]);
    assert_eq!(first[one.a(1)], second[two.a(0)]);
    assert_ne!(first[one.a(0)], first[one.a(1)]);
    assert_ne!(first, init(&one, 8));
    // Fixed for ever, and the same in a program of its own: a run is repeated from its seed.
    assert_eq!(&first[..3], &[-0.011_986_512, -0.013_421_095, 0.038_502_682]);
    assert_eq!(splitmix64(0), 0xe220_a839_7b1d_cdaf, "the generator's published first output");
}
