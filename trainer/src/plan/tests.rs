use proptest::prelude::*;

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

/// What a run is made of, as far as its rows go.
#[derive(Clone, Debug)]
struct Shape {
    n_rows: usize,
    micro: usize,
    /// Micro-batches a step.
    accumulation: usize,
    epochs: u64,
    seed: u64,
    shuffle: &'static str,
    /// Rows a page, and how many of them stand together.
    by_page: Option<(usize, usize)>,
    by_length: bool,
    replay_ranks: u32,
}

impl Shape {
    fn plan(&self) -> Plan {
        let config = config(&[
            &format!("seed={}", self.seed),
            &format!("data.shuffle={}", self.shuffle),
            &format!("train.micro_batch_size={}", self.micro),
            &format!("train.global_batch_size={}", self.micro * self.accumulation),
            &format!("train.epochs={}.0", self.epochs),
        ]);
        let mut train = config.train.clone();
        (train.max_steps, train.epochs) = (None, Some(self.epochs as f64));
        let mut data = config.data.clone();
        data.replay_ranks = Some(self.replay_ranks).filter(|&ranks| ranks > 1 && self.shuffle == "hf");
        let mut plan = Plan::new(&Config { train, data, ..config }, self.n_rows);
        if let Some((each, most)) = self.by_page.filter(|_| self.shuffle == "true") {
            plan = plan.by_page(self.seed, Pages::new(&pages(self.n_rows, each)), most);
        }
        if self.by_length {
            plan = plan.by_length((0..self.n_rows as u32).map(|row| row * 7919 % 101).collect());
        }
        plan
    }

    /// How often accelerate's filling makes an epoch longer than its rows.
    fn filled(&self, plan: &Plan) -> usize {
        plan.epoch_len - self.n_rows
    }
}

fn shapes() -> impl Strategy<Value = Shape> {
    let sizes = (1_usize..90, 1_usize..6, 1_usize..7, 1_u64..4, 0_u64..1000);
    let modes = (
        prop::sample::select(vec!["true", "false", "hf"]),
        prop::option::of((1_usize..7, 1_usize..5)),
        any::<bool>(),
        1_u32..4,
    );
    (sizes, modes).prop_map(
        |((n_rows, micro, accumulation, epochs, seed), (shuffle, by_page, by_length, replay_ranks))| Shape {
            n_rows,
            micro,
            accumulation,
            epochs,
            seed,
            shuffle,
            by_page,
            by_length,
            replay_ranks,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// The law of a run's rows. However many ranks there are, wherever they stop, and whatever number goes on: each epoch
    /// holds every row once (but for accelerate's filling), and the ranks together take exactly the micro-batches of each
    /// step, in its order.
    #[test]
    fn no_row_is_lost_or_doubled_whoever_stops_and_goes_on(
        shape in shapes(), stops in prop::collection::vec((0_u64..400, 1_usize..9), 0..4), last_ranks in 1_usize..9,
    ) {
        let plan = shape.plan();
        let total = plan.total_steps();
        let mut segments: Vec<(u64, usize)> = stops.iter().map(|&(at, ranks)| (at % (total + 1), ranks)).collect();
        segments.push((total, last_ranks));
        segments.sort_unstable();
        let (mut seen, mut from) = (Vec::new(), 0);
        for (until, ranks) in segments {
            // A new start knows nothing but the config, the rows and the step.
            let mut shares: Vec<_> = (0..ranks).map(|rank| shape.plan().share(from, rank, ranks)).collect();
            for step in from..until {
                let n_micro = plan.step(step).micro_batches.len();
                seen.extend((0..n_micro).map(|nth| shares[nth % ranks].next().expect("a micro-batch of this step")));
            }
            if until == total {
                prop_assert!(shares.iter_mut().all(|share| share.next().is_none()), "nothing is left at the end");
            }
            from = until;
        }
        let alone: Vec<MicroPlan> = plan.clone().share(0, 0, 1).collect();
        prop_assert_eq!(&seen, &alone);
        for (epoch, steps) in (0..total).collect::<Vec<_>>().chunks(plan.steps_per_epoch() as usize).enumerate() {
            let steps: Vec<StepPlan> = steps.iter().map(|&step| plan.step(step)).collect();
            let mut next = epoch as u64 * plan.epoch_len as u64;
            for step in &steps {
                prop_assert_eq!((step.epoch, step.first_position), (epoch as u64, next), "no position is left out");
                let sizes: Vec<usize> = step.micro_batches.iter().map(|micro| micro.rows.len()).collect();
                prop_assert!(sizes.split_last().is_some_and(|(_, full)| full.iter().all(|&n| n == shape.micro)));
                prop_assert!(sizes.iter().all(|n| (1..=shape.micro).contains(n)), "{:?}", sizes);
                next += sizes.iter().sum::<usize>() as u64;
                prop_assert_eq!(step.last_position + 1, next);
            }
            let mut rows: Vec<usize> = steps.iter().flat_map(|s| &s.micro_batches).flat_map(|m| m.rows.clone()).collect();
            rows.sort_unstable();
            prop_assert_eq!(rows.len(), shape.n_rows + shape.filled(&plan));
            rows.dedup();
            prop_assert_eq!(rows, (0..shape.n_rows).collect::<Vec<_>>(), "epoch {}", epoch);
        }
    }
}
