//! The names of hub repositories, as configs write them.
//! It never looks at the disk or the network: what is a folder here is decided before anybody asks.

use std::fmt;

const SCHEME: &str = "hf://";
const DATASETS: &str = "datasets/";

/// What a repository holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A model.
    Model,
    /// A data set, wanted for these rows.
    Dataset(Split),
}

/// What rows are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// Training.
    Train,
    /// Evaluation.
    Eval,
}

/// A repository of the hub at a revision, and which of its files are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubId {
    /// Model or data set.
    pub kind: Kind,
    /// `owner/name`.
    pub name: String,
    /// Commit, tag or branch.
    pub revision: String,
    /// A path or glob within the repository; absent: all that is of use, of a data set the files of its split.
    pub files: Option<String>,
}

impl HubId {
    /// `owner/name` as a model; `None` if `path` cannot be a hub id.
    #[must_use]
    pub fn model(path: &str, revision: Option<&str>) -> Option<Self> {
        let path = path.strip_prefix(SCHEME).unwrap_or(path);
        let (name, at) = split_revision(path);
        let revision = at.or(revision).unwrap_or("main").to_owned();
        is_name(name).then(|| Self { kind: Kind::Model, name: name.to_owned(), revision, files: None })
    }

    /// `owner/name`, `owner/name@revision` or `hf://datasets/owner/name@revision/path-or-glob` as a data set whose `split`
    /// is wanted; `None` if `source` cannot be one.
    #[must_use]
    pub fn dataset(source: &str, split: Split) -> Option<Self> {
        let kind = Kind::Dataset(split);
        let Some(path) = source.strip_prefix(SCHEME) else {
            let (name, revision) = split_revision(source);
            // A relative path such as `rows/train.parquet` has the shape of an id, too.
            let is_file =
                ["parquet", "json", "jsonl", "gz", "tar"].iter().any(|end| name.ends_with(&format!(".{end}")));
            let revision = revision.unwrap_or("main").to_owned();
            return (is_name(name) && !is_file).then(|| Self { kind, name: name.to_owned(), revision, files: None });
        };
        let mut parts = path.strip_prefix(DATASETS)?.splitn(3, '/');
        let (owner, name, files) = (parts.next()?, parts.next()?, parts.next());
        let (name, revision) = split_revision(name);
        let name = format!("{owner}/{name}");
        let revision = revision.unwrap_or("main").replace("%2F", "/");
        is_name(&name).then(|| Self { kind, name, revision, files: files.map(str::to_owned) })
    }

    /// The command of huggingface_hub that downloads it.
    #[must_use]
    pub fn hf_download(&self) -> String {
        let kind = if self.kind != Kind::Model { " --repo-type dataset" } else { "" };
        format!("hf download {}{kind} --revision {}", self.name, self.revision)
    }

    /// The same repository and files at another revision.
    #[must_use]
    pub fn at(&self, revision: &str) -> Self {
        Self { revision: revision.to_owned(), ..self.clone() }
    }
}

/// As a config would name it again: a model without its revision, which has a key of its own.
impl fmt::Display for HubId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Model => f.write_str(&self.name),
            Kind::Dataset(_) => {
                write!(f, "{SCHEME}{DATASETS}{}@{}", self.name, self.revision.replace('/', "%2F"))?;
                self.files.iter().try_for_each(|files| write!(f, "/{files}"))
            }
        }
    }
}

fn split_revision(text: &str) -> (&str, Option<&str>) {
    text.split_once('@').map_or((text, None), |(name, revision)| (name, Some(revision)))
}

/// `owner/name` of letters, digits, `-`, `_` and `.`, as the hub has them; neither part begins with a dot.
fn is_name(text: &str) -> bool {
    let part = |part: &str| {
        let letters = part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        letters
            && (1..=96).contains(&part.len())
            && !part.starts_with('.')
            && !part.contains("..")
            && !part.contains("--")
    };
    text.split_once('/').is_some_and(|(owner, name)| part(owner) && part(name))
}

#[cfg(test)]
mod tests;
