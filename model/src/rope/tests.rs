use safetensors::SafeTensors;

use super::*;
use crate::engine::{Cpu, Precision};

fn numbers(file: &SafeTensors, name: &str) -> Vec<f32> {
    let bytes = file.tensor(name).unwrap().data();
    bytes.chunks(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// Frequencies to one rounding of f32 (the power function is another); at position 2047 that turns an angle by up to
/// 2047 * 1.2e-7 radians.
#[test]
fn tables_at_the_real_sizes_equal_the_reference() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/ops/ops.safetensors");
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let ops = Cpu::new(Precision::F32);
    let positions = [0, 1, 2, 7, 64, 255, 511, 1023, 1024, 2047];
    for (kind, theta, factor) in [("local", 1e4, 1.0), ("global", 1e6, 8.0)] {
        let expected = numbers(&file, &format!("rope.{kind}.inv_freq"));
        for (found, expected) in inverse_frequencies(256, theta, factor).iter().zip(&expected) {
            assert!((found / expected - 1.0).abs() <= 2.4e-7, "{kind}: {found} for {expected}");
        }
        let rope = Rope::new(&ops, &positions, 256, theta, factor);
        for (name, table) in [("cos", &rope.cos), ("sin", &rope.sin)] {
            let expected = numbers(&file, &format!("rope.{kind}.{name}")); // [10, 256]: both halves alike.
            let found = ops.download(table);
            let diff = |(i, f): (usize, &f32)| (f - expected[i / 128 * 256 + i % 128]).abs();
            let largest = found.iter().enumerate().map(diff).fold(0.0, f32::max);
            assert!(largest <= 5e-4, "{kind} {name}: differs by {largest:e}");
        }
    }
}
