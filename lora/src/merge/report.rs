//! What a merge did, for people and for programs: `merge_report.json`.
//! It never says more than was counted or read back, and is the same whenever the same merge is made.

use super::plan::Plan;
use super::progress::adapter_hash;
use super::write::{Merge, WrittenFile};
use super::{Dtype, Rounding};
use crate::base::BaseHashes;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What became of an adapter's product in the numbers of one tensor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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

    pub(super) fn add(&mut self, other: Self) {
        self.wanted += other.wanted;
        self.survived += other.survived;
    }
}

/// What a merge did. Its `Display` is a summary of one line.
#[derive(Debug, Clone, PartialEq)]
pub struct MergeReport {
    /// Tensors written, each read again.
    pub tensors: usize,
    /// Bytes of tensors written.
    pub bytes: u64,
    /// Files they are in.
    pub files: usize,
    /// Those of them that an earlier, killed attempt had finished.
    pub found_finished: usize,
    /// By hub name, the tensors that an adapter was added to: exactly those that it adapts.
    pub changed: BTreeMap<String, Change>,
    /// Tensors whose bytes are the base's.
    pub untouched: usize,
    /// What the base is known by.
    pub base: blake3::Hash,
    /// Whether the adapter says that it was trained on this base; PEFT's say nothing.
    pub base_is_the_adapters: bool,
    /// `base_model_name_or_path` of the adapter.
    pub base_name: String,
    /// Of `adapter_model.safetensors`.
    pub adapter: blake3::Hash,
    /// The adapter's rank.
    pub r: usize,
    /// The product was multiplied by `lora_alpha / r`.
    pub lora_alpha: f64,
    /// The chosen dtype of all tensors; `None` if each kept its own.
    pub dtype: Option<Dtype>,
    /// How often a sum was rounded.
    pub rounding: Rounding,
}

impl MergeReport {
    /// Of what was written; every module of the adapter must be among it.
    pub(super) fn new(merge: &Merge, plan: &Plan, written: WrittenFile, found_finished: usize) -> Result<Self> {
        let changed: BTreeMap<String, Change> =
            written.iter().filter_map(|(name, written)| Some((name.clone(), written.change?))).collect();
        let adapted: BTreeSet<String> = merge.adapted.iter().map(|module| format!("{module}.weight")).collect();
        let unused = adapted.iter().filter(|name| !changed.contains_key(*name));
        Error::unless_empty(merge.adapter.dir(), unused.map(|name| format!("was not added to: {name}")).collect())?;
        let config = merge.adapter.config();
        Ok(Self {
            tensors: written.len(),
            bytes: plan.bytes(),
            files: plan.files.len(),
            found_finished,
            changed,
            untouched: written.values().filter(|written| written.base == written.merged).count(),
            base: BaseHashes::new(written.into_iter().map(|(name, written)| (name, written.base)).collect()).total(),
            base_is_the_adapters: merge.trained_on.is_some(),
            base_name: config.base_model_name_or_path.clone(),
            adapter: adapter_hash(merge.adapter)?,
            r: config.r,
            lora_alpha: config.lora_alpha,
            dtype: merge.options.dtype,
            rounding: merge.options.rounding,
        })
    }

    /// Over all tensors.
    #[must_use]
    pub fn total(&self) -> Change {
        let mut total = Change::default();
        self.changed.values().for_each(|change| total.add(*change));
        total
    }

    /// The bytes of `merge_report.json`.
    pub(super) fn to_json(&self) -> Vec<u8> {
        let change = |change: &Change| serde_json::json!({ "wanted": change.wanted, "survived": change.survived, "share": change.share() });
        let changed: BTreeMap<&String, _> = self.changed.iter().map(|(name, c)| (name, change(c))).collect();
        let json = serde_json::json!({
            "base": { "name": self.base_name, "blake3": self.base.to_hex().as_str(), "is_the_adapters": self.base_is_the_adapters },
            "adapter": { "blake3": self.adapter.to_hex().as_str(), "r": self.r, "lora_alpha": self.lora_alpha },
            "dtype": self.dtype.map(Dtype::torch_name),
            "rounding": self.rounding,
            "tensors": self.tensors,
            "untouched": self.untouched,
            "bytes": self.bytes,
            "files": self.files,
            "survived": self.total().share(),
            "changed": changed,
        });
        format!("{json:#}\n").into_bytes()
    }
}

impl fmt::Display for MergeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tensors, bytes, files, changed, .. } = self;
        let gb = *bytes as f64 / 1e9;
        write!(f, "{} of {tensors} tensors changed, {gb:.3} GB in {files} file(s), all read again", changed.len())?;
        if self.found_finished > 0 {
            write!(f, " ({} finished by an earlier attempt)", self.found_finished)?;
        }
        write!(f, "; {:.1} % of the changes survive rounding", 100.0 * self.total().share())?;
        match changed.iter().min_by(|x, y| x.1.share().total_cmp(&y.1.share())) {
            Some((name, least)) => write!(f, " (least: {:.1} % of {name})", 100.0 * least.share()),
            None => Ok(()),
        }
    }
}
