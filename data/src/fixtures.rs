//! Where tests find what the reference made (always there) and the real rows beside the repository (perhaps not there).
//! It is never part of the library.

use std::path::{Path, PathBuf};

use serde_json::Value;

pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures")).join(name)
}

pub(crate) fn json(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(path(name)).unwrap()).unwrap()
}

/// A part of the real mini data set; where it is absent the test says that it was skipped.
pub(crate) fn mini(name: &str) -> Option<PathBuf> {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/ecginstruct_mini")).join(name);
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: {} is not there", path.display());
    None
}

/// A JSON list of numbers.
pub(crate) fn numbers<T: TryFrom<i64, Error: std::fmt::Debug>>(list: &Value) -> Vec<T> {
    list.as_array().unwrap().iter().map(|n| T::try_from(n.as_i64().unwrap()).unwrap()).collect()
}
