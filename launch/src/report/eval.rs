//! The sections of an eval's folder: each task's numbers with intervals, its controls, its classes, and rows to look up.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use score::{Basis, Class, PUBLISHED, Scoring, Task};

use super::page::{Dot, Html, Section};
use super::published;
use crate::Error;
use crate::eval::{Answer, Entry, Pages, Results, basis_name, describe, kept_answers, number};

/// Rows that are named of each kind.
const SAMPLES: usize = 4;

/// A folder of results.
pub(super) struct Eval {
    folder: PathBuf,
    pub name: String,
    pub results: Results,
}

impl Eval {
    /// Whether a folder is one.
    pub(super) fn is(folder: &Path) -> bool {
        folder.join("results.json").exists()
    }

    pub(super) fn open(folder: &Path) -> Result<Self, Error> {
        let results = Results::read(folder)?;
        let name = folder.canonicalize().ok().and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
        Ok(Self { folder: folder.to_owned(), name: name.unwrap_or_else(|| folder.display().to_string()), results })
    }

    pub(super) fn sections(&self) -> Result<Vec<Section>, Error> {
        let tasks: BTreeSet<Task> = self.results.entries.iter().map(|entry| entry.scores.task).collect();
        let of = |task: Task| -> Vec<&Entry> {
            self.results.entries.iter().filter(|entry| entry.scores.task == task).collect()
        };
        let mut sections: Vec<Section> = Vec::new();
        for task in tasks {
            let entries = of(task);
            let title = format!("{}: {task}", self.name);
            let mut parts = vec![self.about(task, &entries)];
            parts.extend(chart(task, &entries));
            parts.push(numbers(&entries));
            parts.extend(entries.iter().filter(|entry| entry.pages == Pages::Own).filter_map(|entry| classes(entry)));
            parts.extend(self.samples(task)?);
            sections.push(Section { title, parts });
        }
        Ok(sections)
    }

    fn about(&self, task: Task, entries: &[&Entry]) -> Html {
        let n_rows = entries.first().map_or(0, |entry| entry.scores.n_rows);
        let all = task.published_rows();
        let rows = match n_rows == all {
            true => format!("All {all} published rows."),
            false => format!("{n_rows} rows, {all} were published: not comparable with published numbers."),
        };
        let drawn = entries.first().map(|entry| entry.bootstrap);
        let intervals = drawn.map_or_else(String::new, |drawn| {
            format!(" 95 % intervals of {} resamples of the rows, seed {}.", drawn.resamples, drawn.seed)
        });
        let model = describe(&self.folder).map_or_else(String::new, |model| format!(" {model}."));
        Html::paragraph("soft", format!("{rows}{intervals}{model}"))
    }

    /// Rows by id, with what was read in the answer and what is right; never the answer's words.
    fn samples(&self, task: Task) -> Result<Vec<Html>, Error> {
        let answers = kept_answers(&self.folder, task)?;
        let read = |answer: &Answer| score::read(task, Scoring::Strict, &answer.answered());
        let (mut right, mut wrong) = (Vec::new(), Vec::new());
        for answer in &answers {
            let Some(read) = read(answer) else { continue };
            let kind = if read.right { &mut right } else { &mut wrong };
            if kind.len() < SAMPLES {
                let said = if read.said.is_empty() { "nothing readable".into() } else { read.said.join(", ") };
                let verdict = if read.right { "right" } else { "wrong" };
                kind.push((false, vec![answer.id.clone(), said, read.gold.join(", "), verdict.to_owned()]));
            }
        }
        right.extend(wrong);
        if right.is_empty() {
            return Ok(Vec::new());
        }
        let table = Html::table("words", &["row", "read in the answer", "right is", ""], &right);
        Ok(vec![Html::heading("Rows to look up"), table])
    }
}

/// The task's first published number: ours on every kind of pages, then the models'.
fn chart(task: Task, entries: &[&Entry]) -> Option<Html> {
    let (ours, theirs, _) =
        published::columns(task).into_iter().find(|(ours, ..)| *ours != "macro_auc_of_binary_predictions")?;
    let percent = |value: f64| if published::basis(task) == Basis::Judge { value } else { value * 100.0 };
    let mut dots: Vec<Dot> = entries
        .iter()
        .filter(|entry| entry.scores.basis == published::basis(task))
        .filter_map(|entry| {
            let metric = entry.scores.metric(ours)?;
            let interval = metric.interval.map(|interval| interval.map(percent));
            let label = entry.pages.control().map_or_else(|| "this model".to_owned(), |c| format!("this model, {c}"));
            Some(Dot { label, value: percent(metric.value?), interval, is_ours: true })
        })
        .collect();
    if dots.is_empty() {
        return None;
    }
    for model in &PUBLISHED {
        let value = model.of(task).into_iter().find(|(name, _)| *name == theirs);
        dots.extend(value.map(|(_, value)| Dot { label: model.model.into(), value, interval: None, is_ours: false }));
    }
    Some(Html::dots(&dots))
}

fn numbers(entries: &[&Entry]) -> Html {
    let mut rows = Vec::new();
    let has_controls = entries.iter().any(|entry| entry.pages != Pages::Own);
    for Entry { pages, scores, .. } in entries {
        let basis = basis_name(scores.basis);
        let shown = pages.control().unwrap_or("own page");
        for metric in &scores.metrics {
            let said = |value: f64| number(scores.basis, value);
            let interval = metric.interval.map(|[low, high]| format!("{} to {}", said(low), said(high)));
            rows.push((
                has_controls && *pages == Pages::Own,
                vec![
                    metric_name(&metric.name),
                    basis.to_owned(),
                    shown.to_owned(),
                    metric.value.map_or_else(|| "undefined".to_owned(), said),
                    interval.unwrap_or_default(),
                    scores.unreadable.to_string(),
                ],
            ));
        }
    }
    Html::table("", &["", "read as", "shown", "value", "95 % interval", "unreadable"], &rows)
}

fn classes(entry: &Entry) -> Option<Html> {
    let scores = &entry.scores;
    if scores.classes.is_empty() {
        return None;
    }
    let said = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |value| number(Basis::Parity, value));
    let row = |class: &Class| {
        let auc = class.auc.map_or_else(|| "–".to_owned(), |auc| number(Basis::Parity, auc));
        let mut cells = vec![class.name.clone(), class.support.to_string(), class.predicted.to_string()];
        cells.extend([said(class.precision), said(class.recall), said(class.f1)]);
        cells.extend((scores.basis == Basis::Likelihood).then_some(auc));
        (false, cells)
    };
    let mut head = vec!["class", "true", "said", "precision", "recall", "F1"];
    head.extend((scores.basis == Basis::Likelihood).then_some("ROC AUC"));
    let rows: Vec<_> = scores.classes.iter().map(row).collect();
    let title = Html::heading(format!("Classes, {}", basis_name(scores.basis)));
    Some(Html::joined(&[title, Html::table("", &head, &rows)]))
}

/// A metric in words.
fn metric_name(name: &str) -> String {
    match name {
        "macro_f1" => "macro F1".into(),
        "macro_auc_of_binary_predictions" => "macro AUC of yes/no (no real AUC)".into(),
        "hamming_loss" => "Hamming loss (lower is better)".into(),
        "accuracy_if_unreadable_were_guessed" => "accuracy, unreadable ones guessed".into(),
        "exact_set_accuracy" => "accuracy of the exact set".into(),
        "macro_roc_auc" => "macro ROC AUC".into(),
        "accuracy_of_likeliest" => "accuracy of the likeliest".into(),
        other => other.replace('_', " "),
    }
}
