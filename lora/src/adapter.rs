//! PEFT's adapter folder: `adapter_model.safetensors` and `adapter_config.json`, both directions.
//! It never loads a part of an adapter: each matrix of each module is there once, of its shape and finite, or nothing is.

use crate::names::{Side, adapter_key, parse_adapter_key};
use crate::shard::Shard;
use crate::{AdapterConfig, Dtype, Error, Layout, Module, Result};
use safetensors::tensor::TensorView;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// The two files of an adapter folder.
pub const MODEL_FILE: &str = "adapter_model.safetensors";
/// See [`MODEL_FILE`].
pub const CONFIG_FILE: &str = "adapter_config.json";

/// An open adapter folder; matrices are read on demand.
#[derive(Debug)]
pub struct Adapter {
    dir: PathBuf,
    config: AdapterConfig,
    shard: Shard,
    /// By module (hub name) and side, the key in the file.
    keys: BTreeMap<(String, Side), String>,
}

impl Adapter {
    /// Opens a folder and checks that it adapts exactly the `modules` that its own `target_modules` selects among the given ones.
    ///
    /// # Errors
    /// A file that is missing, broken or not supported; or, all of them at once, keys that do not fit.
    pub fn open(dir: &Path, modules: &[Module]) -> Result<Self> {
        let config = AdapterConfig::open(dir)?;
        let targeted = config.target_modules.select(modules)?;
        Self::open_for(dir, config, &targeted)
    }

    fn open_for(dir: &Path, config: AdapterConfig, modules: &[Module]) -> Result<Self> {
        let shard = Shard::open(&dir.join(MODEL_FILE))?;
        let mut problems: Vec<String> = shard.unreadable().values().cloned().collect();
        let mut keys: BTreeMap<(String, Side), String> = BTreeMap::new();
        for key in shard.tensors().keys() {
            let Some(place) = parse_adapter_key(key) else {
                problems.push(format!("unexpected: {key}"));
                continue;
            };
            if let Some(other) = keys.insert(place, key.clone()) {
                problems.push(format!("doubled: {key} and {other}"));
            }
        }
        let mut unused = keys.clone();
        for (module, side, shape) in modules.iter().flat_map(|m| matrices(m, config.r)) {
            match unused.remove(&(module.name.clone(), side)) {
                Some(key) if shard.tensors()[&key].shape == shape => {}
                Some(key) => {
                    let found = &shard.tensors()[&key].shape;
                    problems.push(format!("{key}: shape {found:?}, expected {shape:?}"));
                }
                None => problems.push(format!("missing: {}", adapter_key(&module.name, side))),
            }
        }
        problems.extend(unused.values().map(|key| format!("unexpected: {key}")));
        Error::unless_empty(shard.path(), problems)?;
        Ok(Self { dir: dir.to_owned(), config, shard, keys })
    }

    /// The folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What the adapter says of itself.
    #[must_use]
    pub fn config(&self) -> &AdapterConfig {
        &self.config
    }

    /// The hub names of the adapted modules.
    pub fn modules(&self) -> impl Iterator<Item = &str> {
        self.keys.keys().filter(|(_, side)| *side == Side::A).map(|(module, _)| module.as_str())
    }

    /// `A [r, in]` or `B [out, r]` of a module, row-major.
    ///
    /// # Errors
    /// The module is not adapted, the file cannot be read, or a number is not finite.
    pub fn read(&self, module: &str, side: Side) -> Result<Vec<f32>> {
        let missing = || Error::Tensors {
            place: self.shard.path().to_owned(),
            problems: vec![format!("missing: {}", adapter_key(module, side))],
        };
        let key = self.keys.get(&(module.to_owned(), side)).ok_or_else(missing)?;
        let stored = &self.shard.tensors()[key];
        let numbers = stored.dtype.decode(&self.shard.read(stored.offsets.clone())?);
        match numbers.iter().position(|x| !x.is_finite()) {
            Some(element) => Err(Error::NotFinite { file: self.shard.path().to_owned(), key: key.clone(), element }),
            None => Ok(numbers),
        }
    }
}

/// The two matrices of a module's adapter, with their shapes.
fn matrices(module: &Module, r: usize) -> [(&Module, Side, [usize; 2]); 2] {
    [(module, Side::A, [r, module.in_features]), (module, Side::B, [module.out_features, r])]
}

/// Reads an adapter of exactly this layout into one flat buffer; keys of any generation, f32, bf16 or f16.
///
/// # Errors
/// As [`Adapter::open`]; or the rank is not the layout's; or a number is not finite.
pub fn read_adapter(dir: &Path, layout: &Layout) -> Result<(Vec<f32>, AdapterConfig)> {
    let config_file = dir.join(CONFIG_FILE);
    let config = AdapterConfig::open(dir)?;
    if config.r != layout.r() {
        let (found, expected) = (config.r.to_string(), format!("the run's rank is {}", layout.r()));
        return Err(Error::Config { file: config_file, field: "r".to_owned(), found, expected });
    }
    let adapter = Adapter::open_for(dir, config, layout.modules())?;
    let mut flat = vec![0.0; layout.len()];
    for (i, module) in layout.modules().iter().enumerate() {
        flat[layout.a(i)].copy_from_slice(&adapter.read(&module.name, Side::A)?);
        flat[layout.b(i)].copy_from_slice(&adapter.read(&module.name, Side::B)?);
    }
    Ok((flat, adapter.config))
}

/// The bytes of `adapter_model.safetensors` and `adapter_config.json` of a flat buffer of this layout, as PEFT writes them: f32.
///
/// # Panics
/// If `flat` is not of the layout's length: the two are made together.
#[must_use]
pub fn write_adapter(layout: &Layout, flat: &[f32], config: &AdapterConfig) -> (Vec<u8>, Vec<u8>) {
    assert_eq!(flat.len(), layout.len(), "the buffer is not of this layout");
    let bytes = Dtype::F32.encode(flat);
    let view = |(module, side, shape): (&Module, Side, [usize; 2]), place: std::ops::Range<usize>| {
        let bytes = &bytes[place.start * 4..place.end * 4];
        let view =
            TensorView::new(Dtype::F32.into(), shape.to_vec(), bytes).expect("the layout gives each shape its numbers");
        (adapter_key(&module.name, side), view)
    };
    let views = layout.modules().iter().enumerate().flat_map(|(i, module)| {
        let [a, b] = matrices(module, layout.r());
        [view(a, layout.a(i)), view(b, layout.b(i))]
    });
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let model = safetensors::serialize(views, Some(metadata)).expect("the layout leaves no gap");
    (model, config.to_json(layout.modules()))
}

#[cfg(test)]
mod tests;
