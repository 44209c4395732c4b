//! For tests: where the reference's files lie, and safetensors files made on the spot.
//! It never writes outside the folder that a test gives it.
#![expect(clippy::disallowed_methods, reason = "test folders need no durability")]

use crate::Dtype;
use safetensors::tensor::TensorView;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A tensor to be written: dtype, shape, numbers.
pub type Tensor = (Dtype, Vec<usize>, Vec<f32>);
pub type Tensors = BTreeMap<String, Tensor>;

pub fn path(relative: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures")).join(relative)
}

/// A copy of a fixture folder that a test may damage.
pub fn copy(relative: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(path(relative)).unwrap() {
        let from = entry.unwrap().path();
        fs::copy(&from, dir.path().join(from.file_name().unwrap())).unwrap();
    }
    dir
}

pub fn read(file: &Path) -> Tensors {
    let bytes = fs::read(file).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let tensor = |view: TensorView| {
        let dtype = Dtype::try_from(view.dtype()).unwrap();
        (dtype, view.shape().to_vec(), dtype.decode(view.data()))
    };
    tensors.iter().filter(|(_, v)| Dtype::try_from(v.dtype()).is_ok()).map(|(k, v)| (k.to_owned(), tensor(v))).collect()
}

pub fn write(file: &Path, tensors: &Tensors) {
    let bytes: BTreeMap<&String, Vec<u8>> = tensors.iter().map(|(k, (d, _, x))| (k, d.encode(x))).collect();
    let view = |(k, (d, shape, _)): (&'_ String, &'_ Tensor)| {
        (k.clone(), TensorView::new((*d).into(), shape.clone(), &bytes[k]).unwrap())
    };
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    fs::write(file, safetensors::serialize(tensors.iter().map(view), Some(metadata)).unwrap()).unwrap();
}

/// Replaces a file by an edited copy of its text.
pub fn edit(file: &Path, edit: impl FnOnce(String) -> String) {
    fs::write(file, edit(fs::read_to_string(file).unwrap())).unwrap();
}

/// Replaces a safetensors file by an edited copy of its tensors.
pub fn edit_tensors(file: &Path, edit: impl FnOnce(&mut Tensors)) {
    let mut tensors = read(file);
    edit(&mut tensors);
    write(file, &tensors);
}
