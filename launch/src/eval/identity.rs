//! `eval.json`: what an eval's answers depend on, by hash. A folder goes on with the same alone.
//! It never reads all pages of a data set: what it is known by is its fingerprint.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use model::engine::Device;
use score::Task;
use serde::{Deserialize, Serialize};

use super::rows::Rows;
use super::{EvalError, Folders};
use crate::Error;
use crate::cli::EvalArgs;

const FILE: &str = "eval.json";
/// What of a model's folder its answers depend on.
const MODEL_FILES: [&str; 3] = ["safetensors", "json", "jinja"];
/// What of an adapter's folder they depend on.
const ADAPTER_FILES: [&str; 2] = ["adapter_config.json", "adapter_model.safetensors"];

/// Everything that the answers in a folder depend on.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Identity {
    model: Source,
    adapter: Option<Source>,
    device: String,
    max_new_tokens: u32,
    batch_size: u32,
    seed: u64,
    tasks: BTreeMap<Task, TaskRows>,
}

/// A folder, where it was and what it held.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Source {
    path: String,
    blake3: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TaskRows {
    data: String,
    n_rows: usize,
    blake3: String,
}

impl Identity {
    pub(super) fn of(folders: &Folders, args: &EvalArgs, opened: &[Rows]) -> Result<Self, Error> {
        let mut tasks = BTreeMap::new();
        for rows in opened {
            let blake3 = rows.dataset.fingerprint().to_hex().to_string();
            tasks.insert(rows.task, TaskRows { data: rows.found.clone(), n_rows: rows.dataset.len(), blake3 });
        }
        let Folders { model, adapter } = folders;
        let model_files = files_of(model)?;
        let adapter_files = adapter.as_deref().map(|dir| ADAPTER_FILES.map(|name| dir.join(name)).to_vec());
        let source = |path: &Path, files: &[PathBuf]| -> Result<Source, Error> {
            Ok(Source { path: path.display().to_string(), blake3: of_files(files)?.to_hex().to_string() })
        };
        Ok(Self {
            model: source(model, &model_files)?,
            adapter: adapter.as_deref().zip(adapter_files).map(|(dir, files)| source(dir, &files)).transpose()?,
            device: match Device::first(args.gpus.is_some(), args.backend)? {
                Device::Cpu => "cpu".to_owned(),
                Device::Gpu(backend, _) => backend.to_string(),
            },
            max_new_tokens: args.max_new_tokens,
            batch_size: args.batch_size,
            seed: args.seed,
            tasks,
        })
    }

    /// Takes the folder for this eval: it is new, or the same eval's, to which tasks may be added.
    pub(super) fn claim(mut self, out: &Path) -> Result<(), Error> {
        let file = out.join(FILE);
        if file.exists() {
            let bytes = std::fs::read(&file).map_err(Error::file(&file, "read"))?;
            let known: Self =
                serde_json::from_slice(&bytes).map_err(|error| Error::file(&file, "read")(error.into()))?;
            if let Some((what, was, now)) = self.difference(&known) {
                return Err(EvalError::OtherEval { file, what, was, now }.into());
            }
            for (task, rows) in known.tasks {
                self.tasks.entry(task).or_insert(rows);
            }
        }
        let mut text = serde_json::to_vec_pretty(&self).map_err(|error| Error::file(&file, "write")(error.into()))?;
        text.push(b'\n');
        Ok(storage::publish_file(&file, &text)?)
    }

    fn difference(&self, known: &Self) -> Option<(String, String, String)> {
        let adapter =
            |identity: &Self| identity.adapter.as_ref().map_or_else(|| "none".to_owned(), |a| a.blake3.clone());
        let mut pairs = vec![
            ("model".to_owned(), known.model.blake3.clone(), self.model.blake3.clone()),
            ("adapter".to_owned(), adapter(known), adapter(self)),
            ("device".to_owned(), known.device.clone(), self.device.clone()),
            ("--max-new-tokens".to_owned(), known.max_new_tokens.to_string(), self.max_new_tokens.to_string()),
            ("--batch-size".to_owned(), known.batch_size.to_string(), self.batch_size.to_string()),
            ("--seed".to_owned(), known.seed.to_string(), self.seed.to_string()),
        ];
        for (task, rows) in &self.tasks {
            if let Some(known) = known.tasks.get(task) {
                pairs.push((format!("data of {task}"), known.blake3.clone(), rows.blake3.clone()));
            }
        }
        pairs.into_iter().find(|(_, was, now)| was != now)
    }
}

/// Which model an eval's folder is about, in words; none where it only has results.
#[must_use]
pub fn describe(folder: &Path) -> Option<String> {
    let identity: Identity = serde_json::from_slice(&std::fs::read(folder.join(FILE)).ok()?).ok()?;
    let source = |source: &Source| format!("{} (blake3 {})", source.path, &source.blake3.get(..12).unwrap_or_default());
    let adapter = identity.adapter.as_ref().map(|adapter| format!(", adapter {}", source(adapter)));
    let limit = format!(", greedy, at most {} tokens", identity.max_new_tokens);
    Some(format!("Model {}{}{limit}", source(&identity.model), adapter.unwrap_or_default()))
}

/// The files of a model in the order of their names.
fn files_of(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(Error::file(dir, "list"))? {
        let path = entry.map_err(Error::file(dir, "list"))?.path();
        let is_one = path.extension().is_some_and(|end| MODEL_FILES.iter().any(|known| end == *known));
        if is_one && path.is_file() {
            files.push(path);
        }
    }
    files.sort_unstable();
    Ok(files)
}

/// Names and bytes.
fn of_files(files: &[PathBuf]) -> Result<blake3::Hash, Error> {
    let mut all = blake3::Hasher::new();
    for path in files {
        let mut hasher = blake3::Hasher::new();
        let read = File::open(path).and_then(|file| hasher.update_reader(file).map(|hasher| hasher.finalize()));
        all.update(path.file_name().unwrap_or_default().as_encoded_bytes());
        all.update(read.map_err(Error::file(path, "read"))?.as_bytes());
    }
    Ok(all.finalize())
}
