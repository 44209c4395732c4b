//! `ecg-train eval`: a model's answers to ECGBench's tasks, kept row by row, and what they come to.
//! It never skips a row, and never mixes answers of two models, data sets or options in one folder.

mod answers;
mod ask;
mod control;
mod error;
mod existing;
mod identity;
mod judge;
mod likelihood;
mod results;
mod rows;
mod sheet;

use std::path::{Path, PathBuf};

use data::Template;
use model::engine::{Device, Precision, Work};
use model::generate::Generator;
use model::{ModelConfig, Ops};
use score::Task;

use crate::cli::EvalArgs;
use crate::{Error, places, print, say};

pub use answers::Answer;
pub use control::Pages;
pub use error::EvalError;
pub use identity::describe;
pub use results::{Entry, Results, basis_name, number};

use ask::Asker;
use identity::Identity;
use rows::Rows;

/// Asks and scores, or scores what is there.
///
/// # Errors
/// A model, data set or file that cannot be used; an output folder of another eval. What was answered before stays.
pub fn run(args: &EvalArgs) -> Result<(), Error> {
    let entries = match (&args.answers, &args.model, &args.data, &args.out) {
        (Some(file), ..) => existing::score(file, args)?,
        (None, Some(model), Some(data), Some(out)) => {
            let device = Device::first(args.gpus.is_some(), args.backend)?;
            device.run(Precision::F32, Asking { model, data, out, args })??
        }
        _ => return Err(EvalError::Incomplete.into()),
    };
    print(results::table(&entries).as_bytes());
    if let Some(out) = &args.out {
        storage::create_dir(out)?;
        Results::merge_into(out, entries)?;
        say(&format!(
            "everything is in {}; `ecg-train report {} --out report.html` shows it",
            out.display(),
            out.display()
        ));
    }
    Ok(())
}

/// The answers that an eval's folder keeps of a task, with the rows' own pages; none where it only has results.
///
/// # Errors
/// A file that is no file of answers.
pub fn kept_answers(folder: &Path, task: Task) -> Result<Vec<Answer>, Error> {
    let file = folder.join(task.name()).join(Pages::Own.file("answers"));
    if file.exists() { answers::read(&file, task, None) } else { Ok(Vec::new()) }
}

/// Everything of an eval but its engine.
struct Asking<'a> {
    model: &'a Path,
    data: &'a str,
    out: &'a Path,
    args: &'a EvalArgs,
}

impl Work for Asking<'_> {
    type Done = Result<Vec<Entry>, Error>;

    fn on<O: Ops>(self, ops: O) -> Self::Done {
        ask_model(ops, self.model, self.data, self.out, self.args)
    }
}

/// Where model and adapter lie.
struct Folders {
    model: PathBuf,
    adapter: Option<PathBuf>,
}

/// Everything that can be refused is refused before the first question.
fn ask_model<O: Ops>(ops: O, model: &Path, data: &str, out: &Path, args: &EvalArgs) -> Result<Vec<Entry>, Error> {
    let adapter = args.adapter.as_deref().map(places::adapter).transpose()?;
    let folders = Folders { model: places::model(model)?, adapter };
    let config = ModelConfig::open(&folders.model)?;
    let template = Template::open(&folders.model, trainer::template_options(&config, false))?;
    let mut tasks = args.task.clone();
    tasks.sort_unstable();
    tasks.dedup();
    let opened = tasks.iter().map(|&task| Rows::open(data, task, tasks.len() == 1)).collect::<Result<Vec<_>, _>>()?;
    for rows in &opened {
        rows.dataset.require_image_size(config.vision.image_size)?;
        warn_of_count(rows.task, rows.dataset.len());
    }
    storage::create_dir(out)?;
    Identity::of(&folders, args, &opened)?.claim(out)?;
    let generator = Generator::open(ops, &folders.model, folders.adapter.as_deref())?;
    let asker = Asker { template, generator, args };
    let mut entries = Vec::new();
    for rows in &opened {
        let folder = out.join(rows.task.name());
        storage::create_dir(&folder)?;
        for pages in Pages::asked(&args.control) {
            let answers = asker.answers(rows, pages, &folder)?;
            entries.extend(score_answers(rows.task, pages, &answers, args));
            if args.likelihood {
                entries.extend(asker.likelihood(rows, pages, &folder)?);
            }
            if let Some(requests) = judge::requests(rows.task, &answers, &args.judge_model) {
                let file = folder.join(pages.file("judge-requests"));
                storage::publish_file(&file, requests.as_bytes())?;
                say(&format!("{}: {} requests for a judge: {}", rows.task, answers.len(), file.display()));
            }
        }
    }
    Ok(entries)
}

/// The scores of a task's answers, read in each of the ways asked for.
fn score_answers(task: Task, pages: Pages, answers: &[Answer], args: &EvalArgs) -> Vec<Entry> {
    let rows: Vec<_> = answers.iter().map(Answer::answered).collect();
    let of = |&scoring| score::score(task, scoring, &rows, args.bootstrap());
    let scores: Vec<_> = args.scorings().iter().filter_map(of).collect();
    if let Some(unreadable) = scores.iter().map(|scores| scores.gold_unreadable).max().filter(|&n| n > 0) {
        say(&format!(
            "warning: {task}: {unreadable} rows have no gold answer that such a task has; is it this task's file?"
        ));
    }
    scores.into_iter().map(|scores| Entry { pages, bootstrap: args.bootstrap(), scores }).collect()
}

/// The published numbers are about all rows.
fn warn_of_count(task: Task, n_rows: usize) {
    let published = task.published_rows();
    if n_rows != published {
        say(&format!(
            "warning: {task} has {n_rows} rows here and {published} as published; its numbers do not compare with published ones"
        ));
    }
}
