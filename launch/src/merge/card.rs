//! The model card beside merged weights: a README.md whose front matter the hub reads.
//! It never holds a path of this machine, a row's text or a figure that was not measured.

use std::fmt::Write as _;
use std::path::Path;

use lora::MergeReport;
use remote::{HubId, Split};
use trainer::Config;
use trainer::journal::{self, Line};

/// The run that an adapter is a checkpoint of.
struct Run {
    config: Config,
    /// The journal's line of the checkpoint's step.
    line: Option<Line>,
}

impl Run {
    /// Of an adapter in a run folder; `None` for any other.
    fn of(adapter: &Path) -> Option<Self> {
        let adapter = adapter.canonicalize().ok()?;
        let dir = adapter.parent()?;
        let step: u64 = adapter.file_name()?.to_str()?.strip_prefix("checkpoint-")?.parse().ok()?;
        let config = Config::load(&dir.join("config.toml"), &[]).ok()?;
        let lines = journal::read(&dir.join("journal.jsonl")).unwrap_or_default();
        Some(Self { config, line: lines.into_iter().find(|line| line.step == step) })
    }

    /// The data sets that lie on the hub.
    fn datasets(&self) -> Vec<String> {
        let is_here = |name: &str| Path::new(name).exists();
        let sources = self.config.data.train.iter().filter(|source| !is_here(source));
        let mut names: Vec<String> =
            sources.filter_map(|source| Some(HubId::dataset(source, Split::Train)?.name)).collect();
        names.dedup();
        names
    }
}

/// The hub id of the base: what a run resolved, or what PEFT's config says; a folder's name is none.
fn base_id(report: &MergeReport, run: Option<&Run>) -> Option<HubId> {
    if let Some(Run { config, .. }) = run {
        let revision = config.model.revision.as_deref()?;
        return HubId::model(&config.model.path, Some(revision)).filter(|id| !Path::new(&id.name).exists());
    }
    HubId::model(&report.base_name, None).filter(|id| !Path::new(&id.name).exists())
}

/// The whole file.
pub(super) fn text(adapter: &Path, report: &MergeReport) -> String {
    let run = Run::of(adapter);
    let base = base_id(report, run.as_ref());
    let datasets = run.as_ref().map(Run::datasets).unwrap_or_default();
    let mut card = front_matter(base.as_ref(), &datasets);
    write(&mut card, report, base.as_ref(), run.as_ref());
    card
}

/// The hub's metadata. The licence is the base's, where this program knows it.
fn front_matter(base: Option<&HubId>, datasets: &[String]) -> String {
    let mut card = "---\nlibrary_name: transformers\npipeline_tag: image-text-to-text\n".to_owned();
    if let Some(base) = base {
        card.push_str(&format!("base_model: {}\nbase_model_relation: finetune\n", base.name));
        if base.name.starts_with("google/medgemma-") {
            card.push_str("license: other\nlicense_name: health-ai-developer-foundations\n");
            card.push_str("license_link: https://developers.google.com/health-ai-developer-foundations/terms\n");
        }
    }
    if !datasets.is_empty() {
        card.push_str("datasets:\n");
        datasets.iter().for_each(|name| card.push_str(&format!("- {name}\n")));
    }
    card + "tags:\n- ecg\n- lora\n- ecg-train\n---\n\n"
}

/// The text below the front matter.
fn write(card: &mut String, report: &MergeReport, base: Option<&HubId>, run: Option<&Run>) {
    let base_name = base.map_or_else(
        || "its base".to_owned(),
        |id| format!("[{}](https://huggingface.co/{}) at {}", id.name, id.name, id.revision),
    );
    let MergeReport { tensors, changed, bytes, r, lora_alpha, .. } = report;
    let (gb, share, changed) = (*bytes as f64 / 1e9, 100.0 * report.total().share(), changed.len());
    let (base_hash, adapter_hash) = (report.base.to_hex(), report.adapter.to_hex());
    let _ = write!(
        card,
        "# Merged model for ECG pages

A LoRA adapter (rank {r}, alpha {lora_alpha}) merged into {base_name} by `ecg-train merge`.

**Not a medical device.** This model answers questions about pictures of electrocardiograms and is often wrong. It is for
research; nothing it says may be used for diagnosis, treatment or any other decision about a person's care.

## Weights

{changed} of {tensors} tensors are changed, {gb:.3} GB in all; {share:.1} % of the adapter's changes survive rounding to the weights' dtype.
`merge_report.json` has this for each tensor. blake3 of the base: `{base_hash}`, of the adapter: `{adapter_hash}`{compared}.

```python
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained(\"THIS_FOLDER\", dtype=\"auto\")
processor = AutoProcessor.from_pretrained(\"THIS_FOLDER\")
```
",
        compared = match report.base_is_the_adapters {
            true => ", which was trained on this base",
            false => ", which does not say which base it was trained on",
        }
    );
    if let Some(Run { config, line }) = run {
        training(card, config, line.as_ref());
    }
}

/// How the adapter was trained, and what the journal says of its last step.
fn training(card: &mut String, config: &Config, line: Option<&Line>) {
    let train = &config.train;
    card.push_str("\n## Training\n\n| | |\n|---|---|\n");
    let mut row = |name: &str, value: String| card.push_str(&format!("| {name} | {value} |\n"));
    row("rows a step", train.global_batch_size.to_string());
    row("learning rate", format!("{:e}, {}", train.learning_rate, name(&train.lr_scheduler)));
    row("LoRA rank, alpha, dropout", format!("{}, {}, {}", config.lora.r, config.lora.alpha, config.lora.dropout));
    row("precision", name(&train.precision));
    row("loss on", name(&config.data.loss_on));
    let Some(line) = line else { return };
    row("optimizer steps, epochs", format!("{}, {:.3}", line.step, line.epoch));
    row("loss of the last step (training rows)", format!("{:.4}", line.loss));
    row("token accuracy of the last step (training rows)", format!("{:.4}", line.mean_token_accuracy));
    row("the same among tokens of answers", format!("{:.4}", line.answer_token_accuracy));
    card.push_str("\nThese are figures of training: they say nothing about patients the model has not seen.\n");
}

/// A value as the config writes it.
fn name(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| Some(value.as_str()?.to_owned())).unwrap_or_default()
}

#[cfg(test)]
mod tests;
