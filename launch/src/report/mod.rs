//! `ecg-train report`: the results of eval folders as one page that opens anywhere.
//! It computes nothing anew, and shows ids, labels and numbers: no row's text and no page.

mod eval;
mod page;
mod published;

use crate::cli::ReportArgs;
use crate::{Error, say};

use page::Html;

const TITLE: &str = "ECG-train: results";
const DISCLAIMER: &str = "Not a medical device. These numbers describe how a model answers benchmark questions; nothing \
     here, and nothing the model says, may be used for diagnosis or treatment.";

/// Writes the page.
///
/// # Errors
/// A folder without results, or a page that cannot be written.
pub fn run(args: &ReportArgs) -> Result<(), Error> {
    let evals = args.folder.iter().map(|folder| eval::Eval::open(folder)).collect::<Result<Vec<_>, _>>()?;
    let mut sections = vec![published::section(&evals)];
    for eval in &evals {
        sections.extend(eval.sections()?);
    }
    let introduction = [Html::paragraph("note", DISCLAIMER)];
    let notes = [
        Html::paragraph("", format!("Published numbers: {}. They are about all rows of a task.", score::SOURCE)),
        Html::paragraph("", format!("Written by ecg-train {}. {DISCLAIMER}", env!("CARGO_PKG_VERSION"))),
    ];
    storage::publish_file(&args.out, page::page(TITLE, &introduction, &sections, &notes).as_bytes())?;
    say(&format!("the page is {}", args.out.display()));
    Ok(())
}
