//! The options of `ecg-train generate` and of its bench.
//! It never acts: it only says what was asked for.

use std::path::PathBuf;

use clap::{ArgGroup, Args};
use model::engine::Backend;

use super::parse_backend;

/// `ecg-train generate`: one prompt about given pages, a conversation, every row of a data set, or every page of a folder.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true).args(["prompt", "messages", "chat", "data"]))]
#[command(
    override_usage = "ecg-train generate --model <DIR> [--image <FILE>]... --prompt <TEXT>\n       ecg-train generate --model <DIR> [--image <FILE>]... --messages <FILE>\n       ecg-train generate --model <DIR> [--image <FILE>]... --chat\n       ecg-train generate --model <DIR> --images <DIR> --prompt <Q> --out <OUT>\n       ecg-train generate --model <DIR> --data <PATH> --out <FILE>"
)]
#[command(
    after_help = "Examples:\n  ecg-train generate --model merged --image page.png \\\n      --prompt \"Is this atrial fibrillation ?\"\n  ecg-train generate --model medgemma-4b-it --adapter runs/x \\\n      --data 'test-*.parquet' --out answers.jsonl"
)]
pub struct GenerateArgs {
    /// Folder of the model, or a hub id
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// LoRA adapter to use on it: its folder, a hub id, or a run folder, whose newest good checkpoint is taken
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// An ECG page (PNG or JPEG); may be given several times
    #[arg(long, value_name = "FILE", conflicts_with_all = ["data", "images"])]
    pub image: Vec<PathBuf>,
    /// The question; pages stand before it, or where it says <image>
    #[arg(long, value_name = "TEXT")]
    pub prompt: Option<String>,
    /// A conversation to be answered, as JSON in the form of transformers: role and content
    #[arg(long, value_name = "FILE", conflicts_with = "system")]
    pub messages: Option<PathBuf>,
    /// Questions line by line from the terminal, each with what was said before it
    #[arg(long)]
    pub chat: bool,
    /// Instructions before the first question
    #[arg(long, value_name = "TEXT", conflicts_with = "data")]
    pub system: Option<String>,
    /// Prepared folder, parquet or JSON file or pattern: ask the first question of each row
    #[arg(long, value_name = "PATH", requires = "out")]
    pub data: Option<String>,
    /// Folder of pages: ask --prompt about each
    #[arg(long, value_name = "DIR", requires_all = ["out", "prompt"])]
    pub images: Option<PathBuf>,
    /// With --data or --images: one JSON line for each (id, question, answer, ended, expected); a rerun goes on
    #[arg(long, value_name = "FILE", conflicts_with_all = ["messages", "chat", "json"])]
    pub out: Option<PathBuf>,
    /// With --data or --images: how many are answered at a time
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub batch_size: u32,
    /// Longest answer, in tokens
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub max_new_tokens: u32,
    /// Drawing tokens instead of taking the most likely
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// On the GPU instead of the CPU
    #[arg(long, value_name = "1", value_parser = clap::value_parser!(u32).range(1..=1))]
    pub gpus: Option<u32>,
    /// What the GPU is reached through [default: cuda in a build that has it, else vulkan]
    #[arg(long, value_name = "NAME", requires = "gpus", value_parser = parse_backend)]
    pub backend: Option<Backend>,
    /// Print one JSON document: the answer, whether it ended, tokens and times
    #[arg(long, conflicts_with_all = ["chat", "data", "images"])]
    pub json: bool,
    /// Say nothing beside the answer
    #[arg(long)]
    pub quiet: bool,
}

/// Drawing tokens: names and order (temperature, top-k, top-p) are those of transformers' generation.
#[derive(Debug, Args)]
pub struct SamplingArgs {
    /// Draw tokens, with logits divided by this; without it answers are greedy
    #[arg(long, value_name = "T", value_parser = parse_temperature)]
    pub temperature: Option<f32>,
    /// Draw from the K most likely tokens, 0: all [default: the model's generation_config.json, else 50]
    #[arg(long, value_name = "K", requires = "temperature", value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub top_k: Option<u32>,
    /// Draw from the most likely tokens that reach this probability [default: the model's, else 1]
    #[arg(long, value_name = "P", requires = "temperature", value_parser = parse_probability)]
    pub top_p: Option<f64>,
    /// Equal seeds give equal answers
    #[arg(long, value_name = "N", requires = "temperature", default_value_t = 0)]
    pub seed: u64,
}

/// `ecg-train bench generate`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  ecg-train bench generate\n  RAYON_NUM_THREADS=1 ecg-train bench generate --batch-size 1,4,16 --json"
)]
pub struct BenchGenerateArgs {
    /// Prompts answered together; each is measured by itself
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1,4,16")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub batch_size: Vec<u32>,
    /// Tokens of each prompt, a page among them
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(128..=8192))]
    pub prompt_tokens: u32,
    /// Tokens of each answer
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(2..=65_536))]
    pub new_tokens: u32,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

/// Reads a temperature such as `0.7`.
fn parse_temperature(text: &str) -> Result<f32, String> {
    let number = text.parse().ok().filter(|number: &f32| *number > 0.0 && number.is_finite());
    number.ok_or_else(|| format!("{text:?} is no temperature above 0; leave it out for greedy answers"))
}

/// Reads a probability such as `0.95`.
fn parse_probability(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| (0.0..=1.0).contains(number));
    number.ok_or_else(|| format!("{text:?} is no probability from 0 to 1"))
}
