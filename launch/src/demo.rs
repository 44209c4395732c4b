//! `ecg-train demo`: synthetic ECGs, then the real commands as child processes, then an honest table.
//! It has no road of its own: whatever it shows, a user can type.

mod child;
mod table;

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use data::{Dataset, Sources};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use synth::{DemoFiles, DemoSpec};
use trainer::Config;
use trainer::journal::Line;

use crate::cli::DemoArgs;
use crate::progress::clock;
use crate::{Error, Outcome, print, say};
use child::Children;
use table::Table;

/// The demo's run is `configs/tiny.toml` with other values for a few keys; the file is part of the program.
const TINY: &str = include_str!("../../configs/tiny.toml");
/// A folder with this file is an earlier demo's; of it, only what a demo makes is replaced.
const MARKER: &str = ".ecg-train-demo";
const MADE: [&str; 7] = ["base", "data", "demo.toml", "run", "merged", "answers", "page.png"];
const SEED: u64 = 1;

/// What differs between the demo and its small variant.
struct Size {
    spec: DemoSpec,
    global_batch_size: u32,
    /// With fewer the model need not have learned enough.
    enough_steps: u64,
}

/// Where everything lies that the demo makes.
struct Folder {
    dir: PathBuf,
    files: DemoFiles,
}

/// Runs the demo.
///
/// # Errors
/// A folder that is somebody else's, a command that failed, or a model that did not learn to read pages.
pub fn run(args: &DemoArgs) -> Result<Outcome, Error> {
    let begun = Instant::now();
    let size = Size::of(args.small);
    let n_steps = args.steps.unwrap_or(size.enough_steps);
    take_folder(&args.dir)?;
    say(&format!("{} patients are drawn, {} of them held out", size.spec.n_train + size.spec.n_test, size.spec.n_test));
    let folder = Folder { files: draw(&args.dir, &size.spec)?, dir: args.dir.clone() };
    let config = folder.write_config(&size, n_steps, args.cpus)?;

    let mut children = Children::new()?;
    let before = folder.ask(&mut children, &folder.files.base, &folder.files.held_out, "before")?;
    let training = folder.train(&mut children, args.cpus)?;
    let merged = folder.merge(&mut children, &config, n_steps)?;
    let own_page = folder.ask(&mut children, &merged, &folder.files.held_out, "after")?;
    let blank_page = folder.ask(&mut children, &merged, &folder.files.held_out_blank, "blank-page")?;
    let wrong_page = folder.ask(&mut children, &merged, &folder.files.held_out_wrong_page, "wrong-page")?;
    folder.ask_one(&mut children, &merged, &size.spec)?;

    let table = Table::new(&size.spec, [&before, &own_page, &blank_page, &wrong_page])?;
    print(format!("\n{table}\n").as_bytes());
    let rows_per_second = rows_trained(&config)? as f64 / training.as_secs_f64();
    say(&format!("{rows_per_second:.0} rows/s in training with its start; {} in all", clock(begun.elapsed())));
    say(&format!("everything is in {}: {}", folder.dir.display(), MADE.join(", ")));
    verdict(&table, n_steps >= size.enough_steps)
}

/// The rule is a promise only for the full number of steps.
fn verdict(table: &Table, enforced: bool) -> Result<Outcome, Error> {
    let failed = table.failed();
    match (failed.is_empty(), enforced) {
        (true, _) => say("the demo passed: every question beats the best control by at least 20 points"),
        (false, true) => return Err(Error::DemoFailed(failed.join(", "))),
        (false, false) => say(&format!("not learned in so few steps: {}; without --steps they are", failed.join(", "))),
    }
    Ok(Outcome::Done)
}

/// As the journal's last line has it.
fn rows_trained(config: &Config) -> Result<u64, Error> {
    let journal = config.output_dir.join("journal.jsonl");
    let text = fs::read_to_string(&journal).map_err(Error::file(&journal, "read"))?;
    let last: Line = serde_json::from_str(text.lines().next_back().unwrap_or_default())
        .map_err(|error| Error::file(&journal, "read")(error.into()))?;
    Ok(last.last_position + 1)
}

impl Size {
    fn of(small: bool) -> Self {
        let n_threads = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        match small {
            false => Self { spec: DemoSpec::full(SEED, n_threads), global_batch_size: 32, enough_steps: 400 },
            true => Self { spec: DemoSpec::small(SEED, n_threads), global_batch_size: 16, enough_steps: 300 },
        }
    }

    /// Large micro-batches are fast, but there must be one for each worker.
    fn micro_batch_size(&self, n_workers: u32) -> u32 {
        let share = (self.global_batch_size / n_workers).clamp(1, 16);
        1 << share.ilog2()
    }
}

/// Makes the folder, or clears an earlier demo's results out of it.
fn take_folder(dir: &Path) -> Result<(), Error> {
    fs::create_dir_all(dir).map_err(Error::file(dir, "create"))?;
    let marker = dir.join(MARKER);
    let is_empty = fs::read_dir(dir).map_err(Error::file(dir, "list"))?.next().is_none();
    if !is_empty && !marker.exists() {
        return Err(Error::ForeignDir(dir.to_owned()));
    }
    storage::publish_file(&marker, b"Made by `ecg-train demo`, which replaces its results here when it runs again.\n")?;
    for path in MADE.map(|name| dir.join(name)) {
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Error::file(&path, "remove")(error)),
            _ => {}
        }
    }
    Ok(())
}

fn draw(dir: &Path, spec: &DemoSpec) -> Result<DemoFiles, Error> {
    let style = ProgressStyle::with_template("{pos}/{len} pages drawn, {eta} left");
    let bar = ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let files = synth::write_demo(dir, spec, &mut |progress| {
        bar.set_length(progress.n_pages as u64);
        bar.set_position(progress.n_done as u64);
    })?;
    bar.finish_and_clear();
    Ok(files)
}

impl Folder {
    fn config_path(&self) -> PathBuf {
        self.dir.join("demo.toml")
    }

    /// The run's config, so that the user can repeat it.
    fn write_config(&self, size: &Size, n_steps: u64, n_workers: u32) -> Result<Config, Error> {
        // JSON strings and lists are TOML, too.
        let text = |path: &Path| json!(path.to_string_lossy());
        let train: Vec<_> = self.files.train.iter().map(|path| text(path)).collect();
        let overrides = [
            format!("seed={SEED}"),
            format!("output_dir={}", text(&self.dir.join("run"))),
            format!("model.path={}", text(&self.files.base)),
            format!("data.train={}", json!(train)),
            format!("train.global_batch_size={}", size.global_batch_size),
            format!("train.micro_batch_size={}", size.micro_batch_size(n_workers)),
            format!("train.max_steps={n_steps}"),
            "log.every_steps=50".to_owned(),
        ];
        let config = Config::parse("configs/tiny.toml", TINY, &overrides).map_err(trainer::Error::from)?;
        config.train.require_work_for(n_workers as usize).map_err(trainer::Error::from)?;
        storage::publish_file(&self.config_path(), config.to_toml().as_bytes())?;
        Ok(config)
    }

    /// Trains; returns how long it took.
    fn train(&self, children: &mut Children, n_workers: u32) -> Result<Duration, Error> {
        children.run("launch", &[("--cpus", &n_workers.to_string()), ("--config", &self.config_path())])
    }

    /// Merges the checkpoint of the last step; returns the folder of the merged model.
    fn merge(&self, children: &mut Children, config: &Config, last_step: u64) -> Result<PathBuf, Error> {
        let adapter = config.output_dir.join(format!("checkpoint-{last_step}"));
        let merged = self.dir.join("merged");
        children.run("merge", &[("--base", &self.files.base), ("--adapter", &adapter), ("--out", &merged)])?;
        Ok(merged)
    }

    /// Asks `model` every question of `data`; returns the file of answers.
    fn ask(&self, children: &mut Children, model: &Path, data: &Path, name: &str) -> Result<PathBuf, Error> {
        let answers = self.dir.join("answers");
        fs::create_dir_all(&answers).map_err(Error::file(&answers, "create"))?;
        let out = answers.join(format!("{name}.jsonl"));
        // Answers are shorter than the limit; a model that has not learned to end them is not waited for.
        let limits: [(&str, &dyn AsRef<OsStr>); 2] = [("--batch-size", &"50"), ("--max-new-tokens", &"16")];
        children.run("generate", &[("--model", &model), ("--data", &data), ("--out", &out), limits[0], limits[1]])?;
        Ok(out)
    }

    /// Asks `model` one question about one page, as a user would.
    fn ask_one(&self, children: &mut Children, model: &Path, spec: &DemoSpec) -> Result<(), Error> {
        let files = vec![self.files.held_out.clone()];
        let dataset =
            Dataset::open(&Sources { files, image_folder: None, include: String::new(), keep_image_marker: false })?;
        let page = self.dir.join("page.png");
        storage::publish_file(&page, &dataset.row(0)?.image)?;
        for row in synth::held_out(spec).iter().take(1) {
            children.run("generate", &[("--model", &model), ("--image", &page), ("--prompt", &row.question.text())])?;
            say(&format!("(true of this held-out patient: {})", row.answer));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
