//! `generation_config.json`: what a model folder says about how its answers are made. It never decides to draw tokens.

use std::path::Path;

use serde_json::Value;

use crate::config::ModelConfig;
use crate::error::Error;

/// Ends of answers, and defaults for drawing tokens, as transformers' `GenerationConfig` has them.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerationConfig {
    /// Ids that end an answer: those of this file, or of `config.json` where it names none.
    pub eos_token_ids: Vec<u32>,
    /// 50 where the file names none, as in transformers; 0: all.
    pub top_k: usize,
    /// 1 where the file names none.
    pub top_p: f64,
}

impl GenerationConfig {
    /// Reads the file of a model folder; one that is not there says nothing.
    ///
    /// # Errors
    /// It cannot be read, or is not JSON.
    pub fn open(model_dir: &Path, config: &ModelConfig) -> Result<Self, Error> {
        let path = model_dir.join("generation_config.json");
        let text = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => "{}".to_owned(),
            read => read.map_err(|source| Error::GenerationConfigFile { path: path.clone(), source })?,
        };
        let json: Value = serde_json::from_str(&text).map_err(|source| Error::ConfigSyntax { path, source })?;
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ends = match &json["eos_token_id"] {
            Value::Array(ids) => ids.iter().filter_map(id).collect(),
            value => Vec::from_iter(id(value)),
        };
        Ok(Self {
            eos_token_ids: if ends.is_empty() { config.eos_token_ids.clone() } else { ends },
            top_k: json["top_k"].as_u64().map_or(50, |k| k as usize),
            top_p: json["top_p"].as_f64().unwrap_or(1.0),
        })
    }
}

#[cfg(test)]
mod tests;
