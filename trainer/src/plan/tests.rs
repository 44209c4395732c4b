use super::*;

fn config(changes: &[&str]) -> Config {
    let text = include_str!("../../../configs/tiny.toml");
    let changes: Vec<String> = changes.iter().map(|&change| change.into()).collect();
    Config::parse("tiny.toml", text, &changes).unwrap()
}

fn plan(n_rows: usize, global: usize, micro: usize, epochs: f64) -> Plan {
    let config = config(&[
        &format!("train.global_batch_size={global}"),
        &format!("train.micro_batch_size={micro}"),
        &format!("train.epochs={epochs:?}"),
    ]);
    let mut train = config.train.clone();
    train.max_steps = None;
    train.epochs = Some(epochs);
    Plan::new(&Config { train, ..config }, n_rows)
}

#[test]
fn an_epoch_holds_each_row_once_and_its_last_step_is_shorter() {
    let plan = plan(113, 12, 4, 2.0);
    assert_eq!((plan.steps_per_epoch(), plan.total_steps()), (10, 20));
    for epoch in 0..2 {
        let steps: Vec<StepPlan> = (epoch * 10..(epoch + 1) * 10).map(|step| plan.step(step)).collect();
        let rows = steps.iter().flat_map(|step| &step.micro_batches).flat_map(|micro| &micro.rows);
        let mut rows: Vec<usize> = rows.copied().collect();
        rows.sort_unstable();
        assert_eq!(rows, (0..113).collect::<Vec<_>>(), "epoch {epoch}");
        assert_eq!(steps[9].micro_batches.iter().map(|m| m.rows.len()).collect::<Vec<_>>(), [4, 1]);
        assert_eq!((steps[0].first_position, steps[9].last_position), (epoch * 113, epoch * 113 + 112));
    }
}

#[test]
fn ranks_take_the_same_micro_batches_whatever_their_number() {
    let plan = plan(113, 12, 4, 1.0);
    let alone: Vec<MicroPlan> = plan.clone().share(0, 0, 1).collect();
    for world_size in [2, 3, 5] {
        let mut shares: Vec<_> = (0..world_size).map(|rank| plan.clone().share(0, rank, world_size)).collect();
        let mut together = Vec::new();
        for step in 0..plan.total_steps() {
            for micro in 0..plan.step(step).micro_batches.len() {
                together.push(shares[micro % world_size].next().unwrap());
            }
        }
        assert_eq!(together, alone, "{world_size} ranks");
    }
    let resumed: Vec<MicroPlan> = plan.clone().share(4, 0, 1).collect();
    assert_eq!(resumed, alone[12..], "a resumed run goes on where it was");
}

/// The reference's ranks take whole batches in turn: batch `g` goes to rank `g % world`. A step of ours holds the same
/// batches, in the order of `g`, on any number of ranks.
#[test]
fn hf_order_replays_what_every_rank_of_the_reference_saw() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/order/order.json");
    let order: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let mut compared = 0;
    for case in order["cases"].as_array().unwrap() {
        let number = |key: &str| case[key].as_u64().unwrap();
        let (n, batch, world, epoch) = (number("n"), number("batch"), number("world"), number("epoch"));
        let replayed = config(&[
            &format!("seed={}", number("seed")),
            "data.shuffle=hf",
            &format!("data.replay_ranks={world}"),
            &format!("train.micro_batch_size={batch}"),
            &format!("train.global_batch_size={}", 3 * batch * world),
            "train.epochs=9.0",
        ]);
        let plan = Plan::new(&replayed, n as usize);
        let steps = epoch * plan.steps_per_epoch()..(epoch + 1) * plan.steps_per_epoch();
        let found: Vec<MicroPlan> = steps.flat_map(|step| plan.step(step).micro_batches).collect();
        for (rank, batches) in case["ranks"].as_array().unwrap().iter().enumerate() {
            for (round, rows) in batches.as_array().unwrap().iter().enumerate() {
                let expected: Vec<usize> =
                    rows.as_array().unwrap().iter().map(|r| r.as_u64().unwrap() as usize).collect();
                assert_eq!(
                    found[round * world as usize + rank].rows,
                    expected,
                    "{n} rows, {world} ranks, round {round}"
                );
                compared += 1;
            }
        }
    }
    assert!(compared > 100);
}

/// Rows of every step, sorted, and the micro-batches of each.
fn steps(plan: &Plan) -> Vec<(Vec<usize>, Vec<Vec<usize>>)> {
    let step = |step| {
        let micro: Vec<Vec<usize>> = plan.step(step).micro_batches.into_iter().map(|micro| micro.rows).collect();
        let mut rows = micro.concat();
        rows.sort_unstable();
        (rows, micro)
    };
    (0..plan.total_steps()).map(step).collect()
}

#[test]
fn grouping_by_length_leaves_each_step_its_rows() {
    let text_bytes: Vec<u32> = (0..113).map(|row| row * 7919 % 100).collect();
    for plan in [plan(113, 12, 4, 2.0), plan(113, 12, 4, 2.0).by_page(42, Pages::new(&pages(113, 4)), 2)] {
        let grouped = plan.clone().by_length(text_bytes.clone());
        let (before, after) = (steps(&plan), steps(&grouped));
        let spread = |steps: &[(Vec<usize>, Vec<Vec<usize>>)]| -> u32 {
            let of = |rows: &Vec<usize>| {
                let lengths = || rows.iter().map(|&row| text_bytes[row]);
                lengths().max().unwrap() - lengths().min().unwrap()
            };
            steps.iter().flat_map(|(_, micro)| micro).map(of).sum()
        };
        assert!(before.iter().zip(&after).all(|(a, b)| a.0 == b.0), "the same rows in each step");
        let alone = plan.order.pages().is_none(); // Rows of a page stay together, whatever their lengths.
        assert!(!alone || spread(&after) < spread(&before) / 10 * 6, "{} for {}", spread(&after), spread(&before));
        assert_eq!(grouped.step(3), grouped.clone().step(3));
    }
}

/// The page of each row, some `each` rows a page.
fn pages(n_rows: usize, each: usize) -> Vec<usize> {
    (0..n_rows).map(|row| row * 31 % n_rows.div_ceil(each)).collect()
}

#[test]
fn grouping_by_page_brings_rows_of_a_page_together_and_loses_none() {
    let keys = pages(96, 4);
    let plan = plan(96, 12, 4, 2.0).by_page(42, Pages::new(&keys), 2);
    for epoch in steps(&plan).chunks(8) {
        let mut rows: Vec<usize> = epoch.iter().flat_map(|(rows, _)| rows.clone()).collect();
        rows.sort_unstable();
        assert_eq!(rows, (0..96).collect::<Vec<_>>());
        for micro in epoch.iter().flat_map(|(_, micro)| micro) {
            let shown: std::collections::BTreeSet<usize> = micro.iter().map(|&row| keys[row]).collect();
            assert!(shown.len() <= 2, "four rows are two pairs: {micro:?}");
        }
    }
}
