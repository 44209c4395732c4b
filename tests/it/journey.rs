//! The whole job through the real program: rows in, workers, checkpoints, resume, merge, an answer.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use synth::DemoSpec;
use trainer::journal::{self, Line};

use crate::fixture;

/// The program as a user runs it.
pub fn program(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ecg-train-under-test")).args(args).output().expect("the program starts")
}

/// Runs the program, which must succeed.
#[track_caller]
pub fn succeed(args: &[&str]) -> String {
    let output = program(args);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?} ended with {}:\n{told}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The real rows; `None`, said aloud, where a clone has no data beside it.
pub fn real_rows() -> Option<PathBuf> {
    let dir = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/ecginstruct_mini/train"));
    if dir.is_dir() {
        return Some(dir);
    }
    eprintln!("skipped: the real ECG rows (ecginstruct_mini) are not part of the repository");
    None
}

/// A run over the real rows with case_a's base, described in `dir`.
pub struct Run {
    dir: tempfile::TempDir,
}

/// The recipe of the reference's end-to-end traces.
const CONFIG: &str = r#"
seed = 42
output_dir = "OUT"
[model]
path = "BASE"
[data]
train = "ROWS/train-*.parquet"
shuffle = false
max_seq_len = 512
loss_on = "all"
double_bos = false
keep_image_marker = false
[lora]
r = 4
alpha = 8
dropout = 0.0
target_modules = "all-linear"
[train]
global_batch_size = 6
micro_batch_size = 2
learning_rate = 4e-3
lr_scheduler = "cosine"
warmup_steps = 2
weight_decay = 0.0
max_grad_norm = 1.0
betas = [0.9, 0.999]
eps = 1e-8
epochs = 1.0
precision = "f32"
gradient_checkpointing = "none"
loss_norm = "global_tokens"
[checkpoint]
every_steps = 5
keep = 2
[log]
every_steps = 1
tensorboard = false
"#;

impl Run {
    /// Of case_a's base on `rows`.
    pub fn new(rows: &Path) -> Self {
        Self::of(&fixture::path("case_a/base"), rows, tempfile::tempdir().unwrap())
    }

    /// Of a synthetic base on synthetic rows, which every clone can make.
    pub fn synthetic() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (base, rows) = draw(dir.path());
        Self::of(&base, &rows, dir)
    }

    /// Of `base` on `rows`, in `dir`.
    pub fn of(base: &Path, rows: &Path, dir: tempfile::TempDir) -> Self {
        let paths = [("OUT", dir.path().join("run")), ("BASE", base.to_owned()), ("ROWS", rows.to_owned())];
        let config = paths.iter().fold(CONFIG.to_owned(), |text, (name, path)| {
            text.replace(&format!("\"{name}"), &format!("\"{}", path.display()))
        });
        storage::publish_file(&dir.path().join("config.toml"), config.as_bytes()).unwrap();
        Self { dir }
    }

    pub fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// `launch --cpus n` with changes of the config, e.g. `train.max_steps=12`.
    pub fn launch(&self, cpus: usize, changes: &[&str]) -> Output {
        let (cpus, config) = (cpus.to_string(), self.path("config.toml"));
        let mut args = vec!["launch", "--cpus", &cpus, "--config", &config];
        changes.iter().for_each(|change| args.extend(["--set", change]));
        program(&args)
    }

    #[track_caller]
    pub fn must_launch(&self, cpus: usize, changes: &[&str]) {
        let output = self.launch(cpus, changes);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "launch --cpus {cpus} ended with {}:\n{told}", output.status);
    }

    pub fn journal(&self) -> Vec<Line> {
        journal::read(&self.dir.path().join("run/journal.jsonl")).unwrap()
    }

    /// What must not depend on the number of ranks: every journal line but what it measures, and the last adapter's bytes.
    pub fn bits(&self, step: u64) -> (Vec<Line>, blake3::Hash) {
        let lines =
            self.journal().into_iter().map(|line| Line { rows_per_second: 0.0, data_wait: 0.0, ..line }).collect();
        let adapter = self.path(&format!("run/checkpoint-{step}/adapter_model.safetensors"));
        (lines, blake3::hash(&std::fs::read(adapter).unwrap()))
    }
}

/// Draws a synthetic base and 60 rows into `dir`; returns their folders.
pub fn draw(dir: &Path) -> (PathBuf, PathBuf) {
    let spec = DemoSpec { n_train: 60, n_test: 2, ..DemoSpec::small(3, NonZeroUsize::MIN) };
    synth::write_demo(dir, &spec, &mut |_| {}).unwrap();
    (dir.join("base"), dir.join("data"))
}

/// One step of the reference's end-to-end trace.
#[derive(serde::Deserialize)]
struct Step {
    loss: f64,
    grad_norm: f64,
    learning_rate: f64,
    num_items: u64,
    num_tokens: u64,
    micro: Vec<Micro>,
}

#[derive(serde::Deserialize)]
struct Micro {
    correct: u64,
}

/// Loss within `tolerance`, gradient norm within ten times that relative to its size.
#[track_caller]
fn check_trace(name: &str, loss_on: &str, include: &str, tolerance: f64) {
    let Some(rows) = real_rows() else { return };
    let trace: serde_json::Value =
        serde_json::from_slice(&std::fs::read(fixture::path(&format!("{name}/trace.json"))).unwrap()).unwrap();
    let steps: Vec<Step> = serde_json::from_value(trace["trace"].clone()).unwrap();
    let exact = tolerance <= 1e-4;
    for cpus in [1, 2] {
        let run = Run::new(&rows);
        let init = format!("lora.init_from={}", fixture::path("case_a/adapter_init").display());
        let (loss_on, include) = (format!("data.loss_on={loss_on}"), format!("data.include={include}"));
        run.must_launch(cpus, &[&init, &loss_on, &include, "train.max_steps=12"]);
        let journal = run.journal();
        assert_eq!(journal.len(), steps.len());
        for (line, step) in journal.iter().zip(&steps) {
            let what = format!("{name}, {cpus} workers, step {}", line.step);
            assert!((line.loss - step.loss).abs() <= tolerance, "{what}: loss {} for {}", line.loss, step.loss);
            let off = (line.grad_norm / step.grad_norm - 1.0).abs();
            assert!(off <= 10.0 * tolerance, "{what}: gradient norm {} for {}", line.grad_norm, step.grad_norm);
            assert!((line.learning_rate - step.learning_rate).abs() <= 1e-15, "{what}: learning rate");
            assert_eq!((line.supervised_tokens, line.num_tokens), (step.num_items, step.num_tokens), "{what}: tokens");
            let correct: u64 = step.micro.iter().map(|micro| micro.correct).sum();
            assert!(!exact || line.correct_tokens == correct, "{what}: {} correct for {correct}", line.correct_tokens);
        }
    }
}

#[test]
fn png_rows_follow_the_reference_from_parquet_to_loss() {
    check_trace("e2e_all", "all", ".png", 1e-4);
}

#[test]
fn answers_alone_follow_the_reference_from_parquet_to_loss() {
    check_trace("e2e_assistant", "assistant", ".png", 1e-4);
}

/// JPEG decoders differ by up to 6 levels (tests/reference/REFERENCE.md), hence 5e-3.
#[test]
fn jpeg_rows_follow_the_reference_as_far_as_decoders_agree() {
    check_trace("e2e_mixed", "all", "", 5e-3);
}

#[test]
fn an_epoch_of_real_rows_resumes_merges_and_answers() {
    let Some(rows) = real_rows() else { return };
    let (whole, cut) = (Run::new(&rows), Run::new(&rows));
    let settings = ["data.shuffle=true", "lora.dropout=0.05", "train.global_batch_size=8"];
    whole.must_launch(2, &settings);
    let journal = whole.journal();
    assert_eq!(journal.len(), 15, "113 rows in steps of 8, the last of one row");
    assert_eq!(journal[14].last_position, 112);
    assert!(journal[13].loss < journal[0].loss - 0.5, "loss falls: {} to {}", journal[0].loss, journal[13].loss);

    // Losing everything after step 10 and running again gives the same bits, also with other ranks.
    cut.must_launch(2, &settings);
    std::fs::remove_dir_all(cut.path("run/checkpoint-15")).unwrap();
    cut.must_launch(1, &settings);
    assert_eq!(whole.bits(15), cut.bits(15));

    let (base, adapter) = (fixture::path("case_a/base").display().to_string(), whole.path("run/checkpoint-15"));
    let merged = whole.path("merged");
    succeed(&["merge", "--base", &base, "--adapter", &adapter, "--out", &merged]);
    let page = fixture::path("image/page_1100x850.png").display().to_string();
    let ask = |model: &[&str]| {
        let prompt = ["--image", &page, "--prompt", "What is the heart rate?", "--max-new-tokens", "8"];
        succeed(&[&["generate"], model, &prompt].concat())
    };
    let with_adapter = ask(&["--model", &base, "--adapter", &adapter]);
    assert_eq!(ask(&["--model", &merged]), with_adapter, "merged and adapted models answer alike");
}

#[test]
fn ranks_and_checkpointing_do_not_change_a_bit() {
    let bits = |cpus: usize, how: &str| {
        let run = Run::synthetic();
        let how = format!("train.gradient_checkpointing={how}");
        run.must_launch(cpus, &["data.shuffle=true", "lora.dropout=0.1", "train.global_batch_size=8", &how]);
        run.bits(8)
    };
    let alone = bits(1, "none");
    assert_eq!(alone.0.len(), 8, "60 rows in steps of 8, the last of 4");
    for (cpus, how) in [(2, "none"), (4, "none"), (3, "block"), (1, "vision")] {
        assert_eq!(bits(cpus, how), alone, "{cpus} workers, checkpointing {how}");
    }
}
