use super::*;

fn numbers(n: usize, seed: u32) -> Vec<f32> {
    (0..n as u32)
        .map(|i| (i.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 8) as f32 / (1 << 23) as f32 - 1.0)
        .collect()
}

/// `before + a w^T + 0.5 h b^T` in f64 against the kernel, of all rows together and one by one.
fn check(m: usize, n: usize, k: usize, r: usize) {
    let [a, w, h, b] = [(m * k, 1), (n * k, 2), (m * r, 3), (n * r, 4)].map(|(len, seed)| numbers(len, seed));
    let row_stride = n + 3;
    let before = numbers(m * row_stride, 5);
    let product = |rows: std::ops::Range<usize>, out: &mut [f32]| {
        let of = |x, k: usize| View::new(x, [rows.len(), k], [k, 1]);
        let terms = [
            Term { factor: 1.0, a: of(&a[rows.start * k..rows.end * k], k), b: View::new(&w, [n, k], [k, 1]).t() },
            Term { factor: 0.5, a: of(&h[rows.start * r..rows.end * r], r), b: View::new(&b, [n, r], [r, 1]).t() },
        ];
        assert!(are_few(&terms));
        sum_of_products(out, row_stride, Into::Add, &terms);
    };
    let mut together = before.clone();
    product(0..m, &mut together);
    let mut alone = before.clone();
    alone.chunks_mut(row_stride).enumerate().for_each(|(row, out)| product(row..row + 1, out));
    assert_eq!(together, alone, "{m} x {n} x {k}: other rows change the bits of a row");
    for (at, found) in together.iter().enumerate() {
        let (row, column) = (at / row_stride, at % row_stride);
        let dot = |x: &[f32], w: &[f32], k: usize| -> f64 {
            (0..k).map(|p| f64::from(x[row * k + p]) * f64::from(w[column * k + p])).sum()
        };
        let sum = if column < n { dot(&a, &w, k) + 0.5 * dot(&h, &b, r) } else { 0.0 };
        let off = (f64::from(*found) - f64::from(before[at]) - sum).abs();
        assert!(off < 1e-5 * k as f64, "{m} x {n} x {k} at {row}, {column}: off by {off:e}");
    }
}

#[test]
fn a_row_has_its_numbers_whatever_rows_are_beside_it() {
    check(1, 1, 1, 1);
    check(1, 700, 513, 4); // Several tasks.
    check(3, 33, 64, 5);
    check(FEW, 130, 100, 32);
    check(7, 9, 15, 16); // Shorter than the lanes.
}
