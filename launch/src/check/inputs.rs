//! What a run reads before its first step: its config, the base and the rows. Each is opened as the run opens it.

use std::path::Path;

use data::Dataset;
use lora::{Dtype, Layout};
use model::ModelConfig;
use model::engine::{Backend, DeviceError};
use trainer::config::ConfigError;
use trainer::plan::Plan;
use trainer::{Config, Places};

use super::{Finding, Subject};
use crate::stores::Access;
use crate::{Error, places, run_folder};

/// Every problem of the file at once, and the run folder.
pub(super) fn config(subject: &mut Subject) -> Vec<Finding> {
    let args = subject.args;
    let mut found = Vec::new();
    if let Some(n_gpus) = args.gpus {
        let ready = Backend::of_build(args.backend).and_then(|backend| backend.require(n_gpus as usize));
        found.extend(ready.err().map(without_gpu));
    }
    let config = match run_folder::read(&args.config, &args.run) {
        Ok(config) => config,
        Err(Error::Trainer(trainer::Error::Config(ConfigError::Invalid { problems }))) => {
            let one = |problem| trainer::Error::from(ConfigError::Invalid { problems: vec![problem] });
            found.extend(problems.into_iter().map(|problem| Finding::error(one(problem))));
            return found;
        }
        Err(error) => return [found, vec![Finding::error(error)]].concat(),
    };
    found.push(Finding::ok(format!("{}: every key and value holds", args.config.display())));
    subject.remote = places::remote(&config);
    if subject.remote == [false; 2] {
        found.push(run_folder(&config, args.run.from_scratch, &mut subject.begun)); // Hub ids become commits before they are compared.
    }
    subject.config = Some(config);
    found
}

/// A machine without any GPU may be where a job is submitted from; whatever else is missing ends a run.
fn without_gpu(error: DeviceError) -> Finding {
    match error.is_of_a_machine_without_gpu() {
        true => Finding::warning(error.to_string(), "a run on this machine ends before its first worker starts"),
        false => Finding::error(error),
    }
}

/// What the run folder holds, and the step that the run goes on from.
fn run_folder(config: &Config, from_scratch: bool, begun: &mut u64) -> Finding {
    let dir = config.output_dir.display();
    match run_folder::accepts(config, from_scratch) {
        Ok(None) => Finding::ok(format!("{dir}: a new run")),
        Ok(Some(step)) => {
            *begun = step;
            Finding::ok(format!("{dir}: goes on from the checkpoint of step {step}"))
        }
        Err(error) => Finding::error(error),
    }
}

/// The base: its config, every tensor by name and shape (with `--read-base` every number), and what of it is trained.
pub(super) fn model(subject: &mut Subject) -> Vec<Finding> {
    let Some(config) = &subject.config else { return Vec::new() };
    if subject.remote[0] {
        return vec![on_the_hub("model.path")];
    }
    let dir = Path::new(&config.model.path);
    if !dir.is_dir() {
        return vec![Finding::error(Error::NoModel(config.model.path.clone()))];
    }
    let (model, layout, base) = match opened(dir, config, subject.args.read_base) {
        Ok(opened) => opened,
        Err(error) => return vec![Finding::error(error)],
    };
    let mut found = vec![Finding::ok(format!(
        "{}: {} frozen numbers; {} adapters train {}",
        dir.display(),
        grouped(model.n_parameters()),
        layout.modules().len(),
        grouped(layout.len())
    ))];
    if let Some(hash) = base.hash {
        found.push(Finding::ok(format!("every number is finite; blake3 {hash}")));
    }
    subject.base_bytes = Some(base.bytes);
    subject.bf16_base = base.is_bf16;
    subject.n_trainable = Some(layout.len());
    subject.model = Some(model);
    found
}

pub(super) fn on_the_hub(key: &str) -> Finding {
    let next = "give its folder to have it checked here; `ecg-train launch` downloads it";
    Finding::warning("a hub id, so nothing behind it is looked at", next).at(key)
}

/// `76,995,584`.
fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let comma = |i: usize| i > 0 && (digits.len() - i).is_multiple_of(3);
    digits.chars().enumerate().flat_map(|(i, digit)| comma(i).then_some(',').into_iter().chain([digit])).collect()
}

/// Of the base's files.
struct Read {
    bytes: u64,
    is_bf16: bool,
    /// Over every number, where they were read.
    hash: Option<blake3::Hash>,
}

/// Every tensor by name and shape; and by number, which costs reading all of them.
fn opened(dir: &Path, config: &Config, whole: bool) -> Result<(ModelConfig, Layout, Read), Error> {
    let model = ModelConfig::open(dir)?;
    let (base, hash) = match whole {
        true => model.open_base_read(dir).map(|(base, hashes)| (base, Some(hashes.total())))?,
        false => (model.open_base(dir)?, None),
    };
    let bytes = base.tensors().values().map(|info| info.offsets.end - info.offsets.start).sum();
    let is_bf16 = base.tensors().values().all(|info| info.dtype == Dtype::Bf16);
    let modules = config.lora.targets().select(&model.modules())?;
    Ok((model, Layout::new(modules, config.lora.r), Read { bytes, is_bf16, hash }))
}

/// The rows, counted.
pub(super) fn rows(subject: &mut Subject) -> Vec<Finding> {
    let Some(config) = &subject.config else { return Vec::new() };
    if subject.remote[1] {
        return vec![on_the_hub("data.train")];
    }
    match open_rows(config) {
        Ok(rows) => {
            let mut found = vec![Finding::ok(format!("{} rows to train on", rows.len()))];
            let plan = Plan::over(config, &rows).map_err(trainer::Error::from);
            found.extend(plan.err().map(Finding::error)); // Grouping asks for what not every source can tell.
            subject.rows = Some(rows);
            found
        }
        Err(error) => vec![Finding::error(error)],
    }
}

fn open_rows(config: &Config) -> Result<Dataset, Error> {
    let places = Places::of(config);
    let store = Access::of_shell().for_data(&config.data).store(&places.train)?;
    Ok(trainer::open_rows(config, &places, &store)?)
}
