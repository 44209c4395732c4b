use super::*;

#[track_caller]
fn check(shape: &[usize], expected: [usize; 2], ok: bool) {
    assert_eq!(fits(shape, expected), ok, "{shape:?} for {expected:?}");
}

#[test]
fn a_tensor_fits_by_rows_and_count() {
    check(&[20], [1, 20], true);
    check(&[1, 20], [1, 20], true); // The position table of a page of one patch.
    check(&[6, 3, 14, 14], [6, 588], true);
    check(&[20, 6], [20, 6], true);
    check(&[6, 20], [20, 6], false); // The same count, transposed.
    check(&[120], [20, 6], false);
    check(&[20, 7], [20, 6], false);
    check(&[], [1, 20], false);
}
