use safetensors::SafeTensors;

use super::*;

fn integers(file: &SafeTensors, name: &str) -> Vec<i64> {
    file.tensor(name).unwrap().data().chunks(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect()
}

/// Compares what a query that is not padding sees.
fn check(name: &str, image_token: u32, window: usize) {
    let path = format!("{}/../tests/fixtures/{name}/forward.safetensors", env!("CARGO_MANIFEST_DIR"));
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let [rows, len] = file.tensor("input_ids").unwrap().shape()[..] else { panic!("a matrix") };
    let ids: Vec<u32> = integers(&file, "input_ids").iter().map(|&id| id as u32).collect();
    let lengths: Vec<usize> =
        integers(&file, "attention_mask").chunks(len).map(|row| row.iter().sum::<i64>() as usize).collect();
    let visibility = Visibility::new(&ids, &lengths, image_token, window);
    for (kind, key) in [(LayerKind::Global, "mask.full"), (LayerKind::Sliding, "mask.sliding")] {
        let expected = file.tensor(key).unwrap();
        let (found, shape) = visibility.allowed(kind, len);
        assert_eq!(shape, [rows, len, len]);
        for (i, (&found, &expected)) in found.iter().zip(expected.data()).enumerate() {
            let (row, q, kv) = (i / (len * len), i / len % len, i % len);
            assert!(q >= lengths[row] || found == (expected == 1), "{name} {key}: row {row}, query {q}, key {kv}");
        }
        let (last, _) = visibility.allowed(kind, 1);
        let of_last: Vec<bool> = found.chunks(len).skip(len - 1).step_by(len).flatten().copied().collect();
        assert_eq!(last, of_last, "the newest position alone sees what it sees among all");
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
    assert_eq!(visibility.allowed(LayerKind::Global, 1).0, [true; 5]);
    assert_eq!(visibility.allowed(LayerKind::Sliding, 1).0, [false, false, true, true, true]);
}
