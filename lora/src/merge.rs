//! Base and adapter to one model that transformers loads: `W' = round(W + alpha/r B A)`, tensor by tensor.
//! It never holds more than a slice of a tensor and one adapter a thread, and nothing is visible before all of it is on the disk.

mod delta;
mod folder;
mod plan;
mod progress;
mod report;
mod sample;
mod write;

pub use delta::Rounding;
pub use plan::shards;
pub use report::{Change, MergeReport};
pub use sample::{write_random_adapter, write_random_base};

use crate::base::{Base, BaseHashes, INDEX_FILE};
use crate::{Adapter, Dtype, Error, Result};
use plan::{Plan, PlannedFile};
use progress::Progress;
use std::path::Path;
use storage::StagedDir;
use write::{Merge, WrittenFile};

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

/// Merges an adapter folder into a base folder and publishes the result, with hub names, as a new folder: the weights, a
/// report, the model card that `card` makes of it, and the base's other files byte for byte (of `config.json` the dtype
/// follows [`MergeOptions::dtype`]).
///
/// Every tensor is read again after it was written. What an attempt that was killed has finished is verified and kept.
///
/// # Errors
/// Base or adapter do not hold or do not fit each other; a number is not finite; `out_dir` exists or cannot be written.
/// Nothing is visible then.
pub fn merge(
    base_dir: &Path,
    adapter_dir: &Path,
    out_dir: &Path,
    options: MergeOptions,
    card: &dyn Fn(&MergeReport) -> String,
) -> Result<MergeReport> {
    let base = Base::open(base_dir)?;
    let adapter = Adapter::open(adapter_dir, &base.linears())?;
    let trained_on = BaseHashes::open(adapter_dir)?;
    if let Some(trained_on) = trained_on.as_ref().filter(|trained_on| !trained_on.has_headers_of(&base)) {
        base.hashes()?.0.require(base_dir, adapter_dir, trained_on)?;
    }
    let headers = base.tensors().iter().map(|(name, info)| {
        let dtype = options.dtype.unwrap_or(info.dtype);
        (name.clone(), (dtype, info.shape.clone()))
    });
    let plan = Plan::new(headers.collect(), options.max_shard_bytes, out_dir)?;
    let staged = StagedDir::resume(out_dir)?;
    let merge = Merge {
        base: &base,
        adapter: &adapter,
        adapted: adapter.modules().collect(),
        trained_on: trained_on.as_ref(),
        options,
    };
    let finished = write_all(&merge, &plan, &staged);
    if let (Err(Error::OtherBase { .. }), Some(trained_on)) = (&finished, &trained_on) {
        base.hashes()?.0.require(base_dir, adapter_dir, trained_on)?; // The first tensor that differs was met; this lists all.
    }
    let (written, found_finished) = finished?;
    let report = MergeReport::new(&merge, &plan, written, found_finished)?;
    if let Some(index) = plan.index() {
        staged.write(INDEX_FILE, &index)?;
    }
    folder::copy_other_files(base_dir, staged.path(), options.dtype)?;
    staged.write(folder::REPORT_FILE, &report.to_json())?;
    staged.write(folder::CARD_FILE, card(&report).as_bytes())?;
    storage::sweep(staged.path())?; // What a kill has left of the progress's own file.
    staged.remove(Progress::FILE)?;
    staged.publish()?;
    Ok(report)
}

/// Every file of weights, written and read again; returns their tensors, and how many files an earlier attempt had finished.
fn write_all(merge: &Merge, plan: &Plan, staged: &StagedDir) -> Result<(WrittenFile, usize)> {
    let dir = staged.path();
    let mut progress = Progress::open(dir, progress::plan_hash(merge)?);
    if progress.files.is_empty() {
        staged.clear()?;
    }
    require_room(dir, plan)?;
    let mut found = 0;
    for file in &plan.files {
        match progress.files.get(&file.name) {
            Some(written) if merge.is_finished(dir, file, written)? => found += 1,
            _ => {
                let written = merge.write_file(dir, file)?;
                progress.files.insert(file.name.clone(), written);
                progress.save(dir)?;
            }
        }
    }
    Ok((progress.files.into_values().flatten().collect(), found))
}

/// Looks at the disk before anything is written; what an earlier attempt has left is overwritten in place.
fn require_room(dir: &Path, plan: &Plan) -> Result<()> {
    let there = |file: &PlannedFile| dir.join(&file.name).metadata().map_or(0, |metadata| metadata.len());
    let (need, there) = (plan.bytes(), plan.files.iter().map(there).sum::<u64>());
    let free = storage::free_bytes(dir)?;
    if free.saturating_add(there) >= need {
        return Ok(());
    }
    Err(Error::NoRoom { dir: dir.to_owned(), need: need.div_ceil(1_000_000), free: free / 1_000_000 })
}

#[cfg(test)]
mod tests;
