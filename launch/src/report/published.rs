//! The section that sets ours beside the published numbers, a row a model, a column a task's number.
//! What was not asked of all rows is marked: it does not compare.

use score::{Basis, Kind, PUBLISHED, Task};

use super::eval::Eval;
use super::page::{Html, Section};
use crate::eval::{Entry, Pages, number};

/// What the published table has of a task: our metrics that are counted as it was, and how it calls them.
pub(super) fn columns(task: Task) -> Vec<(&'static str, &'static str, &'static str)> {
    match task.kind() {
        Kind::Labels(_) => vec![
            ("macro_auc_of_binary_predictions", "macro_auc_of_binary_predictions", "AUC*"),
            ("macro_f1", "macro_f1", "F1"),
            ("hamming_loss", "hamming_loss", "HL"),
        ],
        Kind::Letters(_) => vec![("accuracy_if_unreadable_were_guessed", "accuracy", "acc.")],
        Kind::Options => vec![("exact_set_accuracy", "exact_set_accuracy", "acc.")],
        Kind::Judged(_) => vec![("score", "score", "score")],
    }
}

/// The basis on which published numbers stand.
pub(super) fn basis(task: Task) -> Basis {
    match task.kind() {
        Kind::Judged(_) => Basis::Judge,
        _ => Basis::Parity,
    }
}

/// The tasks of the paper's two tables.
const TABLES: [(&str, &[Task]); 2] = [
    ("Data sets that PULSE was trained on", &[Task::PtbTest, Task::PtbTestReport, Task::Code15Test, Task::EcgqaTest]),
    ("Other data sets", &[Task::CpscTest, Task::CsnTest, Task::G12Test, Task::MmmuEcg, Task::Arena]),
];

pub(super) fn section(evals: &[Eval]) -> Section {
    let mut parts = Vec::new();
    for (title, tasks) in TABLES {
        parts.extend([Html::heading(title), table(evals, tasks)]);
    }
    let notes = "Percent; a judge's score out of 100. HL is the Hamming loss: lower is better. AUC* is made of yes or no \
        and so the mean of sensitivity and specificity, not an area under a real curve. Ours are read as the published \
        script reads answers, those it replaces by a random letter counted as guesses. † not asked of the rows that were \
        published: not comparable.";
    parts.extend([Html::paragraph("soft", notes), Html::paragraph("soft", score::SOURCE)]);
    Section { title: "Beside published models".into(), parts }
}

fn table(evals: &[Eval], tasks: &[Task]) -> Html {
    let columns: Vec<_> = tasks.iter().flat_map(|&task| columns(task).into_iter().map(move |c| (task, c))).collect();
    let head: Vec<String> = columns.iter().map(|(task, (_, _, name))| format!("{} {name}", short(*task))).collect();
    let head: Vec<&str> = ["model"].into_iter().chain(head.iter().map(String::as_str)).collect();
    let ours = evals.iter().map(|eval| {
        let cell =
            |(task, (ours, ..)): &(Task, (&str, _, _))| cell(&eval.results.entries, *task, ours).unwrap_or_default();
        (true, [eval.name.clone()].into_iter().chain(columns.iter().map(cell)).collect())
    });
    let theirs = PUBLISHED.iter().map(|model| {
        let cell = |(task, (_, theirs, _)): &(Task, (_, &str, _))| {
            let all = model.of(*task);
            all.iter().find(|(name, _)| name == theirs).map_or_else(String::new, |(_, value)| format!("{value:.1}"))
        };
        (false, [model.model.to_owned()].into_iter().chain(columns.iter().map(cell)).collect())
    });
    Html::table("", &head, &ours.chain(theirs).collect::<Vec<_>>())
}

/// Our number of a task, marked if it is of other rows than the published ones.
fn cell(entries: &[Entry], task: Task, metric: &str) -> Option<String> {
    let is =
        |entry: &&Entry| entry.pages == Pages::Own && entry.scores.task == task && entry.scores.basis == basis(task);
    let scores = entries.iter().find(is).map(|entry| &entry.scores)?;
    let mark = if scores.n_rows == task.published_rows() { "" } else { "†" };
    Some(format!("{}{mark}", number(scores.basis, scores.metric(metric)?.value?)))
}

fn short(task: Task) -> &'static str {
    match task {
        Task::PtbTest => "PTB-XL",
        Task::PtbTestReport => "Report",
        Task::Code15Test => "CODE-15%",
        Task::EcgqaTest => "ECG-QA",
        Task::CpscTest => "CPSC",
        Task::CsnTest => "CSN",
        Task::G12Test => "G12EC",
        Task::MmmuEcg => "MMMU-ECG",
        Task::Arena => "Arena",
    }
}
