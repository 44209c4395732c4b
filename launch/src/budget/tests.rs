use super::*;

/// Whether the run goes on after each attempt, of which the last step it made is given.
#[track_caller]
fn check(max_restarts: Option<u32>, last_steps: &[u64], goes_on: &[bool]) {
    let mut budget = Budget::new(max_restarts);
    let found: Vec<bool> =
        last_steps.iter().map(|&step| matches!(budget.judge(0, step, "x"), Next::Restart(_))).collect();
    assert_eq!(found, goes_on, "{max_restarts:?} {last_steps:?}");
}

#[test]
fn a_run_may_begin_again_as_long_as_it_gets_on() {
    check(None, &[1, 2, 3, 4, 5, 6, 7, 8], &[true; 8]);
    check(None, &[5, 5, 4, 5], &[true, true, true, false]);
    check(None, &[5, 5, 5, 6, 6, 6, 6], &[true, true, true, true, true, true, false]);
    check(None, &[0, 0, 0, 0], &[true, true, true, false]);
}

#[test]
fn a_number_of_restarts_is_kept_to() {
    check(Some(0), &[5], &[false]);
    check(Some(2), &[1, 2, 3], &[true, true, false]);
    check(Some(9), &[0, 0, 0, 0], &[true, true, true, false]);
}

#[test]
fn pauses_grow_without_progress() {
    let mut budget = Budget::new(None);
    let mut delay = |step| match budget.judge(0, step, "x") {
        Next::Restart(delay) => delay.as_millis(),
        Next::GiveUp(_) => 0,
    };
    assert_eq!([delay(3), delay(3), delay(3), delay(4)], [250, 1000, 4000, 250]);
}

#[test]
fn what_happened_is_a_table() {
    let mut budget = Budget::new(None);
    let _ = budget.judge(0, 12, "rank 1 was lost\nmore");
    let _ = budget.judge(9, 12, "rank 0 was lost");
    let expected = "  attempt      steps  ended because\n        0       0-12  rank 1 was lost\n        1       9-12  rank 0 was lost";
    assert_eq!(budget.table(), expected);
}
