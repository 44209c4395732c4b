use super::*;

/// Causal with a window, and everything.
fn rows() -> Vec<AttentionRow> {
    let windowed =
        |n: u32| AttentionRow { n_keys: n as usize, seen: (0..n).map(|i| [i.saturating_sub(3), i + 1]).collect() };
    vec![windowed(7), windowed(7), AttentionRow::full(20, 20), windowed(31), AttentionRow::full(1, 40)]
}

fn scores(cut: &Cut, heads: usize) -> usize {
    heads * cut.queries.len() * cut.keys.len() / cut.rows.len()
}

#[test]
fn no_block_has_more_scores_than_the_bound_and_no_key_that_a_query_sees_is_left_out() {
    let (rows, heads) = (rows(), 4);
    for max_scores in [1, 40, 200, 400, 1000, 100_000] {
        let cuts = cuts(&rows, heads, max_scores);
        let mut next = 0;
        for cut in &cuts {
            assert_eq!(cut.queries.start, next, "queries in order, each once");
            next = cut.queries.end;
            let one_query = cut.queries.len() == 1;
            assert!(scores(cut, heads) <= max_scores || one_query, "{cut:?} within {max_scores}");
        }
        assert_eq!(next, rows.iter().map(|row| row.seen.len()).sum::<usize>());
        let (mut query, mut key) = (0, 0);
        for row in &rows {
            for &[first, end] in &row.seen {
                let cut = cuts.iter().find(|cut| cut.queries.contains(&query)).unwrap();
                assert!(cut.keys.start <= key + first as usize && key + end as usize <= cut.keys.end, "{cut:?}");
                query += 1;
            }
            key += row.n_keys;
        }
    }
}

#[test]
fn keys_that_no_query_of_a_block_sees_are_not_multiplied() {
    let row = AttentionRow { n_keys: 100, seen: (0..100).map(|i: u32| [i.saturating_sub(9), i + 1]).collect() };
    let all: usize = cuts(&[row], 1, 1000).iter().map(|cut| scores(cut, 1)).sum();
    assert!(all < 100 * 100 / 4, "ten blocks of ten queries that see 19 keys at most: {all}");
}

#[test]
fn rows_without_queries_are_no_block() {
    let none = AttentionRow { n_keys: 8, seen: Vec::new() };
    let rows = [none.clone(), none, AttentionRow::full(2, 8)];
    assert_eq!(cuts(&rows, 2, 1 << 20), [Cut { rows: 2..3, queries: 0..2, keys: 16..24 }]);
}

#[test]
fn a_whole_batch_of_short_rows_is_one_block() {
    let rows = vec![AttentionRow::full(8, 8); 5];
    assert_eq!(cuts(&rows, 2, 1 << 20), [Cut { rows: 0..5, queries: 0..40, keys: 0..40 }]);
}
