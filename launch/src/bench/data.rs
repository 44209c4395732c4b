//! `ecg-train bench data`: what a row costs from its bytes to a batch, stage by stage, and beside the reference's processor.
//! Stages are measured in CPU time of one thread, so that a busy machine changes them little; rows/s by the clock.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use ::data::{Batch, Dataset, LossOn, Sample, Sources, Template};
use model::ModelConfig;
use serde::Serialize;

use super::{process, reference};
use crate::cli::BenchDataArgs;
use crate::{Error, print, stores};

/// Rows of a micro-batch, for collating.
const MICRO_BATCH: usize = 4;
/// Longest row, in tokens.
const MAX_SEQ_LEN: usize = 2048;
/// The tower's side where no model says otherwise: MedGemma's.
const IMAGE_SIZE: usize = 896;
/// Synthetic pages, where nothing else was given; as many pixels as one of 2200 x 1700.
const SYNTHETIC: (u64, u32) = (4, 1934);

/// What was measured.
#[derive(Debug, Serialize)]
struct Figures {
    rows: usize,
    image_size: usize,
    /// Mean CPU time of one thread for one row, in milliseconds.
    stages_ms: BTreeMap<&'static str, f64>,
    threads: usize,
    rows_per_second: f64,
    pages: Vec<PageFigures>,
    /// The reference's packages, where there are some.
    reference: Option<String>,
}

/// Pages of one format and size; CPU milliseconds a page, the median of all rounds.
#[derive(Debug, Serialize)]
struct PageFigures {
    format: &'static str,
    width: usize,
    height: usize,
    pages: usize,
    bytes: usize,
    decode_ms: f64,
    resize_ms: f64,
    /// PIL: decode and convert to RGB; then the whole processor.
    reference_decode_ms: Option<f64>,
    reference_processor_ms: Option<f64>,
    /// The reference's decoding and processor over ours.
    ratio: Option<f64>,
}

/// What rows or pages are taken from.
enum Source {
    Rows(Dataset),
    Pages(Vec<Vec<u8>>),
}

/// Tokenizer and template of a model, where one was given.
type Text = Option<Template>;

/// Measures and prints.
///
/// # Errors
/// Rows, pages or a model that cannot be used; a reference that fails.
pub fn run(args: &BenchDataArgs) -> Result<(), Error> {
    let (text, model_size) = match &args.model {
        Some(model) => open_model(model).map(|(text, size)| (Some(text), Some(size)))?,
        None => (None, None),
    };
    let image_size = args.image_size.map(|size| size as usize).or(model_size).unwrap_or(IMAGE_SIZE);
    let source = Source::open(args)?;
    let rows = source.len().min(args.rows as usize);
    let threads = args.threads.map_or_else(|| thread::available_parallelism().map_or(1, usize::from), |n| n as usize);
    let pages = source.pages(rows)?;
    let mut reference = reference::start(image_size, &pages)?;
    let figures = Figures {
        rows,
        image_size,
        stages_ms: stages(&source, &text, image_size, rows)?,
        threads,
        rows_per_second: throughput(&source, &text, image_size, rows, threads)?,
        pages: page_figures(&pages, image_size, args.rounds, reference.as_mut())?,
        reference: reference.map(|reference| reference.packages.clone()),
    };
    let out =
        if args.json { serde_json::to_string(&figures).expect("numbers and texts") + "\n" } else { table(&figures) };
    print(out.as_bytes());
    Ok(())
}

fn open_model(folder: &Path) -> Result<(Template, usize), Error> {
    let folder = crate::places::model(folder)?;
    let config = ModelConfig::open(&folder)?;
    Ok((Template::open(&folder, trainer::template_options(&config, false))?, config.vision.image_size))
}

impl Source {
    fn open(args: &BenchDataArgs) -> Result<Self, Error> {
        if let Some(data) = &args.data {
            let files = vec![PathBuf::from(data)];
            return Ok(Self::Rows(stores::open(&Sources {
                files,
                image_folder: None,
                include: String::new(),
                keep_image_marker: false,
            })?));
        }
        if !args.image.is_empty() {
            let read = |path: &PathBuf| std::fs::read(path).map_err(Error::file(path, "read"));
            return Ok(Self::Pages(args.image.iter().map(read).collect::<Result<_, _>>()?));
        }
        let draw = |i| {
            let patient = synth::Patient::new(7, i);
            synth::png(&synth::draw(Some(&synth::Ecg::new(7, i, &patient)), SYNTHETIC.1))
                .map_err(|source| Error::from(synth::Error::Page { path: format!("synthetic page {i}"), source }))
        };
        Ok(Self::Pages((0..SYNTHETIC.0).map(draw).collect::<Result<_, _>>()?))
    }

    fn len(&self) -> usize {
        match self {
            Self::Rows(rows) => rows.len(),
            Self::Pages(pages) => pages.len(),
        }
    }

    /// The encoded pages of the rows, each once, for comparing with the reference; no more than it is worth waiting for.
    fn pages(&self, rows: usize) -> Result<Vec<Vec<u8>>, Error> {
        const MOST: usize = 24;
        match self {
            Self::Rows(data) => {
                let step = rows.div_ceil(MOST).max(1);
                (0..rows).step_by(step).map(|row| Ok(data.row(row)?.image.to_vec())).collect()
            }
            Self::Pages(pages) => Ok(pages.clone()),
        }
    }
}

/// CPU time of each stage, one row after the other, on this thread.
fn stages(source: &Source, text: &Text, image_size: usize, rows: usize) -> Result<BTreeMap<&'static str, f64>, Error> {
    let mut spent: BTreeMap<&'static str, Duration> = BTreeMap::new();
    let mut timed = |stage, began: Duration| *spent.entry(stage).or_default() += process::thread_time() - began;
    let (mut samples, mut pages) = (Vec::new(), Vec::new());
    for row in 0..rows {
        let began = process::thread_time();
        let (id, messages, image) = match source {
            Source::Rows(data) => {
                let row = data.row(row)?;
                (row.id, row.messages, row.image.to_vec())
            }
            Source::Pages(pages) => (String::new(), Vec::new(), pages[row].clone()),
        };
        timed("1 read", began);
        let began = process::thread_time();
        let pixels = ::data::decode(&image).map_err(|source| unusable(row, source))?;
        timed("2 decode", began);
        let began = process::thread_time();
        let page = pixels.resize(image_size);
        timed("3 resize", began);
        if let (Some(template), false) = (text, messages.is_empty()) {
            let began = process::thread_time();
            let example = template.encode(&messages, LossOn::All, MAX_SEQ_LEN).map_err(Error::Prompt)?;
            timed("4 template, tokens", began);
            samples.push(Sample { id, example, page: samples.len() as u32 });
            pages.extend(page);
            if samples.len() == MICRO_BATCH || row + 1 == rows {
                let began = process::thread_time();
                std::hint::black_box(Batch::collate(std::mem::take(&mut samples), std::mem::take(&mut pages), 0));
                timed("5 collate", began);
            }
        }
    }
    Ok(spent.into_iter().map(|(stage, time)| (stage, ms(time) / rows as f64)).collect())
}

/// Rows a second of `threads` threads, each with every `threads`-th row.
fn throughput(source: &Source, text: &Text, image_size: usize, rows: usize, threads: usize) -> Result<f64, Error> {
    let one = |row: usize| -> Result<(), Error> {
        let wrong = |source| unusable(row, source);
        match source {
            Source::Rows(data) => {
                let found = data.row(row)?;
                std::hint::black_box(::data::page(&found.image, image_size).map_err(wrong)?);
                if let Some(text) = text {
                    std::hint::black_box(
                        text.encode(&found.messages, LossOn::All, MAX_SEQ_LEN).map_err(Error::Prompt)?,
                    );
                }
            }
            Source::Pages(pages) => drop(std::hint::black_box(::data::page(&pages[row], image_size).map_err(wrong)?)),
        }
        Ok(())
    };
    let began = Instant::now();
    let ended = thread::scope(|scope| {
        let share = |first: usize| move || (first..rows).step_by(threads).try_for_each(one);
        let threads: Vec<_> = (0..threads).map(|first| scope.spawn(share(first))).collect();
        threads.into_iter().map(|thread| thread.join().ok()).collect::<Option<Vec<_>>>()
    });
    let panicked = ::data::Error::Thread { what: "a measuring thread", rows: Vec::new() };
    ended.ok_or(panicked)?.into_iter().collect::<Result<Vec<()>, Error>>()?;
    Ok(rows as f64 / began.elapsed().as_secs_f64())
}

/// CPU milliseconds of two stages.
type Times = [f64; 2];

/// Pages of one format and size, and what each pass over each of them took.
#[derive(Default)]
struct Group {
    pages: usize,
    bytes: usize,
    ours: Vec<Times>,
    theirs: Vec<Times>,
}

/// Every page in turn by us and by the reference, `rounds` times, so that both meet the same machine.
fn page_figures(
    pages: &[Vec<u8>],
    image_size: usize,
    rounds: u32,
    mut reference: Option<&mut reference::Reference>,
) -> Result<Vec<PageFigures>, Error> {
    let mut groups: BTreeMap<(&'static str, usize, usize), Group> = BTreeMap::new();
    for round in 0..rounds {
        for (row, bytes) in pages.iter().enumerate() {
            let began = process::thread_time();
            let pixels = ::data::decode(bytes).map_err(|source| unusable(row, source))?;
            let decoded = process::thread_time();
            std::hint::black_box(pixels.resize(image_size));
            let ours = [ms(decoded - began), ms(process::thread_time() - decoded)];
            let format = if bytes.starts_with(b"\x89PNG") { "PNG" } else { "JPEG" };
            let group = groups.entry((format, pixels.width, pixels.height)).or_default();
            if round == 0 {
                group.pages += 1;
                group.bytes += bytes.len();
            }
            group.ours.push(ours);
            if let Some(reference) = reference.as_deref_mut() {
                group.theirs.push(reference.page(row)?);
            }
        }
    }
    let figures = groups.into_iter().map(|((format, width, height), group)| group.figures(format, width, height));
    Ok(figures.collect())
}

impl Group {
    fn figures(self, format: &'static str, width: usize, height: usize) -> PageFigures {
        let Self { pages, bytes, ours, theirs } = self;
        let their = |stage| (!theirs.is_empty()).then(|| median(&theirs, stage));
        let sum = |times: &[Times]| median(&times.iter().map(|[a, b]| [a + b, 0.0]).collect::<Vec<_>>(), 0);
        PageFigures {
            format,
            width,
            height,
            pages,
            bytes: bytes / pages.max(1),
            decode_ms: median(&ours, 0),
            resize_ms: median(&ours, 1),
            reference_decode_ms: their(0),
            reference_processor_ms: their(1),
            ratio: (!theirs.is_empty()).then(|| sum(&theirs) / sum(&ours)),
        }
    }
}

fn unusable(row: usize, source: ::data::PageError) -> Error {
    Error::Page { path: format!("page {row}").into(), source }
}

fn median(times: &[[f64; 2]], stage: usize) -> f64 {
    let mut sorted: Vec<f64> = times.iter().map(|time| time[stage]).collect();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

fn ms(time: Duration) -> f64 {
    1e3 * time.as_secs_f64()
}

fn table(figures: &Figures) -> String {
    let Figures { rows, image_size, stages_ms, threads, rows_per_second, pages, reference } = figures;
    let mut text = format!("{rows} rows to {image_size} pixels; CPU ms a row on one thread:\n");
    for (stage, ms) in stages_ms {
        let _ = writeln!(text, "  {:<18} {ms:>8.2}", &stage[2..]);
    }
    let total: f64 = stages_ms.values().sum();
    let _ = writeln!(text, "  {:<18} {total:>8.2}", "all");
    let _ = writeln!(text, "{rows_per_second:.1} rows/s on {threads} threads\n");
    let _ = writeln!(text, "pages, CPU ms each        decode  resize | PIL decode  processor  ratio");
    for page in pages {
        let PageFigures { format, width, height, pages, decode_ms, resize_ms, .. } = page;
        let name = format!("{pages} {format} {width}x{height}");
        let _ = write!(text, "  {name:<22} {decode_ms:>7.1} {resize_ms:>7.1}");
        if let (Some(decode), Some(processor), Some(ratio)) =
            (page.reference_decode_ms, page.reference_processor_ms, page.ratio)
        {
            let _ = write!(text, " | {decode:>10.1} {processor:>10.1} {ratio:>5.2}x");
        }
        text.push('\n');
    }
    match reference {
        Some(packages) => _ = writeln!(text, "reference: {packages}, one thread, page by page in turn with ours"),
        None => _ = writeln!(text, "no reference: ECG_TRAIN_PYTHON names no Python with transformers and Pillow"),
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_one_of_its_numbers() {
        assert_eq!(median(&[[3.0, 1.0], [1.0, 9.0], [2.0, 5.0]], 0), 2.0);
        assert_eq!(median(&[[3.0, 1.0], [1.0, 9.0], [2.0, 5.0]], 1), 5.0);
        assert_eq!(median(&[], 0), 0.0);
    }
}
