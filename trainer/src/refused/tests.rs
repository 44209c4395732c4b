use super::*;

#[test]
fn the_odd_ones_out_are_named_and_all_where_there_is_no_majority() {
    #[track_caller]
    fn check(digests: &[u8], expected: &[usize]) {
        let digests: Vec<Vec<u8>> = digests.iter().map(|&digest| vec![digest]).collect();
        assert_eq!(suspects(&digests), expected);
    }
    check(&[1], &[]);
    check(&[1, 1, 1], &[]);
    check(&[1, 2, 1], &[1]);
    check(&[2, 1, 1], &[0]);
    check(&[1, 2], &[0, 1]);
    check(&[1, 1, 2, 2], &[0, 1, 2, 3]);
    check(&[1, 2, 3], &[0, 1, 2]);
    check(&[1, 1, 1, 2, 3], &[3, 4]);
}

#[test]
fn rows_are_named_in_order_and_within_bounds() {
    let mut refused = Refused::default();
    refused.add(7, &["late".to_owned()]);
    refused.add(2, &["é".repeat(1000), "early".to_owned()]);
    let rows = refused.of_all(&mut Ranks::alone()).unwrap();
    assert_eq!(rows, ["é".repeat(128), "early".to_owned(), "late".to_owned()]);
    for micro_batch in 0..100 {
        refused.add(micro_batch, &["a".to_owned(), "b".to_owned()]);
    }
    assert_eq!(refused.of_all(&mut Ranks::alone()).unwrap().len(), MAX_ROWS);
}
