use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::Value;

use super::*;

fn fixture() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/order/order.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn number(v: &Value) -> usize {
    v.as_u64().unwrap() as usize
}

#[test]
fn the_reference_order_is_reproduced_on_any_number_of_ranks() {
    for case in fixture()["cases"].as_array().unwrap() {
        let [n, batch, world, seed, epoch] = ["n", "batch", "world", "seed", "epoch"].map(|k| number(&case[k]));
        let order = Order::new(n, seed as u64, Shuffle::Hf);
        let positions = order.epoch_len(batch, world);
        let n_batches = positions.div_ceil(batch);
        assert_eq!(n_batches.div_ceil(world), number(&case["rounds"]), "{n} {batch} {world}");
        for (rank, batches) in case["ranks"].as_array().unwrap().iter().enumerate() {
            for (round, rows) in batches.as_array().unwrap().iter().enumerate() {
                let first = (round * world + rank) * batch;
                let ours: Vec<usize> =
                    (first..(first + batch).min(positions)).map(|p| order.row(epoch as u64, p)).collect();
                let theirs: Vec<usize> = rows.as_array().unwrap().iter().map(number).collect();
                assert_eq!(ours, theirs, "n {n} batch {batch} world {world} seed {seed} epoch {epoch} rank {rank}");
            }
        }
    }
}

#[test]
fn the_permutation_of_the_whole_data_set_is_torchs() {
    let expected = &fixture()["randperm_1156110_seed42"];
    let ours: Vec<usize> = randperm(1_156_110, 42).iter().map(|&r| r as usize).collect();
    let list = |key: &str| expected[key].as_array().unwrap().iter().map(number).collect::<Vec<_>>();
    assert!(ours.starts_with(&list("first")));
    assert!(ours.ends_with(&list("last")));
}

#[test]
fn file_order_is_the_order_of_the_files() {
    let order = Order::new(5, 1, Shuffle::FileOrder);
    assert_eq!((0..7).map(|p| order.row(3, p)).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 0, 1]);
}

#[test]
fn every_row_is_equally_likely_at_every_position() {
    const N: usize = 20;
    const EPOCHS: u64 = 20_000;
    let order = Order::new(N, 42, Shuffle::Own);
    let mut counts = [[0_f64; N]; N];
    for epoch in 0..EPOCHS {
        for (position, count) in counts.iter_mut().enumerate() {
            count[order.row(epoch, position)] += 1.0;
        }
    }
    let expected = EPOCHS as f64 / N as f64;
    for (position, count) in counts.iter().enumerate() {
        let chi2: f64 = count.iter().map(|c| (c - expected).powi(2) / expected).sum();
        assert!(chi2 < 50.0, "position {position}: chi-square {chi2} with 19 degrees of freedom"); // p < 1.3e-4 each
    }
}

proptest! {
    #[test]
    fn an_epoch_holds_each_row_once(n in 1_usize..3000, seed: u64, epoch in 0_u64..1000, own: bool) {
        let order = Order::new(n, seed, if own { Shuffle::Own } else { Shuffle::Hf });
        let rows: BTreeSet<usize> = (0..order.epoch_len(4, 1)).map(|p| order.row(epoch, p)).collect();
        prop_assert_eq!(rows.len(), n);
        prop_assert!(rows.iter().all(|&r| r < n));
    }

    #[test]
    fn no_rank_count_or_batch_size_changes_the_projects_own_epoch(n in 1_usize..10_000, micro in 1_usize..9, ranks in 1_usize..17) {
        prop_assert_eq!(Order::new(n, 0, Shuffle::Own).epoch_len(micro, ranks), n);
        prop_assert_eq!(Order::new(n, 0, Shuffle::FileOrder).epoch_len(micro, ranks), n);
    }

    #[test]
    fn epochs_and_seeds_differ(n in 1000_usize..100_000, seed: u64, epoch in 0_u64..1000) {
        let rows = |seed, epoch| { let o = Order::new(n, seed, Shuffle::Own); (0..100).map(|p| o.row(epoch, p)).collect::<Vec<_>>() };
        prop_assert_ne!(rows(seed, epoch), rows(seed, epoch + 1));
        prop_assert_ne!(rows(seed, epoch), rows(seed.wrapping_add(1), epoch));
    }
}
