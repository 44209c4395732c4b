use super::*;

#[test]
fn a_size_shares_memory_with_those_a_little_smaller() {
    for n in [SMALL, SMALL + 1, 100_000, (1 << 20) + 1] {
        let class = class(n);
        assert!(n <= class && class <= n + n / 4, "{n} takes {class}");
        assert_eq!(super::class(class), class);
    }
}

#[test]
fn memory_is_used_again_and_never_more_held_than_was_in_use() {
    let mut pool = Pool { free: BTreeMap::new(), in_use: 0, most_in_use: 0, held: 0 };
    let sizes = [class(5000), class(9000)];
    assert!(sizes.iter().all(|&n| pool.take(n).is_none()));
    sizes.iter().for_each(|&n| pool.give(vec![0.0; n]));
    assert_eq!(pool.held, sizes.iter().sum::<usize>());
    assert!(pool.take(sizes[1]).is_some(), "what was given back");
    let other = class(20_000);
    assert!(pool.take(other).is_none());
    assert!(pool.in_use + pool.held <= pool.most_in_use, "the rest made room");
}
