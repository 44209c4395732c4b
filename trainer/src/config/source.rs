//! The text of a config with its `--set` arguments, and the place of every problem in it.
//! It never reports a problem without its line, and never stops at the first wrong key or value.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Config;
use super::typed::{Spare, typed};

const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// Keys of `[train]` that say the same thing in two ways; setting one on the command line takes the other out.
const ALTERNATIVES: [(&str, &str); 2] = [("epochs", "max_steps"), ("warmup_ratio", "warmup_steps")];

/// A config that cannot be run. Exit code 2.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("{path}: {source}; give the path of a config such as configs/tiny.toml")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A config is a page of text.
    #[error("{path}: larger than {MAX_CONFIG_BYTES} bytes, which no config is; give the path of a TOML file")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// Everything that is wrong in the file and in the `--set` arguments, each with its place, line and caret.
    #[error("{}", problems.join("\n\n"))]
    Invalid {
        /// One text a problem, of several lines.
        problems: Vec<String>,
    },
    /// Some ranks would have no work.
    #[error(
        "{world_size} ranks cannot share {micro_batches} micro-batches a step; use at most {micro_batches} ranks or a smaller micro_batch_size"
    )]
    TooManyRanks {
        /// Ranks asked for.
        world_size: usize,
        /// `global_batch_size / micro_batch_size`.
        micro_batches: usize,
    },
}

/// The file's text; bounded, so that a wrong path cannot fill the memory.
pub(super) fn read(path: &Path) -> Result<String, ConfigError> {
    let failed = |source| ConfigError::Read { path: path.to_owned(), source };
    let mut text = String::new();
    let file = File::open(path).map_err(failed)?;
    file.take(MAX_CONFIG_BYTES + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_CONFIG_BYTES {
        return Err(ConfigError::TooLarge { path: path.to_owned() });
    }
    Ok(text)
}

/// Where, and what.
pub(super) type Problem = (Range<usize>, String);

/// The config file and the overrides, one TOML document each.
/// Each document begins with blanks as long as all before it, so that a span belongs to exactly one of them.
pub(super) struct Source<'a> {
    name: &'a str,
    documents: Vec<String>,
    begins: Vec<usize>,
}

impl<'a> Source<'a> {
    pub(super) fn new(name: &'a str, text: &str, overrides: &[String]) -> Self {
        let mut source = Self { name, documents: vec![text.to_owned()], begins: vec![0] };
        for argument in overrides {
            let begin = source.documents.last().map_or(0, String::len) + 1;
            source.begins.push(begin);
            source.documents.push(format!("{}{}", " ".repeat(begin), as_toml(argument)));
        }
        source
    }

    /// The config, or every problem that could be found, in the order of their places.
    pub(super) fn parse(&self) -> Result<Config, ConfigError> {
        let mut problems = Vec::new();
        let spare = Spare::behind(self.documents.last().map_or(0, String::len) + 1);
        let config = self.table(&mut problems).and_then(|table| typed(table, &spare, &mut problems));
        problems.sort_by_key(|(place, _)| place.start);
        let problems: Vec<String> = problems.iter().map(|(place, message)| self.shown(place, message)).collect();
        config.filter(|_| problems.is_empty()).ok_or(ConfigError::Invalid { problems })
    }

    /// The file's table with the overrides in it.
    fn table(&self, problems: &mut Vec<Problem>) -> Option<Spanned<DeTable<'_>>> {
        let mut tables = Vec::new();
        for document in &self.documents {
            match DeTable::parse(document) {
                Ok(table) => tables.push(table),
                Err(error) => problems.push((error.span().unwrap_or(0..0), error.message().to_owned())),
            }
        }
        if !problems.is_empty() {
            return None;
        }
        let mut tables = tables.into_iter();
        let mut root = tables.next()?;
        for table in tables {
            displace_alternatives(root.get_mut(), table.get_ref());
            merge(root.get_mut(), table.into_inner());
        }
        Some(root)
    }

    /// `file:line:column: message`, the line, and carets under the place.
    fn shown(&self, span: &Range<usize>, message: &str) -> String {
        let index = self.begins.iter().rposition(|&begin| begin <= span.start).unwrap_or(0);
        let document = &self.documents[index];
        let (before, rest) = document.split_at(document.floor_char_boundary(span.start));
        let line_begin = before.rfind('\n').map_or(self.begins[index], |newline| newline + 1);
        let line_end = before.len() + rest.find('\n').unwrap_or(rest.len());
        let line = &document[line_begin..line_end];
        let column = before[line_begin..].chars().count();
        let marked = rest.floor_char_boundary(span.end.min(line_end).saturating_sub(before.len()));
        let carets = rest[..marked].chars().count().max(1);
        let number = (before.matches('\n').count() + 1).to_string();
        let (place, label) = match index {
            0 => (format!("{}:{number}:{}", self.name, column + 1), number.as_str()),
            _ => ("command line".to_owned(), "--set"),
        };
        let (margin, indent, carets) = (" ".repeat(label.len()), " ".repeat(column), "^".repeat(carets));
        format!("{place}: {message}\n{margin} |\n{label} | {line}\n{margin} | {indent}{carets}")
    }
}

/// `KEY=VALUE` as a TOML line; a value that is no TOML is a text: `data.include=ptb-xl/` needs no quotes.
fn as_toml(argument: &str) -> String {
    match argument.split_once('=') {
        Some((key, value)) if DeValue::parse(value.trim()).is_err() => {
            format!("{key}={}", toml::Value::String(value.to_owned()))
        }
        _ => argument.replace('\n', " "),
    }
}

fn displace_alternatives(root: &mut DeTable, set: &DeTable) {
    let Some(DeValue::Table(set)) = set.get("train").map(Spanned::get_ref) else { return };
    let Some(DeValue::Table(root)) = root.get_mut("train").map(Spanned::get_mut) else { return };
    for (one, other) in ALTERNATIVES {
        for (kept, displaced) in [(one, other), (other, one)] {
            if set.contains_key(kept) {
                root.remove(displaced);
            }
        }
    }
}

fn merge<'a>(root: &mut DeTable<'a>, set: DeTable<'a>) {
    for (key, value) in set {
        let span = value.span();
        match (root.get_mut(key.get_ref().as_ref()).map(Spanned::get_mut), value.into_inner()) {
            (Some(DeValue::Table(old)), DeValue::Table(new)) => merge(old, new),
            (_, value) => {
                root.remove(key.get_ref().as_ref());
                root.insert(key, Spanned::new(span, value));
            }
        }
    }
}
