//! The run in numbers: how rows become steps, and steps a schedule. Nothing here is configured; all of it follows.

use trainer::plan::Plan;

use super::{Finding, Subject};

/// Micro-batches a rank, steps, warm-up, epochs.
pub(super) fn check(subject: &mut Subject) -> Vec<Finding> {
    let Some(config) = &subject.config else { return Vec::new() };
    let train = &config.train;
    let ranks = subject.n_ranks();
    if let Err(error) = train.require_work_for(ranks) {
        return vec![Finding::error(trainer::Error::from(error))];
    }
    let mut found = vec![batch(train.micro_batch_size, ranks, train.micro_batches())];
    let Some(rows) = &subject.rows else { return found };
    let plan = Plan::new(config, rows.len());
    let (steps, per_epoch) = (plan.total_steps(), plan.steps_per_epoch());
    let warm_up = train.schedule(steps).warmup_steps;
    let epochs = steps as f64 / per_epoch as f64;
    found.push(Finding::ok(format!(
        "{} rows / {} a step = {per_epoch} steps an epoch; {steps} steps in all = {epochs:.2} epochs",
        rows.len(),
        train.global_batch_size
    )));
    let peak = train.learning_rate;
    found.push(Finding::ok(format!("{warm_up} steps of warm-up to a learning rate of {peak:e}")));
    if warm_up >= steps {
        found.push(
            Finding::warning(
                format!("the warm-up of {warm_up} steps outlasts the run of {steps}"),
                "train longer or warm up less",
            )
            .at("train.warmup_steps"),
        );
    }
    found.extend(config.data.eval_every.map(|every| evaluations(steps, every, config.data.eval_rows)));
    subject.steps_left = Some(steps.saturating_sub(subject.begun));
    found
}

fn evaluations(steps: u64, every: u64, eval_rows: Option<u64>) -> Finding {
    let rows = eval_rows.map_or("all rows of data.eval".to_owned(), |n| format!("at most {n} rows of data.eval"));
    Finding::ok(format!("{} evaluations of {rows}: every {every} steps and after the last", steps.div_ceil(every)))
}

/// `micro x ranks x accumulation = global`, or the shares where they are uneven.
fn batch(micro: usize, ranks: usize, micro_batches: usize) -> Finding {
    let global = micro * micro_batches;
    let most = micro_batches.div_ceil(ranks);
    if micro_batches.is_multiple_of(ranks) {
        return Finding::ok(format!("{micro} rows x {ranks} ranks x {most} micro-batches = {global} rows a step"));
    }
    let idle = 1.0 - micro_batches as f64 / (ranks * most) as f64;
    Finding::warning(
        format!(
            "{global} rows a step are {micro_batches} micro-batches of {micro} for {ranks} ranks: some take {most}, some {}, and {:.0} % of their time is waiting",
            most - 1,
            idle * 100.0
        ),
        format!("the numbers are the same; for speed use a number of ranks that divides {micro_batches}"),
    )
}

#[cfg(test)]
mod tests;
