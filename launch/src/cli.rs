//! The command line: every command, option and example a user can type.
//! It never acts: it only says what was asked for.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use model::engine::Backend;

mod bench;
mod eval;
mod generate;
mod nodes;
mod push;

pub use bench::{
    Bench, BenchAllreduceArgs, BenchArgs, BenchDataArgs, BenchGemmArgs, BenchMergeArgs, BenchOpenArgs, BenchStepArgs,
    Checkpointing, MergeShape, Precision, Preset,
};
pub use eval::{Control, EvalArgs, HowRead, ReportArgs};
pub use generate::{BenchGenerateArgs, GenerateArgs, SamplingArgs};
pub use nodes::NodeArgs;
pub use push::PushArgs;

use crate::progress::Verbosity;

/// Fine-tune MedGemma on ECG pages with LoRA, data parallel, without Python.
#[derive(Debug, Parser)]
#[command(name = "ecg-train", version, max_term_width = 80, disable_help_subcommand = true)]
#[command(after_help = "Examples:\n  ecg-train demo\n  ecg-train launch --gpus 8 --config configs/medgemma.toml")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands, in the order in which a user meets them.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Everything below on synthetic ECGs, on a CPU, in a few minutes
    Demo(DemoArgs),
    /// Make any data set a folder of shards with fast random access
    Prepare(PrepareArgs),
    /// Find everything that could stop a run, in seconds, without a GPU
    Check(CheckArgs),
    /// Train: start one worker per device, watch them, resume by itself
    Launch(LaunchArgs),
    /// Write base + adapter as one model that transformers loads
    Merge(MergeArgs),
    /// Ask a model about ECG pages
    Generate(GenerateArgs),
    /// Ask a model all questions of a benchmark, and score its answers
    Eval(EvalArgs),
    /// Show results as one page, beside published ones
    Report(ReportArgs),
    /// Publish an adapter or a model in a repository of the hub
    Push(PushArgs),
    /// Measure this program on this machine
    Bench(BenchArgs),
    /// Print a completion script for a shell
    #[command(
        after_help = "Examples:\n  ecg-train completions bash > ~/.bash_completion.d/ecg-train\n  ecg-train completions zsh > ~/.zfunc/_ecg-train"
    )]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write one for each command
    Man(ManArgs),
    /// One rank, as `launch` starts it or by hand (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT, ECG_TRAIN_JOB_KEY)
    #[command(hide = true)]
    Worker(WorkerArgs),
}

/// `ecg-train man`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  ecg-train man | man -l -\n  ecg-train man --dir ~/.local/share/man/man1")]
pub struct ManArgs {
    /// Folder for a page of each command [default: the page of ecg-train to stdout]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// `ecg-train demo`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  ecg-train demo\n  ecg-train demo --small --dir /tmp/demo")]
pub struct DemoArgs {
    /// Folder for everything the demo makes; only an empty one or an earlier demo's is taken
    #[arg(long, value_name = "DIR", default_value = "demo")]
    pub dir: PathBuf,
    /// Optimizer steps [default: 400, with --small 300]; with fewer the verdict is shown but not enforced
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub steps: Option<u64>,
    /// Worker processes
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub cpus: u32,
    /// Three questions instead of four, 16 pages a step instead of 32
    #[arg(long)]
    pub small: bool,
}

/// `ecg-train prepare`: the rows of a config, rows alone, or a folder to be verified.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("rows").required(true).args(["config", "source", "verify"]))]
#[command(
    override_usage = "ecg-train prepare --config <FILE> [--out <DIR>] [OPTIONS]\n       ecg-train prepare --source <PATH>... --out <DIR> [OPTIONS]\n       ecg-train prepare --verify <DIR>"
)]
#[command(
    after_help = "Examples:\n  ecg-train prepare --config configs/medgemma.toml --resize\n  ecg-train prepare --source ECGInstruct/ --out prepared --max-bad-rows 100"
)]
pub struct PrepareArgs {
    /// Prepare data.train of this configuration; rows it could not learn from are bad rows
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Prepare parquet files, a JSON or JSONL file, a folder of them with its images or shard_*.tar.gz, or a hub id of such
    #[arg(long, value_name = "PATH", requires = "out", num_args = 1..)]
    pub source: Vec<PathBuf>,
    /// Read a prepared folder whole and compare every byte with its manifest; of a store, by its address (s3://...)
    #[arg(long, value_name = "DIR")]
    pub verify: Option<PathBuf>,
    /// Folder to make, or to go on with, here or in a store (s3://...) [default with --config: OUTPUT_DIR/prepared]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Folder that image paths are under, or that holds the archives [default: that of each file]
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    pub images: Option<PathBuf>,
    /// Only rows whose image path holds this text
    #[arg(long, value_name = "TEXT", conflicts_with = "config")]
    pub include: Option<String>,
    /// Store pages resized to the model's size, or to this many pixels, as lossless PNG
    #[arg(long, value_name = "PIXELS", num_args = 0..=1, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub resize: Option<Option<u32>>,
    /// Leave out and list up to so many bad rows [default: data.max_bad_rows, else 0]
    #[arg(long, value_name = "N")]
    pub max_bad_rows: Option<u64>,
    /// Close a shard at this size
    #[arg(long, value_name = "SIZE", default_value = "512MB", value_parser = parse_bytes)]
    pub shard_size: u64,
    /// Threads [default: one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: Option<u32>,
    /// Replace one value of the configuration, e.g. data.include=ptb-xl/
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "config")]
    pub set: Vec<String>,
}

/// `ecg-train check`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  ecg-train check --config configs/medgemma.toml --gpus 8\n  ecg-train check --config configs/tiny.toml --cpus 2 --json"
)]
pub struct CheckArgs {
    /// The run's configuration
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Worker processes on this machine's CPU [default: 1]
    #[arg(long, value_name = "N", conflicts_with = "gpus", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub cpus: Option<u32>,
    /// Worker processes, one per GPU
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub gpus: Option<u32>,
    /// What GPUs are reached through: cuda (NVIDIA) or vulkan [default: cuda in a build that has it, else vulkan]
    #[arg(long, value_name = "NAME", requires = "gpus", value_parser = parse_backend)]
    pub backend: Option<Backend>,
    /// Patients, recordings and pages that data.train and data.eval share are warnings, not errors
    #[arg(long)]
    pub allow_leaks: bool,
    /// Pages of a split that is not prepared, which are decoded and compared by what they show
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub pages: u32,
    /// Rows of data.train that are read, decoded and rendered, spread over all of them
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=10_000_000))]
    pub rows: u32,
    /// Show this row as the model is taught it, from 0 [default: one of those looked at, where stdout is a terminal]
    #[arg(long, value_name = "ROW", conflicts_with = "json")]
    pub show_row: Option<u32>,
    /// Also read every number of the base: NaN, infinities, its hash
    #[arg(long)]
    pub read_base: bool,
    /// Speed for the estimate of time, e.g. from `bench step` [default: that of the steps already made]
    #[arg(long, value_name = "N")]
    pub rows_per_second: Option<f64>,
    /// Print JSON instead of a page
    #[arg(long)]
    pub json: bool,
    /// Also print how memory grows with the rows of a micro-batch, by gradient_checkpointing
    #[arg(long, conflicts_with = "json")]
    pub table: bool,
    /// How this run differs from its config
    #[command(flatten)]
    pub run: RunArgs,
    /// The other machines
    #[command(flatten)]
    pub nodes: NodeArgs,
}

impl CheckArgs {
    /// Ranks of the run that is checked.
    #[must_use]
    pub fn n_workers(&self) -> u32 {
        self.gpus.or(self.cpus).unwrap_or(1)
    }
}

/// `ecg-train launch`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("devices").required(true).args(["cpus", "gpus"]))]
#[command(
    after_help = "Examples:\n  ecg-train launch --gpus 8 --config configs/medgemma.toml\n  ecg-train launch --cpus 2 --config configs/tiny.toml --set train.max_steps=20"
)]
pub struct LaunchArgs {
    /// Worker processes on this machine's CPU (torchrun's --nproc-per-node)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub cpus: Option<u32>,
    /// Worker processes on this machine, one per GPU
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub gpus: Option<u32>,
    /// What GPUs are reached through: cuda (NVIDIA) or vulkan [default: cuda in a build that has it, else vulkan]
    #[arg(long, value_name = "NAME", requires = "gpus", value_parser = parse_backend)]
    pub backend: Option<Backend>,
    /// The run's configuration
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// How this run differs from its config
    #[command(flatten)]
    pub run: RunArgs,
    /// Restarts after a lost or late worker [default: as long as the run gets on; three without a new step end it]
    #[arg(long, value_name = "N")]
    pub max_restarts: Option<u32>,
    /// Time between a request to stop (SIGTERM, SIGUSR1, Ctrl-C, a file `stop` in the run folder) and the end
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = parse_seconds)]
    pub grace: Duration,
    /// Say nothing of a run that goes well: warnings, restarts and errors alone
    #[arg(long, short)]
    pub quiet: bool,
    /// Say all of each step: also tokens/s, data wait, memory, answers, entropy
    #[arg(long, short, conflicts_with = "quiet")]
    pub verbose: bool,
    /// How long ranks are waited for
    #[command(flatten)]
    pub deadlines: DeadlineArgs,
    /// Several machines
    #[command(flatten, next_help_heading = "Several machines (docs/cluster.md)")]
    pub nodes: NodeArgs,
}

impl LaunchArgs {
    /// How much is to be said.
    #[must_use]
    pub fn verbosity(&self) -> Verbosity {
        match (self.quiet, self.verbose) {
            (true, _) => Verbosity::Quiet,
            (_, true) => Verbosity::Verbose,
            _ => Verbosity::Usual,
        }
    }
}

/// How long ranks are waited for: shared by `launch` and a worker started by hand.
#[derive(Debug, Args)]
pub struct DeadlineArgs {
    /// No rank is late before that; beyond, deadlines are learned from the run (8 times the slowest; at first 10 times this)
    #[arg(long, value_name = "SECONDS", default_value = "120", value_parser = parse_seconds)]
    pub patience: Duration,
    /// Time for all ranks to meet [default: ten times --patience]
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    pub rdzv_timeout: Option<Duration>,
}

impl DeadlineArgs {
    /// What the ranks keep to among themselves. Their operations wait longer than any phase may take, so that a late
    /// rank is named by its supervisor before the others give up.
    #[must_use]
    pub fn for_ranks(&self) -> trainer::Deadlines {
        trainer::Deadlines {
            rendezvous: self.rdzv_timeout.unwrap_or(self.patience * 10),
            operation: self.patience * 11,
        }
    }
}

/// How a run differs from its config: shared by `launch` and a worker started by hand.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Replace one value of the configuration, e.g. train.max_steps=20
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Replace output_dir of the configuration
    #[arg(long, value_name = "DIR")]
    pub output_dir: Option<PathBuf>,
    /// Refuse to find a checkpoint in output_dir instead of resuming from it
    #[arg(long)]
    pub from_scratch: bool,
}

/// `ecg-train merge`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  ecg-train merge --base demo/base --adapter demo/run/checkpoint-400 \\\n      --out merged\n  ecg-train merge --base medgemma-4b-it --adapter runs/x/checkpoint-6022 \\\n      --out merged --dtype bf16 --shard-size 2GB"
)]
pub struct MergeArgs {
    /// Folder of the base model, or a hub id such as google/medgemma-4b-it@REVISION
    #[arg(long, value_name = "DIR")]
    pub base: PathBuf,
    /// Folder of the adapter: a checkpoint, a run (its newest good one), any PEFT LoRA adapter of this base, or a hub id
    #[arg(long, value_name = "DIR")]
    pub adapter: PathBuf,
    /// Folder to make; it must not exist
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Type of the written weights [default: each tensor's own]
    #[arg(long, value_name = "bf16|f32", hide_possible_values = true)]
    pub dtype: Option<Dtype>,
    /// Largest weights file
    #[arg(long, value_name = "SIZE", default_value = "5GB", value_parser = parse_bytes)]
    pub shard_size: u64,
    /// How often a merged number is rounded: once is the nearer to the exact sum, peft is safe_merge=True
    #[arg(long, value_name = "once|peft", default_value = "once", hide_possible_values = true)]
    pub rounding: Rounding,
    /// Then compare the logits of base + adapter and of the merged model on a page (a CPU, minutes at full size)
    #[arg(long)]
    pub verify: bool,
    /// With --verify: the page (PNG or JPEG) [default: a synthetic one]
    #[arg(long, value_name = "FILE", requires = "verify")]
    pub image: Option<PathBuf>,
}

/// Rounding of merged weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Rounding {
    /// The sum alone
    Once,
    /// The change, then the sum, as PEFT's safe_merge
    Peft,
}

/// A number type on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Dtype {
    /// bfloat16
    Bf16,
    /// float32
    F32,
}

/// `ecg-train worker`: without `--config` it takes its orders from the supervisor on stdin.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  RANK=0 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=29500 \\\n    ECG_TRAIN_JOB_KEY=$(openssl rand -hex 32) ecg-train worker --config C\n  RANK=0 WORLD_SIZE=1 ecg-train worker --config C"
)]
pub struct WorkerArgs {
    /// The run's configuration; absent under a supervisor
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// How this run differs from its config
    #[command(flatten)]
    pub run: RunArgs,
    /// How long other ranks are waited for
    #[command(flatten)]
    pub deadlines: DeadlineArgs,
    /// Train on the GPU with number LOCAL_RANK instead of the CPU
    #[arg(long, requires = "config")]
    pub gpu: bool,
    /// What the GPU is reached through: cuda (NVIDIA) or vulkan
    #[arg(long, value_name = "NAME", requires = "gpu", value_parser = parse_backend)]
    pub backend: Option<Backend>,
}

/// Reads a size such as `5GB`, `500MB` or `4096`; units are decimal, as in transformers' `max_shard_size`.
fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        other => return Err(format!("unknown unit {other:?}; write a size such as 5GB, 500MB or 4096")),
    };
    let number: u64 = digits.parse().map_err(|_| format!("{text:?} is not a size such as 5GB, 500MB or 4096"))?;
    number.checked_mul(unit).filter(|n| *n > 0).ok_or_else(|| format!("{text} is not a usable size"))
}

/// Reads the name of a backend.
fn parse_backend(name: &str) -> Result<Backend, String> {
    let known = [Backend::Cuda, Backend::Vulkan].into_iter().find(|backend| backend.to_string() == name);
    known.ok_or_else(|| "there are cuda and vulkan".to_owned())
}

/// Reads a time such as `30` or `0.5`.
fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.0..=1e7).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| format!("{text:?} is no time in seconds such as 30 or 0.5"))
}

#[cfg(test)]
mod tests;
