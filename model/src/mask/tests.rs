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
    assert_eq!(lengths.len(), rows);
    for (kind, key) in [(LayerKind::Global, "mask.full"), (LayerKind::Sliding, "mask.sliding")] {
        let expected = file.tensor(key).unwrap();
        for row in 0..lengths.len() {
            let seen = visibility.seen(kind, row);
            for (q, run) in seen.iter().enumerate() {
                for kv in 0..len {
                    let found = (run[0]..run[1]).contains(&(kv as u32));
                    let expected = expected.data()[(row * len + q) * len + kv] == 1;
                    assert_eq!(found, expected, "{name} {key}: row {row}, query {q}, key {kv}");
                }
            }
        }
    }
}

#[test]
fn who_sees_whom_equals_the_reference() {
    check("case_a", 700, 8);
    check("case_b", 700, 5); // Page blocks larger than the window, two in a row, padding.
}
