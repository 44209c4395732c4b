//! Scores of a model that is not asked to answer, but how likely it finds each label as its answer: a real ROC curve has
//! such a number on every row. It never runs the model.

use crate::auc::Ranked;
use crate::labels::{Counts, Row, mean};
use crate::scores::{labels_row, letters_row, metrics, table, weigh};
use crate::task::Kind;
use crate::{Answered, Basis, Bootstrap, Scores, Scoring, Task};

/// One row: how likely each of the task's [`candidates`] is as the beginning of the answer.
#[derive(Debug, Clone, Copy)]
pub struct Likelihood<'a> {
    /// What is right.
    pub gold: &'a str,
    /// ln of the probability of all tokens of each candidate, finite.
    pub log_probs: &'a [f64],
}

/// The words whose likelihood is asked; none for tasks whose answers are not from one list.
#[must_use]
pub fn candidates(task: Task) -> Option<Vec<String>> {
    match task.kind() {
        Kind::Labels(labels) => Some(labels.iter().map(|label| (*label).to_owned()).collect()),
        Kind::Letters(letters) => Some(letters.iter().map(char::to_string).collect()),
        Kind::Options | Kind::Judged(_) => None,
    }
}

/// Area under the ROC curve of every class that some rows have and some have not, and their mean. The score of a class is
/// its share of the probability that all candidates have together, so that rows on which the model would rather say
/// something else compare with the others. Of letters also how often the likeliest is the right one.
#[must_use]
pub fn score_likelihoods(task: Task, rows: &[Likelihood], bootstrap: Bootstrap) -> Option<Scores> {
    let names = candidates(task)?;
    let golds: Vec<u32> = rows.iter().map(|row| gold_bits(task, row.gold)).collect();
    let shares: Vec<Vec<f64>> = rows.iter().map(|row| shares(row.log_probs)).collect();
    let likeliest: Vec<u32> = shares.iter().map(|shares| 1 << first_of_largest(shares)).collect();
    let ranked: Vec<Ranked> = (0..names.len())
        .map(|i| {
            let scores: Vec<f64> = shares.iter().map(|shares| shares[i]).collect();
            Ranked::new(&scores, golds.iter().map(|gold| gold >> i & 1 == 1).collect())
        })
        .collect();
    let right: Vec<bool> = golds.iter().zip(&likeliest).map(|(gold, said)| gold == said).collect();
    let is_letter = matches!(task.kind(), Kind::Letters(_));
    let of = |weights: &[u32]| {
        let mut values = vec![mean(ranked.iter().filter_map(|class| class.auc(weights)))];
        if is_letter {
            let (right, n) = weigh(&right, weights);
            values.push((n > 0).then(|| right as f64 / n as f64));
        }
        values
    };
    let bits: Vec<Row> = golds.iter().zip(&likeliest).map(|(&gold, &said)| Row { gold, said }).collect();
    let ones = vec![1; rows.len()];
    let shown: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut classes = table(&shown, &Counts::new(&bits, &ones, names.len()));
    for (class, ranked) in classes.iter_mut().zip(&ranked) {
        class.auc = ranked.auc(&ones);
    }
    Some(Scores {
        task,
        basis: Basis::Likelihood,
        n_rows: rows.len(),
        unreadable: 0,
        gold_unreadable: golds.iter().filter(|&&gold| gold == 0).count(),
        metrics: metrics(&["macro_roc_auc", "accuracy_of_likeliest"], rows.len(), &of, bootstrap),
        classes,
    })
}

fn gold_bits(task: Task, gold: &str) -> u32 {
    let row = Answered { question: "", answer: "", gold };
    match task.kind() {
        Kind::Labels(space) => labels_row(task, Scoring::Strict, space, &row).gold,
        Kind::Letters(letters) => {
            let gold = letters_row(task, Scoring::Strict, letters, &row).1;
            gold.and_then(|gold| letters.iter().position(|&letter| letter == gold)).map_or(0, |i| 1 << i)
        }
        Kind::Options | Kind::Judged(_) => 0,
    }
}

/// Softmax.
fn shares(log_probs: &[f64]) -> Vec<f64> {
    let largest = log_probs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = log_probs.iter().map(|p| (p - largest).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / sum).collect()
}

fn first_of_largest(values: &[f64]) -> usize {
    (0..values.len()).fold(0, |best, i| if values[i] > values[best] { i } else { best })
}

#[cfg(test)]
mod tests;
