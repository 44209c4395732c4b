//! Opens what a rank trains with, from the config: model, text, rows, adapters. It never writes a file.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use data::{BadRow, Dataset, Learn, LossOn, Shuffle, Sources, Store, Template, TemplateOptions};
use lora::base::BaseHashes;
use lora::{AdapterConfig, Layout, Targets};
use model::engine::Backend;
use model::memory::{Holder, Load};
use model::{Checkpointing, LossNorm, MedGemma, ModelConfig, Ops};

use crate::checkpoint::{self, Checkpoint};
use crate::config::{self, Config, LoraConfig, TargetModules};
use crate::error::Error;
use crate::event::Event;
use crate::held_out::{HeldOut, HeldOutSpec};
use crate::optimizer::{AdamW, AdamWSettings};
use crate::places::Places;
use crate::train_step::Recipe;

/// Where what a config names lies, and what opens it.
type Where<'a> = (&'a Places, &'a Arc<dyn Store>);

/// Everything read from files before the first step.
pub(crate) struct Opened<O: Ops> {
    pub model: MedGemma<O>,
    pub template: Arc<Template>,
    pub dataset: Arc<Dataset>,
    pub layout: Layout,
    pub optim: AdamW,
    /// Hash of what the rows are known by.
    pub rows: blake3::Hash,
    /// What the base is known by.
    pub base: BaseHashes,
    /// Where the run goes on; `None` for a new one.
    pub resumed: Option<Checkpoint>,
}

impl<O: Ops> Opened<O> {
    /// Opens everything a run of `config` needs; a fault in any of it comes before work is wasted.
    pub fn new(
        ops: &O,
        config: &Config,
        (places, store): Where,
        from_scratch: bool,
        events: &mut dyn FnMut(Event),
    ) -> Result<Self, Error> {
        let model_dir = &places.model;
        let model_config = ModelConfig::open(model_dir)?;
        let template = Template::open(model_dir, template_options(&model_config, config.data.double_bos))?;
        let mut dataset = open_rows(config, places, store)?;
        dataset.require_image_size(model_config.vision.image_size)?;
        let template = Arc::new(template);
        leave_out_bad_rows(&mut dataset, config, &template, events)?;
        let modules = config.lora.targets().select(&model_config.modules())?;
        let layout = Layout::new(modules, config.lora.r);
        let rows = dataset.fingerprint();
        let (optim, resumed) = adapters(config, &layout, rows, from_scratch, events)?;
        let (base, hashes) = model_config.open_base_read(model_dir)?; // This reads the files, the load finds them in memory.
        if let Some(Checkpoint { dir, .. }) = &resumed
            && let Some(trained_on) = BaseHashes::open(dir)?
        {
            hashes.require(model_dir, dir, &trained_on)?;
        }
        let model = MedGemma::load(ops, &model_config, &base)?;
        Ok(Self { rows, base: hashes, model, template, dataset: Arc::new(dataset), layout, optim, resumed })
    }
}

/// The rows of `data.eval`, if there are any. Of a run that `is_new`, every row that is to be evaluated is made into a
/// batch once: a fault in one comes before work is wasted.
pub(crate) fn held_out(
    (places, store): Where,
    spec: HeldOutSpec,
    is_new: bool,
    events: &mut dyn FnMut(Event),
) -> Result<Option<HeldOut>, Error> {
    let config = spec.config;
    let Some(every) = config.data.eval_every else { return Ok(None) };
    let mut dataset = Dataset::open_in(store.clone(), &sources(config, &places.eval))?;
    dataset.require_image_size(spec.model.vision.image_size)?;
    leave_out_bad_rows(&mut dataset, config, &spec.template, events)?;
    let held_out = HeldOut::new(dataset, every, spec)?;
    if is_new {
        held_out.require_good_rows()?;
    }
    Ok(Some(held_out))
}

/// As many as `data.max_bad_rows` allows, each with a warning; where it says nothing, a bad row ends the run.
fn leave_out_bad_rows(
    dataset: &mut Dataset,
    config: &Config,
    template: &Arc<Template>,
    events: &mut dyn FnMut(Event),
) -> Result<(), Error> {
    let Some(max) = config.data.max_bad_rows else { return Ok(()) };
    let learn = learn(config, template.clone());
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    for BadRow { file, row, id, reason } in dataset.leave_out_bad_rows(max, &learn, threads)? {
        events(Event::Warning(format!("{file}: row {row} (id {id}) is left out: {reason}")));
    }
    Ok(())
}

/// What the text side needs to know of a model.
#[must_use]
pub fn template_options(model: &ModelConfig, double_bos: bool) -> TemplateOptions {
    TemplateOptions {
        mm_tokens_per_image: model.mm_tokens_per_image,
        image_token_index: model.image_token_index,
        boi_token_index: model.boi_token_index,
        double_bos,
    }
}

/// The rows a run of `config` trains on.
///
/// # Errors
/// Nothing found, a damaged file, or nothing left by `data.include`.
pub fn open_rows(config: &Config, places: &Places, store: &Arc<dyn Store>) -> Result<Dataset, Error> {
    Ok(Dataset::open_in(store.clone(), &sources(config, &places.train))?)
}

/// What a run of `config` makes of a row's text.
#[must_use]
pub fn learn(config: &Config, template: Arc<Template>) -> Learn {
    Learn { template, loss_on: config.data.loss_on.into(), max_seq_len: config.data.max_seq_len }
}

/// The rows of some files, as a run of `config` sees them.
#[must_use]
pub fn sources(config: &Config, files: &[PathBuf]) -> Sources {
    Sources {
        files: files.to_vec(),
        image_folder: config.data.image_folder.clone(),
        include: config.data.include.clone().unwrap_or_default(),
        keep_image_marker: config.data.keep_image_marker,
    }
}

impl LoraConfig {
    /// Which linears get an adapter, as `lora` understands it.
    #[must_use]
    pub fn targets(&self) -> Targets {
        match &self.target_modules {
            TargetModules::AllLinear(_) => Targets::AllLinear,
            TargetModules::Suffixes(suffixes) => Targets::Suffixes(suffixes.clone()),
        }
    }
}

/// `adapter_config.json` of this run's checkpoints.
pub(crate) fn adapter_config(config: &Config) -> AdapterConfig {
    AdapterConfig {
        r: config.lora.r,
        lora_alpha: config.lora.alpha,
        lora_dropout: config.lora.dropout,
        target_modules: config.lora.targets(),
        base_model_name_or_path: config.model.path.clone(),
    }
}

/// Adapters and moments: of the newest good checkpoint, of `lora.init_from`, or fresh.
fn adapters(
    config: &Config,
    layout: &Layout,
    rows: blake3::Hash,
    from_scratch: bool,
    events: &mut dyn FnMut(Event),
) -> Result<(AdamW, Option<Checkpoint>), Error> {
    let train = &config.train;
    let settings = AdamWSettings { betas: train.betas, eps: train.eps, weight_decay: train.weight_decay };
    let (newest, damaged) = checkpoint::newest(&config.output_dir)?;
    for checkpoint in &damaged {
        events(Event::Warning(format!("{checkpoint}; an older checkpoint is used")));
    }
    if let Some(checkpoint) = newest {
        if from_scratch {
            return Err(Error::NotFromScratch(checkpoint.dir));
        }
        checkpoint.require_fingerprint(&config.fingerprint())?;
        checkpoint.require_rows(&rows.to_hex())?;
        let (params, _) = lora::read_adapter(&checkpoint.dir, layout)?;
        let bytes = checkpoint.read("optimizer.safetensors")?;
        let (exp_avg, exp_avg_sq) = checkpoint::decode_optimizer(&bytes, layout.len(), &layout_digest(layout))?;
        let n_applied = checkpoint.state.step.saturating_sub(checkpoint.state.skipped_steps);
        let optim = AdamW::resume(params, exp_avg, exp_avg_sq, n_applied, settings)?;
        return Ok((optim, Some(checkpoint)));
    }
    let params = match &config.lora.init_from {
        Some(dir) => lora::read_adapter(dir, layout)?.0,
        None => lora::init(layout, config.seed),
    };
    Ok((AdamW::new(params, settings), None))
}

/// Hash of what each number of the flat buffer belongs to.
pub(crate) fn layout_digest(layout: &Layout) -> String {
    let names: Vec<&str> = layout.modules().iter().map(|module| module.name.as_str()).collect();
    blake3::hash(format!("r={} {}", layout.r(), names.join(" ")).as_bytes()).to_hex().to_string()
}

impl Recipe {
    pub fn new(config: &Config) -> Self {
        Self {
            seed: config.seed,
            scaling: adapter_config(config).scaling(),
            dropout: config.lora.dropout,
            max_grad_norm: config.train.max_grad_norm,
            max_skipped_steps: config.train.max_skipped_steps.unwrap_or(0),
            loss_norm: match config.train.loss_norm {
                config::LossNorm::GlobalTokens => LossNorm::GlobalTokens,
                config::LossNorm::MicroMean => LossNorm::MicroMean,
            },
            checkpointing: config.train.gradient_checkpointing.into(),
        }
    }
}

/// How many numbers `config` trains on a model.
///
/// # Errors
/// `lora.target_modules` names no linear of it.
pub fn n_trainable(config: &Config, model: &ModelConfig) -> Result<usize, Error> {
    Ok(Layout::new(config.lora.targets().select(&model.modules())?, config.lora.r).len())
}

/// What the memory of a step of `config` depends on, for micro-batches of so many tokens and pages, on the CPU or on one
/// GPU through its backend.
#[must_use]
pub fn memory_load(
    config: &Config,
    model: &ModelConfig,
    n_trainable: usize,
    tokens: usize,
    pages: usize,
    gpu: Option<Backend>,
) -> Load {
    let checkpointing = config.train.gradient_checkpointing.into();
    let adapted = config.lora.targets().select(&model.modules()).unwrap_or_default();
    let trains_tower = adapted.iter().any(|module| module.name.starts_with("vision_tower"));
    let (rank, dropout) = (config.lora.r, config.lora.dropout > 0.0);
    let bf16 = config.train.precision == config::Precision::Bf16;
    let holder = match gpu {
        None => Holder::Cpu { bf16 },
        // Drivers of Vulkan that multiply bf16 are not counted on.
        Some(backend) => Holder::Gpu { bf16: bf16 && backend == Backend::Cuda, nccl: false },
    };
    Load { tokens, pages, n_trainable, rank, trains_tower, dropout, checkpointing, holder }
}

impl From<config::GradientCheckpointing> for Checkpointing {
    fn from(checkpointing: config::GradientCheckpointing) -> Self {
        match checkpointing {
            config::GradientCheckpointing::None => Self::None,
            config::GradientCheckpointing::Block => Self::Block,
            config::GradientCheckpointing::Vision => Self::Vision,
        }
    }
}

impl From<config::Shuffle> for Shuffle {
    fn from(shuffle: config::Shuffle) -> Self {
        match shuffle {
            config::Shuffle::FileOrder => Shuffle::FileOrder,
            config::Shuffle::Own => Shuffle::Own,
            config::Shuffle::Hf => Shuffle::Hf,
        }
    }
}

impl From<config::LossOn> for LossOn {
    fn from(loss_on: config::LossOn) -> Self {
        match loss_on {
            config::LossOn::All => LossOn::All,
            config::LossOn::Assistant => LossOn::Assistant,
        }
    }
}
