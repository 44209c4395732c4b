//! The files of a model folder that are not weights: configuration, tokenizer, processor, template.
//! It never rewrites them: transformers of another version may read what this one would not write (REFERENCE.md, finding 4).

use crate::base::{BaseHashes, CONFIG_FILE, read_json};
use crate::{Dtype, Error, Result, adapter};
use std::fs::{self, File};
use std::io::Write;
use std::ops::Range;
use std::path::Path;

/// What a merge says of itself, beside the weights.
pub(super) const REPORT_FILE: &str = "merge_report.json";
/// The base's own card says nothing of the merged model.
pub(super) const CARD_FILE: &str = "README.md";

/// Weights in any format: those of the base must not stand beside the merged ones.
const WEIGHTS: [&str; 9] = ["safetensors", "bin", "pt", "pth", "ckpt", "gguf", "h5", "msgpack", "onnx"];

/// Copies the folder's other files byte for byte; in `config.json` the dtype is set to that of the weights, if that was chosen.
pub(super) fn copy_other_files(from: &Path, to: &Path, dtype: Option<Dtype>) -> Result<()> {
    for entry in fs::read_dir(from).map_err(Error::io(from, "list"))? {
        let source = entry.map_err(Error::io(from, "list"))?.path();
        let Some(name) = source.file_name() else { continue };
        let is_file = fs::metadata(&source).map_err(Error::io(&source, "stat"))?.is_file();
        let target = to.join(name);
        match dtype {
            _ if !is_file || is_of_the_base_alone(&source) => {}
            Some(dtype) if name == CONFIG_FILE => {
                let text = String::from_utf8(read_json(&source)?).map_err(|e| Error::broken(&source, e))?;
                let text = with_dtype(text, dtype.torch_name());
                let mut out = File::create(&target).map_err(Error::io(&target, "create"))?;
                out.write_all(text.as_bytes()).map_err(Error::io(&target, "write"))?;
            }
            _ => {
                fs::copy(&source, &target).map_err(Error::io(&source, "copy"))?;
            }
        }
    }
    Ok(())
}

/// Weights and their index, an adapter's config, which transformers would load on top, and what describes the base.
fn is_of_the_base_alone(file: &Path) -> bool {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let extension = file.extension().unwrap_or_default().to_string_lossy();
    let describes = [adapter::CONFIG_FILE, REPORT_FILE, BaseHashes::FILE, CARD_FILE];
    WEIGHTS.contains(&&*extension) || name.ends_with(".index.json") || describes.contains(&&*name)
}

/// A `config.json` whose dtypes (`torch_dtype` before transformers 4.56, `dtype` since; also those of its parts) have this name;
/// every other byte stays.
fn with_dtype(mut text: String, torch_name: &str) -> String {
    for key in ["\"torch_dtype\"", "\"dtype\""] {
        let mut at = 0;
        while let Some(found) = text[at..].find(key) {
            at += found + key.len();
            if let Some(value) = string_after_colon(&text, at) {
                text.replace_range(value, torch_name);
            }
        }
    }
    text
}

fn string_after_colon(text: &str, at: usize) -> Option<Range<usize>> {
    let rest = text[at..].trim_start().strip_prefix(':')?.trim_start().strip_prefix('"')?;
    let start = text.len() - rest.len();
    Some(start..start + rest.find('"')?)
}

#[cfg(test)]
mod tests;
