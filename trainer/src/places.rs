//! Where the things a config names lie on this machine. It never looks whether they do.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::Config;

/// The files of a run. A config names folders, globs and hub ids; what is a hub id there is a folder or a file here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Places {
    /// Folder of the base.
    pub model: PathBuf,
    /// Rows to train on.
    pub train: Vec<PathBuf>,
    /// Rows that are never trained on.
    pub eval: Vec<PathBuf>,
}

impl Places {
    /// Of a config that names paths alone.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let paths = |names: &[String]| names.iter().map(PathBuf::from).collect();
        Self {
            model: config.model.path.clone().into(),
            train: paths(&config.data.train),
            eval: paths(config.data.eval.as_deref().unwrap_or_default()),
        }
    }
}
