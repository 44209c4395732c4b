//! `adapter_config.json` of PEFT, both directions.
//! It never ignores a field that would change the numbers: such an adapter is refused, and the field named.

use crate::adapter::CONFIG_FILE;
use crate::base::read_json;
use crate::{Error, Module, Result, Targets, suffixes};
use serde_json::{Map, Value, json};
use std::path::Path;

/// The highest rank that is read; PEFT's users stay below 1024.
const MAX_R: u64 = 1 << 16;

/// What an adapter says of itself.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterConfig {
    /// Rank of every adapter.
    pub r: usize,
    /// The product `B A` is multiplied by `lora_alpha / r`.
    pub lora_alpha: f64,
    /// Share of A's inputs that training drops.
    pub lora_dropout: f64,
    /// What is adapted.
    pub target_modules: Targets,
    /// The base: a folder or a hub id; empty if unknown.
    pub base_model_name_or_path: String,
}

/// Fields that say nothing about the numbers of a loaded adapter.
const HARMLESS: [&str; 12] = [
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "lora_alpha",
    "lora_dropout",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "r",
    "revision",
    "target_modules",
    "task_type",
];

impl AdapterConfig {
    /// The factor of `B A`: `lora_alpha / r`, as an f32 like the tensors it meets in torch.
    #[must_use]
    pub fn scaling(&self) -> f32 {
        (self.lora_alpha / self.r as f64) as f32
    }

    /// Reads the `adapter_config.json` of an adapter folder.
    ///
    /// # Errors
    /// The file cannot be read, or a field is absent, wrong or not supported.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = &dir.join(CONFIG_FILE);
        let json: Value = serde_json::from_slice(&read_json(path)?).map_err(|e| Error::broken(path, e))?;
        let fields = json.as_object().ok_or_else(|| Error::broken(path, "is no JSON object"))?;
        let file = Fields { path, fields };
        if let Some(field) = fields.keys().find(|field| !is_supported(field, &fields[*field])) {
            return Err(file.refused(field, "this is not supported"));
        }
        let r = file.get("r", "must be a rank of at least 1", |v| v.as_u64().filter(|r| (1..=MAX_R).contains(r)))?;
        let finite = |v: &Value| v.as_f64().filter(|x| x.is_finite());
        let share = |v: &Value| v.as_f64().filter(|x| (0.0..1.0).contains(x));
        Ok(Self {
            r: r as usize,
            lora_alpha: file.get("lora_alpha", "must be a number", finite)?,
            lora_dropout: if fields.contains_key("lora_dropout") {
                file.get("lora_dropout", "must be a share below 1", share)?
            } else {
                0.0
            },
            target_modules: file.get("target_modules", "must be \"all-linear\" or a list of suffixes", targets)?,
            base_model_name_or_path: fields
                .get("base_model_name_or_path")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .into(),
        })
    }

    /// The smallest file that PEFT loads; the targets as PEFT writes them, resolved to suffixes of `modules`.
    #[must_use]
    pub fn to_json(&self, modules: &[Module]) -> Vec<u8> {
        let mut targets = match &self.target_modules {
            Targets::AllLinear => suffixes(modules),
            Targets::Suffixes(suffixes) => suffixes.clone(),
        };
        targets.sort();
        let is_whole = self.lora_alpha.fract() == 0.0 && self.lora_alpha.abs() < 1e15;
        let json = json!({
            "base_model_name_or_path": self.base_model_name_or_path,
            "bias": "none",
            "inference_mode": true,
            "lora_alpha": if is_whole { json!(self.lora_alpha as i64) } else { json!(self.lora_alpha) },
            "lora_dropout": self.lora_dropout,
            "peft_type": "LORA",
            "r": self.r,
            "target_modules": targets,
            "task_type": "CAUSAL_LM",
        });
        serde_json::to_vec_pretty(&json).expect("a JSON value of strings and numbers has a text")
    }
}

/// The fields of one file, for errors that name both.
struct Fields<'a> {
    path: &'a Path,
    fields: &'a Map<String, Value>,
}

impl Fields<'_> {
    fn get<T>(&self, field: &str, expected: &str, parse: impl FnOnce(&Value) -> Option<T>) -> Result<T> {
        self.fields.get(field).and_then(parse).ok_or_else(|| self.refused(field, expected))
    }

    fn refused(&self, field: &str, expected: &str) -> Error {
        let found = self.fields.get(field).map_or("absent".to_owned(), Value::to_string);
        Error::Config { file: self.path.to_owned(), field: field.to_owned(), found, expected: expected.to_owned() }
    }
}

/// Whether a field leaves the numbers what plain LoRA makes them. An unknown field may stand there unused.
fn is_supported(field: &str, value: &Value) -> bool {
    match field {
        "peft_type" => value == "LORA",
        "bias" => value == "none",
        // Others than these change the base as well, when training begins.
        "init_lora_weights" => value.is_boolean() || value == "gaussian" || value == "orthogonal",
        _ if HARMLESS.contains(&field) => true,
        _ => match value {
            Value::Null | Value::Bool(false) => true,
            Value::Array(items) => items.is_empty(),
            Value::Object(entries) => entries.is_empty(),
            _ => false,
        },
    }
}

fn targets(value: &Value) -> Option<Targets> {
    if value == "all-linear" {
        return Some(Targets::AllLinear);
    }
    let suffixes: Option<Vec<String>> = value.as_array()?.iter().map(|s| s.as_str().map(str::to_owned)).collect();
    suffixes.filter(|s| !s.is_empty()).map(Targets::Suffixes)
}

#[cfg(test)]
mod tests;
