//! Base and adapter to one model that transformers loads: `W' = round(W + alpha/r B A)`, tensor by tensor.
//! It never holds more than a slice of a tensor and one adapter, and nothing is visible before all of it is on the disk.

mod delta;
mod folder;
mod weights;

pub use delta::Rounding;
pub use weights::shards;

use crate::base::Base;
use crate::{Adapter, Dtype, Result};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use storage::StagedDir;

/// What may be chosen about a merge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MergeOptions {
    /// The dtype of all tensors of the result; `None` keeps each tensor's own.
    /// The base is rounded to it before the adapter is added, as if it had been loaded in this dtype.
    pub dtype: Option<Dtype>,
    /// A file of the result holds at most so many bytes of tensors, or one tensor that is larger.
    pub max_shard_bytes: u64,
    /// How often a sum is rounded.
    pub rounding: Rounding,
}

/// What a merge did. Its `Display` is a summary of one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MergeReport {
    /// Tensors written.
    pub tensors: usize,
    /// Bytes of tensors written.
    pub bytes: u64,
    /// Files they are in.
    pub files: usize,
    /// By hub name, the tensors that an adapter was added to.
    pub changed: BTreeMap<String, Change>,
}

/// What became of an adapter's product in the numbers of one tensor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Change {
    /// Elements where the product is not zero.
    pub wanted: u64,
    /// Those of them where the merged number differs from the base's.
    pub survived: u64,
}

impl Change {
    /// The share of the wanted changes that rounding left; 1 if none was wanted.
    #[must_use]
    pub fn share(self) -> f64 {
        if self.wanted == 0 { 1.0 } else { self.survived as f64 / self.wanted as f64 }
    }

    fn add(&mut self, other: Self) {
        self.wanted += other.wanted;
        self.survived += other.survived;
    }
}

impl fmt::Display for MergeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tensors, bytes, files, changed } = self;
        let gb = *bytes as f64 / 1e9;
        write!(f, "{} of {tensors} tensors changed, {gb:.3} GB in {files} file(s)", changed.len())?;
        let mut total = Change::default();
        changed.values().for_each(|change| total.add(*change));
        write!(f, "; {:.1} % of the changes survive rounding", 100.0 * total.share())?;
        match changed.iter().min_by(|x, y| x.1.share().total_cmp(&y.1.share())) {
            Some((name, least)) => write!(f, " (least: {:.1} % of {name})", 100.0 * least.share()),
            None => Ok(()),
        }
    }
}

/// Merges an adapter folder into a base folder and publishes the result, with hub names, as a new folder:
/// the weights, and the base's other files byte for byte (of `config.json` the dtype follows [`MergeOptions::dtype`]).
///
/// # Errors
/// Base or adapter do not hold or do not fit each other; a number is not finite; `out_dir` exists or cannot be written.
/// Nothing is visible then.
pub fn merge(base_dir: &Path, adapter_dir: &Path, out_dir: &Path, options: MergeOptions) -> Result<MergeReport> {
    let base = Base::open(base_dir)?;
    let adapter = Adapter::open(adapter_dir, &base.linears())?;
    let staged = StagedDir::new(out_dir)?;
    let report = weights::write(&base, &adapter, staged.path(), options)?;
    folder::copy_other_files(base_dir, staged.path(), options.dtype)?;
    staged.publish()?;
    Ok(report)
}

#[cfg(test)]
mod tests;
