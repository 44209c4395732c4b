//! `ecg-train report`: runs and the results of evals as one page that opens anywhere.
//! It computes nothing anew, and shows ids, labels, numbers and what a model answered; rows' pages and texts only when asked.

mod chart;
mod eval;
mod page;
mod published;
mod run;

use crate::cli::ReportArgs;
use crate::{Error, say};

use page::Html;

const DISCLAIMER: &str = "Not a medical device. These numbers describe how a model was trained and answers questions; nothing \
     here, and nothing the model says, may be used for diagnosis or treatment.";

/// Writes the page.
///
/// # Errors
/// A folder that is neither a run nor an eval, or a page that cannot be written.
pub fn run(args: &ReportArgs) -> Result<(), Error> {
    let (mut runs, mut evals) = (Vec::new(), Vec::new());
    for folder in &args.folder {
        if run::Run::is(folder) {
            runs.push(run::Run::open(folder)?);
        } else if eval::Eval::is(folder) {
            evals.push(eval::Eval::open(folder)?);
        } else {
            return Err(Error::NothingToReport { folder: folder.clone() });
        }
    }
    run::tell_apart(&mut runs);
    let mut sections = Vec::new();
    if !runs.is_empty() {
        sections.push(run::curves(&runs));
    }
    for run in &runs {
        sections.push(run.section(args.with_pages)?);
    }
    let mut notes =
        vec![Html::paragraph("", format!("Written by ecg-train {}. {DISCLAIMER}", env!("CARGO_PKG_VERSION")))];
    if !evals.is_empty() {
        sections.push(published::section(&evals));
        notes.insert(
            0,
            Html::paragraph("", format!("Published numbers: {}. They are about all rows of a task.", score::SOURCE)),
        );
    }
    for eval in &evals {
        sections.extend(eval.sections()?);
    }
    let title = if evals.is_empty() { "ECG-train: training" } else { "ECG-train: results" };
    let introduction = [Html::paragraph("note", DISCLAIMER)];
    storage::publish_file(&args.out, page::page(title, &introduction, &sections, &notes).as_bytes())?;
    say(&format!("the page is {}", args.out.display()));
    Ok(())
}
