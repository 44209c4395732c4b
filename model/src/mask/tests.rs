use safetensors::SafeTensors;

use super::*;

fn integers(file: &SafeTensors, name: &str) -> Vec<i64> {
    file.tensor(name).unwrap().data().chunks(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect()
}

/// Compares what a query sees; the fixture's padding is left out.
fn check(name: &str, image_token: u32, window: usize) {
    let path = format!("{}/../tests/fixtures/{name}/forward.safetensors", env!("CARGO_MANIFEST_DIR"));
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let [rows, len] = file.tensor("input_ids").unwrap().shape()[..] else { panic!("a matrix") };
    let ids: Vec<u32> = integers(&file, "input_ids").iter().map(|&id| id as u32).collect();
    let lengths: Vec<usize> =
        integers(&file, "attention_mask").chunks(len).map(|row| row.iter().sum::<i64>() as usize).collect();
    let packed: Vec<u32> = ids.chunks(len).zip(&lengths).flat_map(|(row, &length)| row[..length].to_vec()).collect();
    let visibility = Visibility::new(&packed, &lengths, image_token, window);
    assert_eq!((visibility.lengths().collect::<Vec<_>>(), lengths.len()), (lengths.clone(), rows));
    for (kind, key) in [(LayerKind::Global, "mask.full"), (LayerKind::Sliding, "mask.sliding")] {
        let expected = file.tensor(key).unwrap();
        for (row, &length) in lengths.iter().enumerate() {
            let seen = visibility.seen(kind, row, length);
            for (q, run) in seen.iter().enumerate() {
                for kv in 0..len {
                    let found = (run[0]..run[1]).contains(&(kv as u32));
                    let expected = expected.data()[(row * len + q) * len + kv] == 1;
                    assert_eq!(found, expected, "{name} {key}: row {row}, query {q}, key {kv}");
                }
            }
            assert_eq!(visibility.seen(kind, row, 1), seen[length - 1..], "the newest sees what it sees among all");
        }
    }
}

#[test]
fn who_sees_whom_equals_the_reference() {
    check("case_a", 700, 8);
    check("case_b", 700, 5); // Page blocks larger than the window, two in a row, padding.
}

#[test]
fn a_generated_token_is_text_and_sees_what_its_kind_may() {
    let mut visibility = Visibility::new(&[1, 9, 9, 2], &[4], 9, 3);
    visibility.push_text();
    assert_eq!(visibility.seen(LayerKind::Global, 0, 2), [[0, 4], [0, 5]]);
    assert_eq!(visibility.seen(LayerKind::Sliding, 0, 2), [[1, 4], [2, 5]]);
}
