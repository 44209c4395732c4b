//! `ecg-train bench open`: what a data set of full size costs before its first row: opening it, and finding the rows of a
//! step anywhere in a run. Measured on a folder with manifest, index and empty shards; each variant in a process of its own.

use std::fmt::Write as _;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use ::data::{Dataset, Sources};
use serde::{Deserialize, Serialize};
use trainer::Config;
use trainer::plan::Plan;

use super::process;
use crate::cli::BenchOpenArgs;
use crate::{Error, print};

/// Ways to order rows: name, and what the config says.
const ORDERS: [(&str, &[&str]); 4] = [
    ("shuffled", &["data.shuffle=true"]),
    ("the reference's", &["data.shuffle=hf"]),
    ("by page, 4 rows", &["data.shuffle=true", "data.group_by_page=4"]),
    ("by length", &["data.shuffle=true", "data.group_by_length=true"]),
];

/// Of one folder. Times are in milliseconds, by the clock.
#[derive(Debug, Serialize, Deserialize)]
struct Figures {
    rows: usize,
    in_source_order: bool,
    open_ms: f64,
    /// Peak of the process, with all orders measured one after the other.
    peak_mib: Option<f64>,
    orders: Vec<OrderFigures>,
}

#[derive(Debug, Serialize, Deserialize)]
struct OrderFigures {
    order: String,
    /// What the order needs of the data set, before any position is asked for.
    plan_ms: f64,
    /// The first step that is asked for after a start: at the beginning, in the middle of an epoch, and in a later one.
    resume_ms: [f64; 3],
    /// Another step of the same epoch.
    next_ms: f64,
}

/// Measures a folder whose shards are in the order of their source, and one of archives.
///
/// # Errors
/// The folders cannot be made, or a measuring process fails.
pub fn run(args: &BenchOpenArgs) -> Result<(), Error> {
    if let Some(folder) = &args.here {
        print((json(&measure(folder)?) + "\n").as_bytes());
        return Ok(());
    }
    let within = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let dir = within.join(format!("ecg-train-bench-open-{}", std::process::id()));
    storage::create_dir(&dir)?;
    let figures = [true, false].into_iter().map(|in_source_order| {
        let folder = dir.join(if in_source_order { "in-order" } else { "archives" });
        ::data::hollow(&folder, args.rows as usize, in_source_order).map_err(trainer::Error::from)?;
        elsewhere(&folder)
    });
    let figures = figures.collect::<Result<Vec<Figures>, Error>>();
    storage::remove_dir(&dir)?;
    let text = if args.json { json(&figures?) + "\n" } else { table(&figures?) };
    print(text.as_bytes());
    Ok(())
}

fn json(figures: &impl Serialize) -> String {
    serde_json::to_string(figures).expect("numbers and texts")
}

/// A process of its own: nothing is in its memory yet.
fn elsewhere(folder: &Path) -> Result<Figures, Error> {
    let failed = |source| Error::Process { what: "the measuring process", source };
    let mut command = Command::new(std::env::current_exe().map_err(failed)?);
    let output = command.args(["bench", "open", "--here"]).arg(folder).output().map_err(failed)?;
    if !output.status.success() {
        let exit_code = output.status.code().and_then(|code| u8::try_from(code).ok());
        let command = "bench open --here".to_owned();
        return Err(Error::Step { command, exit_code: exit_code.unwrap_or(crate::error::LOST) });
    }
    serde_json::from_slice(&output.stdout).map_err(|error| failed(error.into()))
}

fn measure(folder: &Path) -> Result<Figures, Error> {
    let files: Vec<PathBuf> = vec![folder.to_owned()];
    let began = Instant::now();
    let data = Dataset::open(&Sources { files, ..Sources::default() }).map_err(trainer::Error::from)?;
    let open_ms = ms(began);
    let in_source_order = data.manifests().all(|manifest| manifest.in_source_order);
    let orders = ORDERS.iter().map(|(name, settings)| order(name, settings, &data)).collect::<Result<_, _>>()?;
    Ok(Figures { rows: data.len(), in_source_order, open_ms, peak_mib: process::peak_mib(), orders })
}

fn order(name: &str, settings: &[&str], data: &Dataset) -> Result<OrderFigures, Error> {
    let card = ["train.global_batch_size=192", "train.micro_batch_size=4"];
    let settings: Vec<String> = card.iter().chain(settings).map(|&setting| setting.to_owned()).collect();
    let config = Config::parse("bench open", include_str!("tiny.toml"), &settings).map_err(trainer::Error::from)?;
    let began = Instant::now();
    Plan::over(&config, data).map_err(trainer::Error::from)?;
    let plan_ms = ms(began);
    let epoch = data.len().div_ceil(192) as u64;
    let mut next_ms = 0.0;
    let mut resume_ms = [0.0; 3];
    for (resume_ms, step) in resume_ms.iter_mut().zip([0, epoch / 2, 7 * epoch + epoch / 3]) {
        let plan = Plan::over(&config, data).map_err(trainer::Error::from)?; // As a start has it: nothing is known yet.
        let began = Instant::now();
        black_box(plan.step(step));
        *resume_ms = ms(began);
        let began = Instant::now();
        black_box(plan.step(step + 1));
        next_ms = ms(began);
    }
    Ok(OrderFigures { order: name.to_owned(), plan_ms, resume_ms, next_ms })
}

fn ms(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1e3
}

fn table(figures: &[Figures]) -> String {
    let mut text = String::new();
    for Figures { rows, in_source_order, open_ms, peak_mib, orders } in figures {
        let of = if *in_source_order { "in the order of their source" } else { "in the order of archives" };
        let _ = writeln!(text, "{rows} prepared rows {of}: opened in {open_ms:.1} ms");
        let _ = writeln!(text, "  ms               prepared  first step of a resume at 0, 1/2, 7 1/3 epochs    next");
        for OrderFigures { order, plan_ms, resume_ms: [a, b, c], next_ms } in orders {
            let _ = writeln!(text, "  {order:<16} {plan_ms:>8.1} {a:>28.3} {b:>9.3} {c:>9.3} {next_ms:>7.3}");
        }
        if let Some(peak) = peak_mib {
            let _ = writeln!(text, "  peak of the process, all orders: {peak:.0} MiB\n");
        }
    }
    text
}
