//! Which page a row is asked about: its own, or one from which its answer cannot be read.
//! What a model still answers right then, it knows from the question alone.

use data::Dataset;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::cli::Control;

use super::EvalError;

/// The pages that rows are asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pages {
    /// Each row's own.
    Own,
    /// White paper.
    Blank,
    /// Those of other rows.
    Shuffled,
}

impl Pages {
    /// The rows' own, then the controls that were asked for.
    pub(super) fn asked(controls: &[Control]) -> Vec<Self> {
        let mut all: Vec<Self> = controls
            .iter()
            .map(|control| match control {
                Control::BlankPage => Self::Blank,
                Control::ShuffledPage => Self::Shuffled,
            })
            .chain([Self::Own])
            .collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// As on the command line; nothing for the rows' own.
    #[must_use]
    pub fn control(self) -> Option<&'static str> {
        match self {
            Self::Own => None,
            Self::Blank => Some("blank-page"),
            Self::Shuffled => Some("shuffled-page"),
        }
    }

    /// `answers.jsonl`, `answers.blank-page.jsonl` ...
    #[must_use]
    pub fn file(self, stem: &str) -> String {
        self.control().map_or_else(|| format!("{stem}.jsonl"), |control| format!("{stem}.{control}.jsonl"))
    }
}

/// For each row the row whose page it is shown: never one of the same page. The distinct pages, told by their paths, stand
/// in an order drawn from the seed, and each gives way to the next.
///
/// # Errors
/// All rows show one page.
pub(super) fn shuffled(dataset: &Dataset, seed: u64) -> Result<Vec<usize>, Error> {
    // Rows whose pages have no paths are taken to show one each.
    let paths = dataset.image_paths().unwrap_or_default();
    let key = |row: usize| paths.get(row).cloned().flatten().unwrap_or_else(|| format!("\0{row}"));
    let keys: Vec<String> = (0..dataset.len()).map(key).collect();
    let mut circle: Vec<(blake3::Hash, &str, usize)> = Vec::new();
    let mut seen = std::collections::BTreeMap::new();
    for (row, key) in keys.iter().enumerate() {
        seen.entry(key.as_str()).or_insert_with(|| {
            let drawn = blake3::Hasher::new().update(&seed.to_le_bytes()).update(key.as_bytes()).finalize();
            circle.push((drawn, key, row));
        });
    }
    if circle.len() < 2 {
        return Err(EvalError::OnePage.into());
    }
    circle.sort_unstable_by_key(|(drawn, ..)| *drawn.as_bytes());
    let next: std::collections::BTreeMap<&str, usize> =
        (0..circle.len()).map(|i| (circle[i].1, circle[(i + 1) % circle.len()].2)).collect();
    Ok(keys.iter().map(|key| next[key.as_str()]).collect())
}
