//! The config of a run: typed, closed, checked once, and writable again as the TOML it came from.
//! It never guesses: there are no defaults, and a key that it does not know is an error.

mod checks;
mod source;
mod typed;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize};

pub use source::ConfigError;

use crate::schedule::{LrScheduler, Schedule};

/// A whole run. Two runs with equal [`Config::fingerprint`] and equal files have equal losses, to the bit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The only source of randomness: order, initial adapters and dropout are pure functions of it.
    pub seed: u64,
    /// Run folder: resolved config, journal, checkpoints, logs.
    pub output_dir: PathBuf,
    /// The frozen base.
    pub model: ModelConfig,
    /// The rows.
    pub data: DataConfig,
    /// What is trained.
    pub lora: LoraConfig,
    /// How it is trained.
    pub train: TrainConfig,
    /// How often a run can be resumed from.
    pub checkpoint: CheckpointConfig,
    /// What is written about it.
    pub log: LogConfig,
}

/// `[model]`: the frozen base.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// A folder, or a hub id such as `google/medgemma-4b-it`.
    pub path: String,
    /// Commit, tag or branch of a hub id; a folder has none.
    pub revision: Option<String>,
}

/// `[data]`: the rows, their order and which of their tokens are learned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// Prepared folders, parquet files or globs, JSON files or hub ids, read in this order; in the TOML a string or a list.
    #[serde(deserialize_with = "one_or_many")]
    pub train: Vec<String>,
    /// Rows that are never trained on, as `train`.
    #[serde(default, deserialize_with = "some_one_or_many")]
    pub eval: Option<Vec<String>>,
    /// At most so many rows of `eval`; absent: all.
    pub eval_rows: Option<u64>,
    /// Optimizer steps between two evaluations.
    pub eval_every: Option<u64>,
    /// Folder that the image paths of JSON and parquet rows are under; absent: that of each file.
    pub image_folder: Option<PathBuf>,
    /// Folder on each node for what was read from an object store; absent: `ecg-train/objects` in the user's cache.
    pub cache_folder: Option<PathBuf>,
    /// Most that it holds, in GB; 0 for none, absent: 20.
    pub cache_gb: Option<u64>,
    /// How many bad rows may be left out, before the first step; absent: the first one ends the run.
    pub max_bad_rows: Option<u64>,
    /// Only rows whose image path contains this text.
    pub include: Option<String>,
    /// The order of the rows.
    pub shuffle: Shuffle,
    /// World size of the run whose order is replayed; only with `shuffle = "hf"`, absent: 1.
    pub replay_ranks: Option<u32>,
    /// Up to so many rows that show the same page stand together in a micro-batch, which sees the page once; absent: 1.
    pub group_by_page: Option<usize>,
    /// Micro-batches of similar lengths within each global batch, whose rows stay the same; absent: no.
    pub group_by_length: Option<bool>,
    /// Longest row, in tokens, image tokens included.
    pub max_seq_len: usize,
    /// Which tokens are learned.
    pub loss_on: LossOn,
    /// A second `<bos>` before each row, as the published script has it.
    pub double_bos: bool,
    /// The literal `<image>` stays in the question's text, as in the published script.
    pub keep_image_marker: bool,
}

/// `data.shuffle`: `true`, `false` or `"hf"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "ShuffleKey", into = "ShuffleKey")]
pub enum Shuffle {
    /// `false`: rows as the files have them.
    FileOrder,
    /// `true`: the project's own order.
    Own,
    /// `"hf"`: `torch.randperm` seeded with seed + epoch, as transformers' Trainer.
    Hf,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged, expecting = "expected true, false or \"hf\"")]
enum ShuffleKey {
    Flag(bool),
    Named(ShuffleName),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ShuffleName {
    Hf,
}

impl From<ShuffleKey> for Shuffle {
    fn from(key: ShuffleKey) -> Self {
        match key {
            ShuffleKey::Flag(false) => Self::FileOrder,
            ShuffleKey::Flag(true) => Self::Own,
            ShuffleKey::Named(ShuffleName::Hf) => Self::Hf,
        }
    }
}

impl From<Shuffle> for ShuffleKey {
    fn from(shuffle: Shuffle) -> Self {
        match shuffle {
            Shuffle::FileOrder => Self::Flag(false),
            Shuffle::Own => Self::Flag(true),
            Shuffle::Hf => Self::Named(ShuffleName::Hf),
        }
    }
}

/// `data.loss_on`: which tokens are learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LossOn {
    /// Prompt and answer; masked are padding, `<start_of_image>` and the soft tokens.
    All,
    /// Each model turn with its `<end_of_turn>`.
    Assistant,
}

/// `[lora]`: the adapters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraConfig {
    /// Rank of every adapter.
    pub r: usize,
    /// The product of the two factors is scaled by `alpha / r`.
    pub alpha: f64,
    /// Share of an adapter's input that is dropped in training.
    pub dropout: f64,
    /// Which linears get an adapter.
    pub target_modules: TargetModules,
    /// Folder of a PEFT adapter to start from, instead of the initialisation by `seed`.
    pub init_from: Option<PathBuf>,
}

/// `lora.target_modules`: `"all-linear"` or a list of last name components such as `["q_proj", "v_proj"]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected \"all-linear\" or a list of names such as [\"q_proj\", \"v_proj\"]")]
pub enum TargetModules {
    /// `"all-linear"`.
    AllLinear(AllLinear),
    /// Every linear whose name ends in one of these.
    Suffixes(Vec<String>),
}

/// Every linear of both towers, but not the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AllLinear {
    /// `"all-linear"`.
    AllLinear,
}

/// `[train]`: batch, optimizer and schedule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Rows of one optimizer step, over all ranks; a multiple of `micro_batch_size`.
    pub global_batch_size: usize,
    /// Rows of one forward and backward pass.
    pub micro_batch_size: usize,
    /// Peak of the schedule.
    pub learning_rate: f64,
    /// Shape of the schedule.
    pub lr_scheduler: LrScheduler,
    /// Warm-up as a share of all steps, rounded up; or `warmup_steps`; neither: no warm-up.
    pub warmup_ratio: Option<f64>,
    /// Warm-up in optimizer steps.
    pub warmup_steps: Option<u64>,
    /// Decoupled: `weight *= 1 - lr * weight_decay` in each step.
    pub weight_decay: f64,
    /// A longer gradient is shortened to this L2 norm; `inf` never clips.
    pub max_grad_norm: f64,
    /// AdamW's decay rates of the first and the second moment.
    pub betas: [f64; 2],
    /// AdamW's guard against division by zero.
    pub eps: f64,
    /// Passes over the rows; or `max_steps`.
    pub epochs: Option<f64>,
    /// Optimizer steps of the run.
    pub max_steps: Option<u64>,
    /// Arithmetic of the frozen base; adapters and optimizer are f32 always.
    pub precision: Precision,
    /// What is recomputed in the backward pass instead of kept; it changes memory and time, and no bit of a result.
    pub gradient_checkpointing: GradientCheckpointing,
    /// What the summed token losses are divided by.
    pub loss_norm: LossNorm,
    /// What happens to a step whose loss or gradient is not finite; absent: the run stops. It never reaches the weights.
    pub on_nonfinite: Option<OnNonfinite>,
    /// With `on_nonfinite = "skip"`: so many steps of a run may be skipped; the next one stops it.
    pub max_skipped_steps: Option<u64>,
}

/// `train.on_nonfinite`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnNonfinite {
    /// The run ends before the step is applied.
    Stop,
    /// The step is journalled with its rows and not applied.
    Skip,
}

/// `train.precision`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// bfloat16.
    Bf16,
    /// IEEE single precision.
    F32,
}

/// `train.gradient_checkpointing`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GradientCheckpointing {
    /// Everything is kept.
    None,
    /// Every layer of both towers keeps only its input.
    Block,
    /// Only the layers of the vision tower do.
    Vision,
}

/// `train.loss_norm`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossNorm {
    /// The supervised tokens of the whole step (transformers 5).
    GlobalTokens,
    /// Those of each micro-batch, then the number of micro-batches (transformers 4.57).
    MicroMean,
}

/// `[checkpoint]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointConfig {
    /// Optimizer steps between two checkpoints.
    pub every_steps: u64,
    /// How many of the newest intact ones stay.
    pub keep: usize,
}

/// `[log]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogConfig {
    /// Optimizer steps between two lines on the terminal; the journal has every step.
    pub every_steps: u64,
    /// Event files for TensorBoard.
    pub tensorboard: bool,
}

impl Config {
    /// Reads the TOML file `path`, sets `overrides` (each `section.key=VALUE`) in it, and checks it.
    ///
    /// An override displaces its alternative: `train.max_steps=5` takes `train.epochs` out.
    ///
    /// # Errors
    /// The file cannot be read, or [`ConfigError::Invalid`] with every problem at its line.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self, ConfigError> {
        Self::parse(&path.display().to_string(), &source::read(path)?, overrides)
    }

    /// As [`Config::load`], from a text that messages call `name`.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] with every problem at its line.
    pub fn parse(name: &str, text: &str, overrides: &[String]) -> Result<Self, ConfigError> {
        source::Source::new(name, text, overrides).parse()
    }

    /// The resolved config as TOML; [`Config::parse`] reads it back as the same value.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("what was read from TOML can be written as TOML")
    }

    /// blake3, in hex, of every key that determines the numbers of the run.
    ///
    /// Left out are the run folder, evaluation, log and checkpoint cadence, what only trades memory for time, and what is
    /// done with a step that is not finite: a run that stopped at one may be told to skip it.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let numbers = Self {
            output_dir: PathBuf::new(),
            data: DataConfig {
                eval: None,
                eval_rows: None,
                eval_every: None,
                cache_folder: None,
                cache_gb: None,
                ..self.data.clone()
            },
            train: TrainConfig {
                gradient_checkpointing: GradientCheckpointing::None,
                on_nonfinite: None,
                max_skipped_steps: None,
                ..self.train.clone()
            },
            checkpoint: CheckpointConfig { every_steps: 0, keep: 0 },
            log: LogConfig { every_steps: 0, tensorboard: false },
            ..self.clone()
        };
        blake3::hash(numbers.to_toml().as_bytes()).to_hex().to_string()
    }
}

impl TrainConfig {
    /// Forward and backward passes of a full optimizer step, over all ranks.
    #[must_use]
    pub fn micro_batches(&self) -> usize {
        self.global_batch_size / self.micro_batch_size
    }

    /// Any number of ranks up to that of the micro-batches can share a step; a further one would only wait.
    ///
    /// Gradients are added as integers, exactly, so the shares need not be equal: 48 micro-batches on 5 ranks are
    /// 10, 10, 10, 9 and 9, and the sum has the bits that it has on one rank.
    ///
    /// # Errors
    /// [`ConfigError::TooManyRanks`] if `world_size` exceeds [`TrainConfig::micro_batches`].
    pub fn require_work_for(&self, world_size: usize) -> Result<(), ConfigError> {
        let micro_batches = self.micro_batches();
        if world_size > micro_batches {
            return Err(ConfigError::TooManyRanks { world_size, micro_batches });
        }
        Ok(())
    }

    /// Optimizer steps of the run over `n_rows` rows (transformers: `ceil(epochs * steps_per_epoch)`, or `max_steps`).
    #[must_use]
    pub fn total_steps(&self, n_rows: u64) -> u64 {
        let steps_per_epoch = n_rows.div_ceil(self.global_batch_size as u64);
        let by_epochs = self.epochs.map(|epochs| (epochs * steps_per_epoch as f64).ceil() as u64);
        by_epochs.or(self.max_steps).unwrap_or(0)
    }

    /// Learning rate by step; the warm-up is `ceil(total_steps * warmup_ratio)` steps, as in transformers.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "in [0, 1]"
    )]
    pub fn schedule(&self, total_steps: u64) -> Schedule {
        let by_ratio = self.warmup_ratio.map(|ratio| (total_steps as f64 * ratio).ceil() as u64);
        Schedule {
            scheduler: self.lr_scheduler,
            learning_rate: self.learning_rate,
            warmup_steps: by_ratio.or(self.warmup_steps).unwrap_or(0),
            total_steps,
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a text or a list of texts")]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(text) => vec![text],
        OneOrMany::Many(texts) => texts,
    })
}

fn some_one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    one_or_many(deserializer).map(Some)
}

#[cfg(test)]
mod tests;
