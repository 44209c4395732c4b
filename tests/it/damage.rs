//! Model and adapter folders like those of the fixtures, with tensors changed by a test.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

/// One tensor as stored: dtype, shape, bytes.
pub type Stored = (Dtype, Vec<usize>, Vec<u8>);

/// Copies a folder with all its weights in one file, after `change`.
pub fn copy(from: &Path, to: &Path, change: impl FnOnce(&mut BTreeMap<String, Stored>)) {
    std::fs::create_dir_all(to).unwrap();
    let mut tensors = BTreeMap::new();
    let mut weights = "model.safetensors";
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        match name {
            "model.safetensors.index.json" | "optimizer.safetensors" | "manifest.json" => {}
            _ if name.ends_with(".safetensors") => {
                let file = SafeTensors::deserialize(&bytes).unwrap();
                let stored = |view: TensorView| (view.dtype(), view.shape().to_vec(), view.data().to_vec());
                tensors.extend(file.iter().map(|(key, view)| (key.to_owned(), stored(view))));
                if name.starts_with("adapter") {
                    weights = "adapter_model.safetensors";
                }
            }
            _ => storage::publish_file(&to.join(name), &bytes).unwrap(),
        }
    }
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
