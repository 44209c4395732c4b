//! Rows with answers in, a task's scores out: metrics with intervals, and a table of the classes.
//! It never drops a row: an answer that cannot be read is wrong, and counted.

use serde::{Deserialize, Serialize};

use crate::labels::{Counts, Row};
use crate::task::Kind;
use crate::{Bootstrap, Scoring, Task, options, parity, strict};

/// One answered row.
#[derive(Debug, Clone, Copy)]
pub struct Answered<'a> {
    /// What was asked; the options of ECG-QA are in it.
    pub question: &'a str,
    /// What the model said.
    pub answer: &'a str,
    /// What is right.
    pub gold: &'a str,
}

/// A number about all rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// Its name in JSON, e.g. `macro_f1`.
    pub name: String,
    /// None where it is not defined on these rows.
    pub value: Option<f64>,
    /// 95 % interval by bootstrap over the rows.
    pub interval: Option<[f64; 2]>,
}

/// A class: how often it is true, how often it was said, and how often both.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Class {
    /// Label or letter.
    pub name: String,
    /// Rows for which it is true.
    pub support: u64,
    /// Rows for which it was said.
    pub predicted: u64,
    /// Rows for which both holds.
    pub true_positives: u64,
    /// None where it was never said.
    pub precision: Option<f64>,
    /// None where it is never true.
    pub recall: Option<f64>,
    /// None where it is neither.
    pub f1: Option<f64>,
    /// Area under the ROC curve of likelihoods; of answers there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auc: Option<f64>,
}

/// What numbers are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Basis {
    /// Answers, read as the published script does.
    Parity,
    /// Answers, read without its traps.
    Strict,
    /// How likely the model finds each label.
    Likelihood,
    /// What a judge says of the answers.
    Judge,
}

impl From<Scoring> for Basis {
    fn from(scoring: Scoring) -> Self {
        match scoring {
            Scoring::Parity => Self::Parity,
            Scoring::Strict => Self::Strict,
        }
    }
}

/// What all answers to a task come to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// The task.
    pub task: Task,
    /// What the numbers are about.
    pub basis: Basis,
    /// Rows.
    pub n_rows: usize,
    /// Answers in which nothing that the task asks for could be read.
    pub unreadable: usize,
    /// Rows whose gold answer could not be read: a wrong file or task, as a rule.
    pub gold_unreadable: usize,
    /// The numbers.
    pub metrics: Vec<Metric>,
    /// The classes; none where the questions have options of their own.
    pub classes: Vec<Class>,
}

impl Scores {
    /// A metric by name.
    #[must_use]
    pub fn metric(&self, name: &str) -> Option<&Metric> {
        self.metrics.iter().find(|metric| metric.name == name)
    }
}

/// What was read in one answer and its gold answer, as words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// Labels, letter or options of the answer.
    pub said: Vec<String>,
    /// Of the gold answer.
    pub gold: Vec<String>,
    /// They are equal.
    pub right: bool,
}

/// Scores of all rows of a task; none for a task that needs a judge.
#[must_use]
pub fn score(task: Task, scoring: Scoring, rows: &[Answered], bootstrap: Bootstrap) -> Option<Scores> {
    match task.kind() {
        Kind::Labels(space) => Some(of_labels(task, scoring, space, rows, bootstrap)),
        Kind::Letters(letters) => Some(of_letters(task, scoring, letters, rows, bootstrap)),
        Kind::Options => Some(of_options(task, scoring, rows, bootstrap)),
        Kind::Judged(_) => None,
    }
}

/// What is read in one row; none for a task that needs a judge.
#[must_use]
pub fn read(task: Task, scoring: Scoring, row: &Answered) -> Option<Read> {
    let words = |space: &[&str], bits: u32| -> Vec<String> {
        let set = space.iter().enumerate().filter(|(i, _)| bits >> i & 1 == 1);
        set.map(|(_, label)| (*label).to_owned()).collect()
    };
    let (said, gold) = match task.kind() {
        Kind::Labels(space) => {
            let Row { gold, said } = labels_row(task, scoring, space, row);
            (words(space, said), words(space, gold))
        }
        Kind::Letters(letters) => {
            let (said, gold) = letters_row(task, scoring, letters, row);
            let word = |letter: Option<char>| letter.map(String::from).into_iter().collect();
            (word(said), word(gold))
        }
        Kind::Options => {
            let (said, gold) = options::read(scoring, row.question, row.answer, row.gold);
            let right = options::equal(scoring, &said, &gold);
            return Some(Read { said, gold: gold.into_iter().map(str::to_owned).collect(), right });
        }
        Kind::Judged(_) => return None,
    };
    let right = !gold.is_empty() && said == gold;
    Some(Read { said, gold, right })
}

pub(crate) fn labels_row(task: Task, scoring: Scoring, space: &[&str], row: &Answered) -> Row {
    match scoring {
        Scoring::Parity => {
            Row { gold: parity::gold_labels(task, space, row.gold), said: parity::labels(task, space, row.answer) }
        }
        Scoring::Strict => Row { gold: strict::labels(space, row.gold), said: strict::labels(space, row.answer) },
    }
}

/// The letter that was said, and the true one.
pub(crate) fn letters_row(
    task: Task,
    scoring: Scoring,
    letters: &[char],
    row: &Answered,
) -> (Option<char>, Option<char>) {
    let first = row.gold.chars().next().filter(|letter| letters.contains(letter));
    let gold = match (scoring, task) {
        // The script compares with the whole gold answer there.
        (Scoring::Parity, Task::MmmuEcg) => first.filter(|letter| row.gold.len() == letter.len_utf8()),
        (Scoring::Parity, _) => first,
        (Scoring::Strict, _) => strict::letter(letters, row.gold),
    };
    match scoring {
        Scoring::Parity => (parity::letter(row.answer), gold),
        Scoring::Strict => (strict::letter(letters, row.answer), gold),
    }
}

/// The published script knows only classes that some gold answer has; strict scoring knows all of the task.
fn of_labels(task: Task, scoring: Scoring, space: &[&str], rows: &[Answered], bootstrap: Bootstrap) -> Scores {
    let bits: Vec<Row> = rows.iter().map(|row| labels_row(task, scoring, space, row)).collect();
    let everywhere = bits.iter().fold(0, |all, row| all | row.gold);
    // By name, as scikit-learn sorts them: the order of a sum.
    let mut kept: Vec<usize> =
        (0..space.len()).filter(|i| scoring == Scoring::Strict || everywhere >> i & 1 == 1).collect();
    kept.sort_by_key(|&i| space[i]);
    let select = |bits: u32| kept.iter().enumerate().fold(0, |all, (to, from)| all | (bits >> from & 1) << to);
    let known: Vec<Row> = bits.iter().map(|row| Row { gold: select(row.gold), said: select(row.said) }).collect();
    let of = |weights: &[u32]| {
        let counts = Counts::new(&known, weights, kept.len());
        vec![counts.macro_f1(), counts.macro_auc_of_binary(), counts.hamming()]
    };
    let names = ["macro_f1", "macro_auc_of_binary_predictions", "hamming_loss"];
    let counts = Counts::new(&known, &vec![1; rows.len()], kept.len());
    let classes: Vec<&str> = kept.iter().map(|&i| space[i]).collect();
    Scores {
        task,
        basis: scoring.into(),
        n_rows: rows.len(),
        unreadable: bits.iter().filter(|row| row.said == 0).count(),
        gold_unreadable: bits.iter().filter(|row| row.gold == 0).count(),
        metrics: metrics(&names, rows.len(), &of, bootstrap),
        classes: table(&classes, &counts),
    }
}

fn of_letters(task: Task, scoring: Scoring, letters: &[char], rows: &[Answered], bootstrap: Bootstrap) -> Scores {
    let read: Vec<_> = rows.iter().map(|row| letters_row(task, scoring, letters, row)).collect();
    let bit =
        |letter: Option<char>| letter.and_then(|l| letters.iter().position(|&known| known == l)).map_or(0, |i| 1 << i);
    let bits: Vec<Row> = read.iter().map(|&(said, gold)| Row { gold: bit(gold), said: bit(said) }).collect();
    let right: Vec<bool> = read.iter().map(|(said, gold)| said.is_some() && said == gold).collect();
    let unread: Vec<bool> = read.iter().map(|(said, _)| said.is_none()).collect();
    let n_letters = letters.len() as f64;
    let of = |weights: &[u32]| {
        let (right, n) = weigh(&right, weights);
        let (unread, _) = weigh(&unread, weights);
        let accuracy = (n > 0).then(|| right as f64 / n as f64);
        let mut values = vec![accuracy];
        if scoring == Scoring::Parity {
            values.push((n > 0).then(|| (right as f64 + unread as f64 / n_letters) / n as f64));
        }
        values
    };
    let names = ["accuracy", "accuracy_if_unreadable_were_guessed"];
    let shown: Vec<String> = letters.iter().map(char::to_string).collect();
    let shown: Vec<&str> = shown.iter().map(String::as_str).collect();
    let counts = Counts::new(&bits, &vec![1; rows.len()], letters.len());
    Scores {
        task,
        basis: scoring.into(),
        n_rows: rows.len(),
        unreadable: unread.iter().filter(|&&unread| unread).count(),
        gold_unreadable: read.iter().filter(|(_, gold)| gold.is_none()).count(),
        metrics: metrics(&names, rows.len(), &of, bootstrap),
        classes: table(&shown, &counts),
    }
}

fn of_options(task: Task, scoring: Scoring, rows: &[Answered], bootstrap: Bootstrap) -> Scores {
    let read: Vec<_> = rows.iter().map(|row| options::read(scoring, row.question, row.answer, row.gold)).collect();
    let right: Vec<bool> = read.iter().map(|(said, gold)| options::equal(scoring, said, gold)).collect();
    let of = |weights: &[u32]| {
        let (right, n) = weigh(&right, weights);
        vec![(n > 0).then(|| right as f64 / n as f64)]
    };
    Scores {
        task,
        basis: scoring.into(),
        n_rows: rows.len(),
        unreadable: read.iter().filter(|(said, _)| said.is_empty()).count(),
        gold_unreadable: read.iter().filter(|(_, gold)| gold.is_empty()).count(),
        metrics: metrics(&["exact_set_accuracy"], rows.len(), &of, bootstrap),
        classes: Vec::new(),
    }
}

/// Weight of the rows for which something holds, and of all.
pub(crate) fn weigh(holds: &[bool], weights: &[u32]) -> (u64, u64) {
    let some = holds.iter().zip(weights).filter(|(holds, _)| **holds).map(|(_, &w)| u64::from(w)).sum();
    (some, weights.iter().map(|&w| u64::from(w)).sum())
}

pub(crate) fn metrics(
    names: &[&str],
    n_rows: usize,
    of: &dyn Fn(&[u32]) -> Vec<Option<f64>>,
    bootstrap: Bootstrap,
) -> Vec<Metric> {
    let values = of(&vec![1; n_rows]);
    let mut intervals = bootstrap.intervals(n_rows, of);
    intervals.resize(values.len(), None);
    let metric =
        |((name, value), interval): ((&&str, Option<f64>), _)| Metric { name: (*name).to_owned(), value, interval };
    names.iter().zip(values).zip(intervals).map(metric).collect()
}

pub(crate) fn table(names: &[&str], counts: &Counts) -> Vec<Class> {
    let class = |(name, count): (&&str, &crate::labels::Count)| Class {
        name: (*name).to_owned(),
        support: count.support,
        predicted: count.said,
        true_positives: count.both,
        precision: count.precision(),
        recall: count.recall(),
        f1: count.f1(),
        auc: None,
    };
    names.iter().zip(&counts.classes).map(class).collect()
}

#[cfg(test)]
mod tests;
