//! Model and adapter folders like those of the fixtures, with tensors changed by a test.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

/// One tensor as stored: dtype, shape, bytes.
pub type Stored = (Dtype, Vec<usize>, Vec<u8>);
/// By key.
pub type Tensors = BTreeMap<String, Stored>;

/// All tensors of a folder.
pub fn read(folder: &Path) -> Tensors {
    let mut tensors = BTreeMap::new();
    for path in files(folder).filter(|path| is_weights(path)) {
        let bytes = std::fs::read(path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let stored = |view: TensorView| (view.dtype(), view.shape().to_vec(), view.data().to_vec());
        tensors.extend(file.iter().map(|(key, view)| (key.to_owned(), stored(view))));
    }
    tensors
}

/// Copies a folder with all its weights in one file, after `change`.
pub fn copy(from: &Path, to: &Path, change: impl FnOnce(&mut Tensors)) {
    std::fs::create_dir_all(to).unwrap();
    for path in files(from).filter(|path| !is_weights(path) && !path.ends_with("model.safetensors.index.json")) {
        storage::publish_file(&to.join(path.file_name().unwrap()), &std::fs::read(&path).unwrap()).unwrap();
    }
    let weights =
        if from.join("adapter_config.json").exists() { "adapter_model.safetensors" } else { "model.safetensors" };
    let mut tensors = read(from);
    change(&mut tensors);
    let views = tensors
        .iter()
        .map(|(key, (dtype, shape, bytes))| (key, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    let bytes = safetensors::serialize(views, None).unwrap();
    storage::publish_file(&to.join(weights), &bytes).unwrap();
}

/// Makes the number at `element` of a tensor NaN.
pub fn spoil(tensor: &mut Stored, element: usize) {
    let size = tensor.2.len() / tensor.1.iter().product::<usize>();
    tensor.2[element * size..(element + 1) * size].fill(0x7f);
    tensor.2[(element + 1) * size - 2] = 0xff;
}

fn files(folder: &Path) -> impl Iterator<Item = PathBuf> {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file())
}

fn is_weights(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "safetensors")
}
