//! `optimizer.safetensors`: both moments of AdamW, flat, with the layout that says which number belongs to which adapter.
//! It never accepts moments of another layout, even of the same length.

use std::collections::HashMap;

use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize};

use super::Error;
use crate::optimizer::AdamW;

const MOMENTS: [&str; 2] = ["exp_avg", "exp_avg_sq"];
const LAYOUT: &str = "layout";

/// The moments of `optimizer` as `exp_avg` and `exp_avg_sq`, f32, of shape [n]; `layout` is kept beside them, one line a module.
#[must_use]
pub fn encode_optimizer(optimizer: &AdamW, layout: &str) -> Vec<u8> {
    let moments = [optimizer.exp_avg(), optimizer.exp_avg_sq()];
    let views = MOMENTS.into_iter().zip(moments).map(|(name, values)| {
        let view = TensorView::new(Dtype::F32, vec![values.len()], bytemuck::cast_slice(values));
        (name, view.expect("a slice of n numbers has shape [n]"))
    });
    let metadata = HashMap::from([(LAYOUT.to_owned(), layout.to_owned())]);
    serialize(views, Some(metadata)).expect("two views of matching size are a valid file")
}

/// First and second moments of `n_params` weights in the given layout.
///
/// # Errors
/// [`Error::Optimizer`] if the file holds anything else.
pub fn decode_optimizer(bytes: &[u8], n_params: usize, layout: &str) -> Result<(Vec<f32>, Vec<f32>), Error> {
    let wrong = |expected: &dyn ToString, found: &dyn ToString| Error::Optimizer {
        expected: expected.to_string(),
        found: found.to_string(),
    };
    let damaged = |error| wrong(&"a safetensors file", &error);
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(damaged)?;
    let found = header.metadata().as_ref().and_then(|metadata| metadata.get(LAYOUT)).map_or("", String::as_str);
    if found != layout {
        let differs = layout.lines().zip(found.lines()).find(|(expected, found)| expected != found);
        let lines = (format!("{} modules", layout.lines().count()), format!("{} modules", found.lines().count()));
        let (expected, found) = differs.map_or(lines, |(expected, found)| (expected.to_owned(), found.to_owned()));
        return Err(wrong(&expected, &found));
    }
    let file = SafeTensors::deserialize(bytes).map_err(damaged)?;
    let mut names = file.names();
    names.sort_unstable();
    if names != MOMENTS {
        return Err(wrong(&format!("the tensors {MOMENTS:?}"), &format!("{names:?}")));
    }
    let moment = |name| {
        let view = file.tensor(name).map_err(damaged)?;
        if view.dtype() != Dtype::F32 || view.shape() != [n_params] {
            let found = format!("{name} {:?} {:?}", view.dtype(), view.shape());
            return Err(wrong(&format!("{name} F32 [{n_params}]"), &found));
        }
        // Read number by number: the tensor need not begin at a multiple of four.
        Ok(view.data().as_chunks().0.iter().copied().map(f32::from_le_bytes).collect())
    };
    Ok((moment(MOMENTS[0])?, moment(MOMENTS[1])?))
}
