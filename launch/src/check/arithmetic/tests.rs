use super::*;
use crate::check::finding::Level;

#[track_caller]
fn check_batch(micro: usize, ranks: usize, micro_batches: usize, expected: &str) {
    let finding = batch(micro, ranks, micro_batches);
    assert!(finding.what.contains(expected), "{}", finding.what);
    assert_eq!(finding.level == Level::Ok, micro_batches.is_multiple_of(ranks));
}

#[test]
fn a_batch_is_multiplied_out() {
    check_batch(4, 8, 48, "4 rows x 8 ranks x 6 micro-batches = 192 rows a step"); // The model card.
    check_batch(4, 1, 48, "4 rows x 1 ranks x 48 micro-batches = 192 rows a step");
    check_batch(4, 5, 48, "for 5 ranks: some take 10, some 9, and 4 % of their time is waiting");
}
