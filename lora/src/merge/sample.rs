//! A base and an adapter of random numbers in any shape, for measurements of a merge.
//! It never holds a whole tensor of the base.

use super::plan::{Plan, PlannedTensor};
use crate::adapter::{CONFIG_FILE, MODEL_FILE};
use crate::base::INDEX_FILE;
use crate::init::{key, uniform};
use crate::{AdapterConfig, Dtype, Error, Layout, Result, init, write_adapter};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

const SLICE_NUMBERS: u64 = 1 << 18;
const SEED: u64 = 1;

/// Writes the weights of a base, bf16, uniform in ±1/sqrt(width), with their index into the folder `dir`.
///
/// # Errors
/// A file cannot be written.
pub fn write_random_base(dir: &Path, shapes: BTreeMap<String, Vec<usize>>, max_shard_bytes: u64) -> Result<()> {
    let headers = shapes.into_iter().map(|(name, shape)| (name, (Dtype::Bf16, shape)));
    let plan = Plan::new(headers.collect(), max_shard_bytes, dir)?;
    for planned in &plan.files {
        let path = dir.join(&planned.name);
        let file = File::create(&path).map_err(Error::io(&path, "create"))?;
        file.write_all_at(&planned.header, 0).map_err(Error::io(&path, "write"))?;
        let write = |tensor: &PlannedTensor| fill(&file, tensor).map_err(Error::io(&path, "write"));
        planned.tensors.par_iter().with_max_len(1).try_for_each(write)?;
    }
    if let Some(index) = plan.index() {
        storage::publish_file(&dir.join(INDEX_FILE), &index)?;
    }
    Ok(())
}

fn fill(file: &File, tensor: &PlannedTensor) -> std::io::Result<()> {
    let key = key(SEED, &tensor.name);
    let bound = 1.0 / (tensor.shape.last().copied().unwrap_or(1) as f32).sqrt();
    let n_numbers = tensor.shape.iter().product::<usize>() as u64;
    for start in (0..n_numbers).step_by(SLICE_NUMBERS as usize) {
        let numbers: Vec<f32> =
            (start..n_numbers.min(start + SLICE_NUMBERS)).map(|element| bound * uniform(key, element)).collect();
        file.write_all_at(&tensor.dtype.encode(&numbers), tensor.at + start * tensor.dtype.size() as u64)?;
    }
    Ok(())
}

/// Writes an adapter of this layout into the folder `dir`: A as it is before training, B of the size that training makes it.
///
/// # Errors
/// A file cannot be written.
pub fn write_random_adapter(dir: &Path, layout: &Layout, config: &AdapterConfig) -> Result<()> {
    let mut flat = init(layout, SEED);
    for (i, module) in layout.modules().iter().enumerate() {
        let key = key(SEED + 1, &module.name);
        (0..).zip(&mut flat[layout.b(i)]).for_each(|(element, b)| *b = 1e-2 * uniform(key, element));
    }
    let (model, json) = write_adapter(layout, &flat, config);
    storage::publish_file(&dir.join(MODEL_FILE), &model)?;
    Ok(storage::publish_file(&dir.join(CONFIG_FILE), &json)?)
}
