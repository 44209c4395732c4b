//! `ecg-train prepare`: any source of rows -> a folder of shards that training reads at the speed of the disk.
//! It never decides what a bad row is: that is `data`'s; it shows how far the work is and what it came to.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use data::{Cost, Download, Elsewhere, Manifest, PrepareOptions, Prepared, Progress, Sources, StoredPages, Template};
use indicatif::{DecimalBytes, HumanBytes, HumanCount, ProgressBar, ProgressStyle};
use model::ModelConfig;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::cli::{PrepareArgs, RunArgs};
use crate::places::ToPrepare;
use crate::progress::clock;
use crate::stores::Access;
use crate::{Error, Outcome, counted, places, run_folder, say};

/// Between two plain lines, where stderr is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// Bad rows that are shown; the manifest has all of them.
const SHOWN_BAD_ROWS: usize = 10;

/// Prepares, or with `--verify` compares what was prepared.
///
/// # Errors
/// A source, row, folder or disk that cannot be used; finished shards stay.
pub fn run(args: &PrepareArgs) -> Result<Outcome, Error> {
    if let Some(folder) = &args.verify {
        let mut meter = Meter::new("verified");
        let store = Access::of_shell().uncached().store([folder])?;
        let manifest = data::verify(&*store, folder, &mut |progress| meter.show(progress))?;
        meter.close();
        say(&format!("{}: every byte is as it was written\n{}", folder.display(), contents(&manifest)));
        return Ok(Outcome::Done);
    }
    let elsewhere = args.out.as_deref().map(elsewhere).transpose()?.flatten();
    let options = match &args.config {
        Some(config) => of_config(config, args)?,
        None => of_source(args)?,
    };
    let options = PrepareOptions { elsewhere, ..options };
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // The second one ends at once, as nothing half-written is ever visible.
        let failed = |source| Error::Process { what: "the signal handler", source };
        flag::register_conditional_shutdown(signal, 128 + signal, stop.clone()).map_err(failed)?;
        flag::register(signal, stop.clone()).map_err(failed)?;
    }
    let mut meter = Meter::new("prepared");
    let prepared = data::prepare(&options, &stop, &mut |progress| meter.show(progress));
    meter.close();
    match prepared? {
        Prepared::Stopped { shards, rows } => {
            say(&format!(
                "stopped behind {} with {rows} rows; the same command goes on there",
                counted(shards, "finished shard")
            ));
            Ok(Outcome::Stopped)
        }
        Prepared::Done { manifest, cost } => {
            say(&summary(&options.out, &manifest, &cost));
            Ok(Outcome::Done)
        }
    }
}

/// The rows of a run, as that run will see them.
fn of_config(config: &Path, args: &PrepareArgs) -> Result<PrepareOptions, Error> {
    let run = RunArgs { set: args.set.clone(), output_dir: None, from_scratch: false };
    let mut config = run_folder::read(config, &run)?;
    let base = places::base(&mut config, None)?;
    let names: Vec<PathBuf> = config.data.train.iter().map(PathBuf::from).collect();
    let to_prepare = places::to_prepare(&names)?;
    let model = ModelConfig::open(&base)?;
    let template = Template::open(&base, trainer::template_options(&model, config.data.double_bos))?;
    Ok(PrepareOptions {
        sources: trainer::sources(&config, &to_prepare.files),
        out: args.out.clone().unwrap_or_else(|| config.output_dir.join("prepared")),
        resize: args.resize.map(|size| size.map_or(model.vision.image_size, |size| size as usize)),
        learn: Some(trainer::learn(&config, Arc::new(template))),
        max_bad_rows: args.max_bad_rows.or(config.data.max_bad_rows).unwrap_or(0),
        ..options(args, to_prepare)
    })
}

/// Rows alone: what a model makes of them is not looked at.
fn of_source(args: &PrepareArgs) -> Result<PrepareOptions, Error> {
    let resize = match args.resize {
        Some(None) => return Err(Error::NoImageSize),
        Some(Some(size)) => Some(size as usize),
        None => None,
    };
    let to_prepare = places::to_prepare(&args.source)?;
    if let (Some(pinned), Some(_)) = (&to_prepare.pinned, &args.images) {
        return Err(Error::ImagesOfHub(pinned.name.clone()));
    }
    Ok(PrepareOptions { resize, ..options(args, to_prepare) })
}

/// Asked before anything is read: an address that takes no files is said at once.
fn elsewhere(out: &Path) -> Result<Option<Elsewhere>, Error> {
    Access::of_shell().uncached().elsewhere(out)
}

fn options(args: &PrepareArgs, ToPrepare { files, archives, pinned }: ToPrepare) -> PrepareOptions {
    let cores = thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    PrepareOptions {
        sources: Sources {
            files,
            image_folder: args.images.clone(),
            include: args.include.clone().unwrap_or_default(),
            keep_image_marker: false,
        },
        out: args.out.clone().unwrap_or_default(),
        elsewhere: None,
        resize: None,
        learn: None,
        max_bad_rows: args.max_bad_rows.unwrap_or(0),
        threads: args.threads.map_or(cores, |n| n as usize),
        shard_bytes: args.shard_size,
        archives,
        pinned,
    }
}

/// Rows done and time left: a live bar on a terminal, a line every few seconds elsewhere.
struct Meter {
    bar: Option<ProgressBar>,
    what: &'static str,
    began: Instant,
    /// Work that an earlier session had done.
    done_before: Option<u64>,
    last_line: Instant,
}

impl Meter {
    fn new(what: &'static str) -> Self {
        let style = ProgressStyle::with_template("{bar:30} {percent}% {msg}");
        let bar = ProgressBar::new(1).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        let now = Instant::now();
        Self { bar: Some(bar).filter(|bar| !bar.is_hidden()), what, began: now, done_before: None, last_line: now }
    }

    fn show(&mut self, progress: Progress) {
        let done_before = *self.done_before.get_or_insert(progress.done);
        let bad = if progress.bad_rows > 0 { format!(", {} bad", progress.bad_rows) } else { String::new() };
        let fraction = progress.done.saturating_sub(done_before) as f64 / (progress.total - done_before).max(1) as f64;
        let left = self.began.elapsed().as_secs_f64() * (1.0 / fraction.max(1e-9) - 1.0);
        let left =
            if fraction > 0.0 { format!(", {} left", clock(Duration::from_secs_f64(left))) } else { String::new() };
        let download = progress.download.map_or(String::new(), |Download { archive, archives, have, bytes }| {
            let (have, bytes) = (DecimalBytes(have), DecimalBytes(bytes));
            format!(", archive {} of {archives}: {have} of {bytes} here", archive + 1)
        });
        let text = format!("{} rows {}{bad}{left}{download}", HumanCount(progress.rows), self.what);
        match &self.bar {
            Some(bar) => {
                bar.set_length(progress.total);
                bar.set_position(progress.done);
                bar.set_message(text);
            }
            None if self.last_line.elapsed() >= LINE_EVERY => {
                self.last_line = Instant::now();
                say(&format!("{}% {text}", 100 * progress.done / progress.total.max(1)));
            }
            None => {}
        }
    }

    fn close(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

fn contents(manifest: &Manifest) -> String {
    let bytes = manifest.shards.iter().map(|shard| shard.bytes).sum();
    format!(
        "  {} rows with {} pages in {} of {} in all",
        HumanCount(manifest.rows),
        HumanCount(manifest.distinct_pages),
        counted(manifest.shards.len(), "shard"),
        HumanBytes(bytes)
    )
}

/// What is in the folder, what was left out, what resizing came to, and what to type next.
fn summary(out: &Path, manifest: &Manifest, cost: &Cost) -> String {
    let mut text = format!("prepared: {}\n{}\n", out.display(), contents(manifest));
    if !manifest.bad_rows.is_empty() {
        text.push_str(&format!("  {} rows were left out; manifest.json lists them:\n", manifest.bad_rows.len()));
        for bad in manifest.bad_rows.iter().take(SHOWN_BAD_ROWS) {
            text.push_str(&format!("    {}: row {} (id {}): {}\n", bad.file, bad.row, bad.id, bad.reason));
        }
        let more = manifest.bad_rows.len().saturating_sub(SHOWN_BAD_ROWS);
        if more > 0 {
            text.push_str(&format!("    and {more} more\n"));
        }
    }
    if let (StoredPages::Resized(size), true) = (manifest.pages, cost.pages > 0) {
        let each = |time: Duration| time.as_secs_f64() * 1e3 / cost.pages as f64;
        text.push_str(&format!(
            "  pages at {size} x {size}: {} instead of {}; loading one takes {:.1} ms of one core instead of {:.1}\n",
            HumanBytes(cost.stored_bytes),
            HumanBytes(cost.source_bytes),
            each(cost.from_stored),
            each(cost.from_source),
        ));
    }
    text.push_str(&format!("train on it with:\n  --set 'data.train={}'", out.display()));
    text
}
