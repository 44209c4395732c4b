//! How long the run will take, where a speed is known: given, or measured by the steps it has made.

use std::time::Duration;

use trainer::journal;

use super::{Finding, Subject};
use crate::progress::clock;

/// Steps whose speed is looked at: the newest.
const N_STEPS: usize = 20;

/// Steps that are left, at that speed.
pub(super) fn check(subject: &mut Subject) -> Vec<Finding> {
    let (Some(config), Some(steps)) = (&subject.config, subject.steps_left) else { return Vec::new() };
    let journal = journal::read(&config.output_dir.join("journal.jsonl")).unwrap_or_default();
    let mut speeds: Vec<f64> = journal.iter().rev().take(N_STEPS).map(|line| line.rows_per_second).collect();
    speeds.sort_by(f64::total_cmp);
    let (speed, of) = match (subject.args.rows_per_second, speeds.get(speeds.len() / 2)) {
        (Some(given), _) => (given, "as given".to_owned()),
        (None, Some(&median)) => (median, format!("the median of its last {} steps", speeds.len())),
        (None, None) => return Vec::new(),
    };
    if !(speed > 0.0 && speed.is_finite()) {
        return Vec::new();
    }
    let rows = steps * config.train.global_batch_size as u64;
    let time = clock(Duration::from_secs_f64(rows as f64 / speed));
    vec![Finding::ok(format!(
        "{steps} steps of {} rows take {time} at {speed:.2} rows/s, {of}",
        config.train.global_batch_size
    ))]
}
