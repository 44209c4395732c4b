use super::*;

fn numbers(n: usize, seed: u32) -> Vec<f32> {
    (0..n as u32)
        .map(|i| (i.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 8) as f32 / (1 << 23) as f32 - 1.0)
        .collect()
}

/// `a b` and `a c^T`, summed, by the kernel library on one thread as a whole, against tasks.
fn check(m: usize, n: usize, k: usize) {
    let [a, b, c] = [(m * k, 1), (k * n, 2), (n * k, 3)].map(|(len, seed)| numbers(len, seed));
    let a = View::new(&a, [m, k], [k, 1]);
    let terms = [
        Term { factor: 1.0, a, b: View::new(&b, [k, n], [n, 1]) },
        Term { factor: 0.5, a, b: View::new(&c, [n, k], [k, 1]).t() },
    ];
    let mut found = numbers(m * n, 4);
    let before = found.clone();
    sum_of_products(&mut found, n, Into::Add, &terms);
    for (row, column) in [(0, 0), (m - 1, n - 1), (m / 2, n / 3), (m / 3, n - 1), (m - 1, 0)] {
        let product = |p: usize| {
            let [a, b, c] = [terms[0].a.f32()[row * k + p], b[p * n + column], c[column * k + p]].map(f64::from);
            a * (b + 0.5 * c)
        };
        let expected = f64::from(before[row * n + column]) + (0..k).map(product).sum::<f64>();
        let off = (f64::from(found[row * n + column]) - expected).abs();
        assert!(off < 1e-4, "{m} x {n} x {k} at {row}, {column}: off by {off:e}");
    }
    let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let mut again = before;
    alone.install(|| sum_of_products(&mut again, n, Into::Add, &terms));
    assert_eq!(found, again, "{m} x {n} x {k}: threads change bits");
}

#[test]
fn a_sum_of_products_is_the_sum_whatever_its_tasks_and_threads() {
    check(3, 5, 7); // One task.
    check(300, 500, 90); // Columns, the second factor turned.
    check(1100, 130, 70); // Rows and columns.
    check(900, 24, 400); // Rows of few columns.
}

/// A frozen factor in bf16 gives the bits of the same numbers in f32, as it lies and transposed.
fn check_frozen(m: usize, n: usize, k: usize) {
    let a = Matrix::new(numbers(m * k, 1), [m, k]);
    let rounded: Vec<f32> = numbers(n * k, 2).into_iter().map(|v| bf16::from_f32(v).to_f32()).collect();
    for (shape, transposed) in [([k, n], false), ([n, k], true)] {
        let (narrow, wide) = (Matrix::frozen(rounded.clone(), shape), Matrix::new(rounded.clone(), shape));
        assert!(narrow.view().is_bf16());
        let product_with = |factor: &Matrix| {
            let view = if transposed { factor.view().t() } else { factor.view() };
            let mut out = vec![0.0; m * n];
            product(&mut out, n, Into::Replace, 1.0, a.view(), view);
            out
        };
        assert_eq!(product_with(&narrow), product_with(&wide), "{m} x {n} x {k}, transposed: {transposed}");
        assert_eq!(narrow.into_buffer()[..], rounded[..], "every number of it");
    }
}

#[test]
fn a_frozen_factor_takes_half_the_memory_where_that_loses_nothing() {
    check_frozen(1, 50, 70); // One row.
    check_frozen(7, 50, 70); // Few rows.
    check_frozen(40, 50, 70); // One task.
    check_frozen(100, 500, 190); // Tasks; f32 is not turned.
    check_frozen(300, 500, 90); // Both are turned.
    check_frozen(1100, 130, 70);
    let almost = vec![1.0, 1.0 + f32::EPSILON];
    assert!(!Matrix::frozen(almost, [1, 2]).view().is_bf16(), "a number that bf16 does not hold stays as it is");
}

#[test]
#[should_panic(expected = "a product stays within its place")]
fn a_place_that_is_too_small_is_refused() {
    let one = [1.0; 4];
    let view = View::new(&one, [2, 2], [2, 1]);
    product(&mut [0.0; 3], 2, Into::Replace, 1.0, view, view);
}
