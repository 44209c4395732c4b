//! `ecg-train bench` and its options.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use model::engine::Backend;

use super::generate::BenchGenerateArgs;
use super::parse_backend;

/// `ecg-train bench`.
#[derive(Debug, Args)]
#[command(disable_help_subcommand = true)]
#[command(after_help = "Examples:\n  ecg-train bench step\n  ecg-train bench step --precision bf16 --threads 1 --json")]
pub struct BenchArgs {
    /// What is measured
    #[command(subcommand)]
    pub what: Bench,
}

/// What can be measured.
#[derive(Debug, Subcommand)]
pub enum Bench {
    /// Time and memory of optimizer steps on random weights and rows
    Step(BenchStepArgs),
    /// The matrix products of a step by their shapes, on the CPU or a GPU
    Gemm(BenchGemmArgs),
    /// The exact sum of all ranks' gradients
    Allreduce(BenchAllreduceArgs),
    /// Rows from their bytes to batches, stage by stage, beside the reference's processor
    Data(BenchDataArgs),
    /// Opening a data set of full size, and finding the rows of a step anywhere in a run
    Open(BenchOpenArgs),
    /// A merge at MedGemma's size on random weights, beside a plain copy and PEFT's own; needs 18 GB of disk for a while
    Merge(BenchMergeArgs),
    /// Answers of a random model, token by token, beside what the machine's memory allows
    Generate(BenchGenerateArgs),
}

/// `ecg-train bench open`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  ecg-train bench open\n  ecg-train bench open --rows 100000 --json")]
pub struct BenchOpenArgs {
    /// Rows of the data set
    #[arg(long, value_name = "N", default_value_t = 1_200_000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    pub rows: u32,
    /// Where its files are made, and removed at the end [default: the system's temporary folder]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
    /// Measure an existing folder in this process
    #[arg(long, hide = true, value_name = "DIR")]
    pub here: Option<PathBuf>,
}

/// `ecg-train bench merge`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  ecg-train bench merge --dir /scratch\n  ECG_TRAIN_PYTHON=$(tests/reference/environment.sh) ecg-train bench merge --json"
)]
pub struct BenchMergeArgs {
    /// Where its files are made, and removed at the end [default: the system's temporary folder]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Shape of the base: google/medgemma-4b-it's, or every kind of layer as small as can be
    #[arg(long, value_name = "medgemma|tiny", default_value = "medgemma", hide_possible_values = true)]
    pub shape: MergeShape,
    /// Rank of the adapter, on every linear
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub r: u32,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
    /// Measure the merge of an existing bench's folder in this process
    #[arg(long, hide = true, value_name = "DIR")]
    pub here: Option<PathBuf>,
}

/// A shape of a base to merge into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MergeShape {
    /// 4.3 G numbers
    Medgemma,
    /// Two layers in each tower
    Tiny,
}

/// `ecg-train bench data`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  ecg-train bench data --image pages/a.png --image pages/b.jpg\n  ECG_TRAIN_PYTHON=$(tests/reference/environment.sh) ecg-train bench data \\\n      --data 'train-*.parquet' --model medgemma-4b-it"
)]
pub struct BenchDataArgs {
    /// Prepared folder, parquet file or pattern [default: four synthetic pages]
    #[arg(long, value_name = "PATH", conflicts_with = "image")]
    pub data: Option<String>,
    /// A page (PNG or JPEG) instead; may be given several times
    #[arg(long, value_name = "FILE")]
    pub image: Vec<PathBuf>,
    /// Folder of a model, or a hub id: its tokenizer, template and page size
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// Pixels a side that pages are resized to [default: the model's, or 896]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub image_size: Option<u32>,
    /// Rows that are measured
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub rows: u32,
    /// Threads of the measurement by the clock [default: one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: Option<u32>,
    /// How often each page is timed
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

/// `ecg-train bench step`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  ecg-train bench step\n  ecg-train bench step --preset tiny --checkpointing none --set lora.dropout=0.05"
)]
pub struct BenchStepArgs {
    /// Shape of model and batch: cpu-mid is the one that PyTorch is measured on
    #[arg(long, value_name = "cpu-mid|tower|tiny|medgemma-4b", default_value = "cpu-mid", hide_possible_values = true)]
    pub preset: Preset,
    /// What is recomputed in the backward pass; each is measured in a process of its own
    #[arg(long, value_name = "none|block|vision", value_delimiter = ',', default_value = "none,block")]
    #[arg(hide_possible_values = true)]
    pub checkpointing: Vec<Checkpointing>,
    /// Rows of a micro-batch that show the same page; each is measured in a process of its own
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub rows_per_page: Vec<u32>,
    /// Tokens of the rows, in turn; measured as they are and as if they were padded to the longest
    /// [default: data.max_seq_len]
    #[arg(long, value_name = "N", value_delimiter = ',')]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub lengths: Vec<u32>,
    /// Arithmetic of the frozen base [default: that of the preset]
    #[arg(long, value_name = "f32|bf16", hide_possible_values = true)]
    pub precision: Option<Precision>,
    /// On a GPU instead of the CPU
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1))]
    pub gpus: Option<u32>,
    /// What the GPU is reached through: cuda (NVIDIA) or vulkan [default: cuda in a build that has it, else vulkan]
    #[arg(long, value_name = "NAME", requires = "gpus", value_parser = parse_backend)]
    pub backend: Option<Backend>,
    /// What the device can do at most, in TFLOP/s: says the share of it [default: known of A100, H100, H200, L40S in bf16]
    #[arg(long, value_name = "N")]
    pub peak_tflops: Option<f64>,
    /// Steps that are measured, after two that are not
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub steps: u32,
    /// Threads [default: one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: Option<u32>,
    /// Replace one value of the preset's configuration, e.g. data.max_seq_len=512
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
    /// Measure the one variant in this process
    #[arg(long, hide = true)]
    pub here: bool,
}

/// A shape of model and batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Preset {
    /// 49 M numbers, 4 rows of 256 tokens
    CpuMid,
    /// The same decoder under a tower that takes three quarters of the arithmetic, as MedGemma's does
    Tower,
    /// Every kind of layer, as small as can be
    Tiny,
    /// google/medgemma-4b-it as its card's run trained it: bf16, 4 rows of 356 tokens, dropout
    #[value(name = "medgemma-4b")]
    Medgemma4b,
}

/// `train.gradient_checkpointing`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Checkpointing {
    /// Everything is kept
    None,
    /// Every layer is recomputed
    Block,
    /// The tower's layers are recomputed
    Vision,
}

/// `train.precision`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Precision {
    /// IEEE single precision
    F32,
    /// bfloat16
    Bf16,
}

/// `ecg-train bench gemm`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  ecg-train bench gemm\n  ecg-train bench gemm --gpus 1 --precision bf16 --peak-tflops 989 --json"
)]
pub struct BenchGemmArgs {
    /// Model and batch whose products are measured
    #[arg(long, value_name = "medgemma-4b|cpu-mid|tower|tiny", default_value = "medgemma-4b")]
    #[arg(hide_possible_values = true)]
    pub preset: Preset,
    /// Arithmetic of the frozen base [default: that of the preset]
    #[arg(long, value_name = "f32|bf16", hide_possible_values = true)]
    pub precision: Option<Precision>,
    /// On a GPU instead of the CPU
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1))]
    pub gpus: Option<u32>,
    /// What the GPU is reached through: cuda (NVIDIA) or vulkan [default: cuda in a build that has it, else vulkan]
    #[arg(long, value_name = "NAME", requires = "gpus", value_parser = parse_backend)]
    pub backend: Option<Backend>,
    /// What the device can do at most, in TFLOP/s: says the share of it [default: known of A100, H100, H200, L40S in bf16]
    #[arg(long, value_name = "N")]
    pub peak_tflops: Option<f64>,
    /// How often each product is timed; the least counts
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
    /// Replace one value of the preset's configuration, e.g. train.micro_batch_size=8
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

/// `ecg-train bench allreduce`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  ecg-train bench allreduce\n  ecg-train bench allreduce --ranks 8 --numbers 76995584 --json\n  ecg-train bench allreduce --gpus 8"
)]
pub struct BenchAllreduceArgs {
    /// Ranks, as threads of one process that meet over the loopback interface
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(2..=64))]
    pub ranks: u32,
    /// A rank for each of so many NVIDIA GPUs instead, which add long sums over NCCL
    #[arg(long, value_name = "N", conflicts_with = "ranks", value_parser = clap::value_parser!(u32).range(2..=64))]
    pub gpus: Option<u32>,
    /// Fixed-point numbers that are added, 8 bytes each; the last default is MedGemma's at rank 32
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1000,1000000,76995584")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub numbers: Vec<u64>,
    /// How often each size is timed
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}
