//! `ecg-train check`: everything that could stop a run, found at once, before a GPU is asked for anything.
//! It writes no file and starts no process; each section looks at one thing and says all that it finds.

mod arithmetic;
mod finding;
mod inputs;
mod memory;
mod report;
mod splits;

use data::Dataset;
use model::ModelConfig;
use trainer::Config;

use crate::cli::CheckArgs;
use crate::{Error, Outcome, print};

pub(crate) use finding::Finding;

/// What is checked; a section finds what the ones before it could open.
pub(crate) struct Subject<'a> {
    pub args: &'a CheckArgs,
    pub config: Option<Config>,
    /// Base and rows: named by hub ids, which a run would ask the hub for.
    pub remote: [bool; 2],
    pub model: Option<ModelConfig>,
    pub rows: Option<Dataset>,
    /// Trained numbers, once the base is open.
    pub n_trainable: Option<usize>,
}

/// A part of the report: its findings, none where what it needs could not be opened.
type Section = fn(&mut Subject) -> Vec<Finding>;

/// The report, in this order. Only the first four open anything; the others compute.
const SECTIONS: [(&str, Section); 6] = [
    ("config", inputs::config),
    ("model", inputs::model),
    ("data", inputs::rows),
    ("splits", splits::check),
    ("arithmetic", arithmetic::check),
    ("memory", memory::check),
];

/// Checks everything and prints what was found.
///
/// # Errors
/// At least one finding is an error; the exit code is that of the first.
pub fn run(args: &CheckArgs) -> Result<Outcome, Error> {
    let mut subject = Subject { args, config: None, remote: [false; 2], model: None, rows: None, n_trainable: None };
    let found: Vec<(&str, Vec<Finding>)> = SECTIONS.map(|(name, section)| (name, section(&mut subject))).into();
    let report = if args.json { report::json(&found) } else { report::text(&found) };
    print(report.as_bytes());
    if let (true, Some(table)) = (args.table, memory::table(&subject)) {
        print(format!("\n{table}").as_bytes());
    }
    let codes: Vec<u8> = found.iter().flat_map(|(_, found)| found).filter_map(Finding::exit_code).collect();
    match codes[..] {
        [] => Ok(Outcome::Done),
        [exit_code, ..] => Err(Error::CheckFailed { n: codes.len(), exit_code }),
    }
}
