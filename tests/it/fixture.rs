//! The reference's outputs as numbers.

use std::collections::BTreeMap;
use std::path::PathBuf;

use safetensors::{Dtype, SafeTensors};

/// A file or folder of `tests/fixtures`.
pub fn path(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures")).join(name)
}

/// One fixture tensor: its shape and its numbers as f64 (exact for every dtype used).
#[derive(Clone, Debug)]
pub struct Tensor {
    pub shape: Vec<usize>,
    pub data: Vec<f64>,
}

impl Tensor {
    pub fn f32(&self) -> Vec<f32> {
        self.data.iter().map(|&v| v as f32).collect()
    }

    pub fn ids(&self) -> Vec<u32> {
        self.data.iter().map(|&v| v as u32).collect()
    }

    pub fn i64(&self) -> Vec<i64> {
        self.data.iter().map(|&v| v as i64).collect()
    }
}

/// All tensors of a safetensors file.
pub struct Tensors(BTreeMap<String, Tensor>);

impl Tensors {
    pub fn open(name: &str) -> Self {
        let bytes = std::fs::read(path(name)).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        Self(file.iter().map(|(name, view)| (name.into(), decode(view.dtype(), view.shape(), view.data()))).collect())
    }

    pub fn get(&self, name: &str) -> &Tensor {
        self.0.get(name).unwrap_or_else(|| panic!("the fixture has no {name}"))
    }

    pub fn f32(&self, name: &str) -> Vec<f32> {
        self.get(name).f32()
    }
}

fn decode(dtype: Dtype, shape: &[usize], bytes: &[u8]) -> Tensor {
    let four = |b: &[u8]| [b[0], b[1], b[2], b[3]];
    let data = match dtype {
        Dtype::F32 => bytes.chunks(4).map(|b| f64::from(f32::from_le_bytes(four(b)))).collect(),
        Dtype::BF16 => bytes.chunks(2).map(|b| f64::from(f32::from_le_bytes([0, 0, b[0], b[1]]))).collect(),
        Dtype::I64 => bytes.chunks(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f64).collect(),
        Dtype::U8 => bytes.iter().map(|&b| f64::from(b)).collect(),
        other => panic!("fixtures hold no {other:?}"),
    };
    Tensor { shape: shape.to_vec(), data }
}

/// Largest absolute difference.
pub fn max_diff(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len(), "lengths");
    found.iter().zip(expected).map(|(&f, &e)| (f64::from(f) - e).abs()).fold(0.0, f64::max)
}

/// Asserts `|found - expected| <= tolerance` everywhere.
#[track_caller]
pub fn check(what: &str, found: &[f32], expected: &Tensor, tolerance: f64) {
    let diff = max_diff(found, &expected.data);
    assert!(diff <= tolerance, "{what}: differs by {diff:e}, more than {tolerance:e}");
}

/// Asserts that the difference is at most `tolerance` of the largest expected number.
#[track_caller]
pub fn check_relative(what: &str, found: &[f32], expected: &Tensor, tolerance: f64) {
    let largest = expected.data.iter().fold(0.0_f64, |a, &b| a.max(b.abs()));
    let diff = max_diff(found, &expected.data);
    assert!(diff <= tolerance * largest, "{what}: differs by {diff:e} of {largest:e}, more than {tolerance:e}");
}
