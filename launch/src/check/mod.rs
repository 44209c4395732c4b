//! `ecg-train check`: everything that could stop a run, found at once, before a GPU is asked for anything.
//! It starts no process, and writes no file but the thumbnail of a row that is shown; each section looks at one thing and
//! says all that it finds.

mod arithmetic;
mod disk;
mod finding;
mod inputs;
mod memory;
mod network;
mod report;
mod sample;
mod shown;
mod splits;
mod spread;
mod text;
mod time;

use std::io::{IsTerminal, stdout};
use std::sync::Arc;

use data::{Dataset, Template};
use model::ModelConfig;
use trainer::Config;

use crate::cli::CheckArgs;
use crate::{Error, Outcome, print};

pub(crate) use finding::Finding;
pub(crate) use sample::Looked;

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
    /// Bytes of the base's tensors.
    pub base_bytes: Option<u64>,
    /// Every matrix of the base is stored in bf16.
    pub bf16_base: bool,
    pub template: Option<Arc<Template>>,
    /// Rows that were looked at and are fine.
    pub looked: Vec<Looked>,
    /// Processes of `launch`, once their place is known.
    pub n_nodes: u32,
    /// The step that the run goes on from; 0 for a new one.
    pub begun: u64,
    /// Optimizer steps from where the run would begin.
    pub steps_left: Option<u64>,
}

impl<'a> Subject<'a> {
    fn new(args: &'a CheckArgs) -> Self {
        Self {
            args,
            config: None,
            remote: [false; 2],
            model: None,
            rows: None,
            n_trainable: None,
            base_bytes: None,
            bf16_base: false,
            template: None,
            looked: Vec::new(),
            n_nodes: 1,
            begun: 0,
            steps_left: None,
        }
    }

    /// Ranks of the run, if every node has as many as this one.
    pub fn n_ranks(&self) -> usize {
        self.args.n_workers() as usize * self.n_nodes as usize
    }
}

/// A part of the report: its findings, none where what it needs could not be opened.
type Section = fn(&mut Subject) -> Vec<Finding>;

/// The report, in this order: what is opened, then what follows from it.
const SECTIONS: [(&str, Section); 11] = [
    ("config", inputs::config),
    ("network", network::check),
    ("model", inputs::model),
    ("text", text::check),
    ("data", inputs::rows),
    ("rows", sample::check),
    ("splits", splits::check),
    ("arithmetic", arithmetic::check),
    ("memory", memory::check),
    ("disk", disk::check),
    ("time", time::check),
];

/// Checks everything and prints what was found.
///
/// # Errors
/// At least one finding is an error; the exit code is that of the first.
pub fn run(args: &CheckArgs) -> Result<Outcome, Error> {
    let mut subject = Subject::new(args);
    let found: Vec<(&str, Vec<Finding>)> = SECTIONS.map(|(name, section)| (name, section(&mut subject))).into();
    let report = if args.json { report::json(&found) } else { report::text(&found) };
    print(report.as_bytes());
    if let (true, Some(table)) = (args.table, memory::table(&subject)) {
        print(format!("\n{table}").as_bytes());
    }
    let colours = stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    if (args.show_row.is_some() || stdout().is_terminal())
        && !args.json
        && let Some(row) = shown::row(&subject, colours)?
    {
        print(format!("\n{row}").as_bytes());
    }
    let codes: Vec<u8> = found.iter().flat_map(|(_, found)| found).filter_map(Finding::exit_code).collect();
    match codes[..] {
        [] => Ok(Outcome::Done),
        [exit_code, ..] => Err(Error::CheckFailed { n: codes.len(), exit_code }),
    }
}
