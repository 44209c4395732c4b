use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::{Order, Shuffle};

/// How many micro-batches the units of one page take more than they need, over all pages.
fn cuts(order: &[u32], keys: &[u64], most: usize, micro: usize) -> usize {
    let mut shown: BTreeMap<u64, BTreeSet<usize>> = BTreeMap::new();
    let mut rows: BTreeMap<u64, usize> = BTreeMap::new();
    for (at, &row) in order.iter().enumerate() {
        shown.entry(keys[row as usize]).or_default().insert(at / micro);
        *rows.entry(keys[row as usize]).or_default() += 1;
    }
    shown.iter().map(|(key, batches)| batches.len().saturating_sub(rows[key].div_ceil(most))).sum()
}

proptest! {
    #[test]
    fn an_epoch_holds_each_row_once(
        keys in prop::collection::vec(0_u64..40, 1..400), seed: u64, epoch in 0_u64..50, most in 1_usize..6, micro in 1_usize..9,
    ) {
        let order = Pages::new(&keys).order(seed, epoch, most, micro);
        prop_assert_eq!(order.len(), keys.len());
        prop_assert_eq!(order.iter().collect::<BTreeSet<_>>().len(), keys.len());
    }

    #[test]
    fn packing_keeps_every_row(sizes in prop::collection::vec(1_usize..7, 0..100), micro in 1_usize..9) {
        let rows: Vec<u32> = (0..sizes.iter().sum::<usize>() as u32).collect();
        let mut rest = &rows[..];
        let units: Vec<&[u32]> = sizes.iter().map(|&size| { let (unit, after) = rest.split_at(size); rest = after; unit }).collect();
        let mut packed = pack(units.into_iter(), micro);
        packed.sort_unstable();
        prop_assert_eq!(packed, rows);
    }

    #[test]
    fn pages_with_as_many_rows_as_a_unit_are_never_cut(n_pages in 1_u64..60, k in 1_usize..5, units in 1_usize..4, seed: u64) {
        let keys: Vec<u64> = (0..n_pages * k as u64).map(|row| row % n_pages).collect();
        let order = Pages::new(&keys).order(seed, 3, k, k * units);
        prop_assert_eq!(cuts(&order, &keys, k, k * units), 0);
    }
}

#[test]
fn few_units_are_cut_where_pages_have_any_number_of_rows() {
    let keys: Vec<u64> = (0..20_000).map(|row| mix(row) % 5_000).collect();
    let order = Pages::new(&keys).order(7, 0, 2, 4);
    let cut = cuts(&order, &keys, 2, 4);
    assert!(cut < 100, "{cut} of some 8000 units are in two micro-batches");
}

#[test]
fn epochs_and_seeds_bring_other_rows_together() {
    let keys: Vec<u64> = (0..1000).map(|row| row / 10).collect();
    let pages = Pages::new(&keys);
    let pairs = |seed, epoch| -> BTreeSet<Vec<u32>> {
        let order = pages.order(seed, epoch, 2, 2);
        order
            .chunks(2)
            .map(|pair| {
                let mut pair = pair.to_vec();
                pair.sort_unstable();
                pair
            })
            .collect()
    };
    let first = pairs(1, 0);
    assert_eq!(first, pairs(1, 0));
    for other in [pairs(1, 1), pairs(2, 0)] {
        assert!(first.intersection(&other).count() < 250, "most pairs of 500 are new");
    }
}

#[test]
fn the_order_of_a_run_is_grouped_when_it_knows_pages() {
    let keys: Vec<u64> = (0..100).map(|row| row / 4).collect();
    let order = Order::new(100, 5, Shuffle::Own).by_page(Pages::new(&keys), 4, 8);
    for epoch in [0, 1, 0] {
        let rows: Vec<usize> = (0..100).map(|at| order.row(epoch, at)).collect();
        assert!(rows.chunks(4).all(|unit| unit.iter().all(|row| row / 4 == unit[0] / 4)), "{rows:?}");
        assert_eq!(rows.iter().collect::<BTreeSet<_>>().len(), 100);
    }
}

/// The data set's real size: 1.2 million rows. Not a timed test; it would show an order that is not nearly linear.
#[test]
fn a_data_set_of_full_size_is_grouped() {
    let keys: Vec<u64> = (0..1_200_000).map(|row| mix(row) % 300_000).collect();
    let order = Pages::new(&keys).order(1, 0, 4, 4);
    assert_eq!(order.len(), keys.len());
}
