//! The options of `eval` and `report`.

use std::path::PathBuf;

use clap::{ArgGroup, Args, ValueEnum};
use model::engine::Backend;
use score::{Scoring, Task};

use super::parse_backend;

/// `ecg-train eval`: ask a model, or score answers that are there.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("who").required(true).args(["model", "answers"]))]
#[command(
    override_usage = "ecg-train eval --model <DIR> --data <DIR> --task <NAME>... --out <DIR>\n       ecg-train eval --answers <FILE> --task <NAME> [OPTIONS]"
)]
#[command(
    after_help = "Examples:\n  ecg-train eval --model merged --data ECGBench --task ptb-test,csn-test \\\n      --out eval --control blank-page --likelihood\n  ecg-train eval --answers eval/ptb-test/answers.jsonl --task ptb-test"
)]
pub struct EvalArgs {
    /// Folder of the model, or a hub id
    #[arg(long, value_name = "DIR", requires = "data", requires = "out")]
    pub model: Option<PathBuf>,
    /// Folder of a LoRA adapter to use on it, a run folder, or a hub id
    #[arg(long, value_name = "DIR", requires = "model")]
    pub adapter: Option<PathBuf>,
    /// Folder with a folder or file for each task, a task's own rows, or ECGBench's hub id
    #[arg(long, value_name = "DIR")]
    pub data: Option<String>,
    /// ptb-test, ptb-test-report, code15-test, ecgqa-test, cpsc-test, csn-test, g12-test, mmmu-ecg or arena; several with commas
    #[arg(long, value_name = "NAME", required = true, value_delimiter = ',')]
    pub task: Vec<Task>,
    /// How answers are read [default: both ways]
    #[arg(long, value_name = "parity|strict", hide_possible_values = true)]
    pub scoring: Option<HowRead>,
    /// Folder for answers and results, or of an eval to go on with
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Ask again with a page that shows nothing, or another row's: blank-page, shuffled-page
    #[arg(long, value_name = "NAME", requires = "model", value_delimiter = ',', hide_possible_values = true)]
    pub control: Vec<Control>,
    /// Also compute how likely each label is, for a real AUC
    #[arg(long, requires = "model")]
    pub likelihood: bool,
    /// Score these answers (JSON Lines: ours, generate's or PULSE's) instead of asking
    #[arg(long, value_name = "FILE")]
    pub answers: Option<PathBuf>,
    /// With --answers of a task that a judge scores: the judge's replies
    #[arg(long, value_name = "FILE", requires = "answers")]
    pub judge_replies: Option<PathBuf>,
    /// Model that the judge's requests name
    #[arg(long, value_name = "NAME", default_value = "gpt-4o")]
    pub judge_model: String,
    /// Rows asked at a time
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub batch_size: u32,
    /// Longest answer, in tokens
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub max_new_tokens: u32,
    /// On the GPU instead of the CPU
    #[arg(long, value_name = "1", requires = "model", value_parser = clap::value_parser!(u32).range(1..=1))]
    pub gpus: Option<u32>,
    /// What the GPU is reached through [default: cuda in a build that has it, else vulkan]
    #[arg(long, value_name = "NAME", requires = "gpus", value_parser = parse_backend)]
    pub backend: Option<Backend>,
    /// Resamples of the rows behind each confidence interval
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub resamples: u32,
    /// Seed of the resamples and of the shuffled pages
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
}

/// `ecg-train report`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  ecg-train report runs/medgemma-ecg\n  ecg-train report runs/a runs/b eval-base eval-adapted --out report.html"
)]
pub struct ReportArgs {
    /// Run folders and folders that `eval --out` wrote; the curves of several runs lie over each other
    #[arg(value_name = "DIR", required = true)]
    pub folder: Vec<PathBuf>,
    /// The page: one file that opens in any browser, without a network
    #[arg(long, value_name = "FILE", default_value = "report.html")]
    pub out: PathBuf,
    /// Show held-out rows with page, question and answer: the file then holds patient data
    #[arg(long)]
    pub with_pages: bool,
}

/// `--scoring`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum HowRead {
    /// As the published script
    Parity,
    /// Without its traps
    Strict,
}

impl EvalArgs {
    /// The ways in which answers are read.
    #[must_use]
    pub fn scorings(&self) -> &'static [Scoring] {
        match self.scoring {
            None => &Scoring::ALL,
            Some(HowRead::Parity) => &[Scoring::Parity],
            Some(HowRead::Strict) => &[Scoring::Strict],
        }
    }

    /// How intervals are drawn.
    #[must_use]
    pub fn bootstrap(&self) -> score::Bootstrap {
        score::Bootstrap { resamples: self.resamples, seed: self.seed }
    }
}

/// A page that is shown instead of the row's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Control {
    /// White paper
    BlankPage,
    /// The page of another row
    ShuffledPage,
}
