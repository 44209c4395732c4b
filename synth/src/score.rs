//! How good answers to held-out questions are: exact answers, per question, and the best that guessing can do.
//! It never looks at loss or tokens: behind a perfect template those flatter a model that only guesses.

use std::collections::BTreeMap;

use crate::questions::Question;

/// One held-out row: a question about one patient, asked alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldOut {
    /// The row's id, the same in the three held-out files.
    pub id: String,
    /// What is asked.
    pub question: Question,
    /// The true answer.
    pub answer: &'static str,
}

/// Share of each question's rows, 0 to 1, whose answer (in the order of `rows`) is exactly the true one.
/// White space around an answer does not count; a row without an answer is wrong.
#[must_use]
pub fn accuracy(rows: &[HeldOut], answers: &[String]) -> BTreeMap<Question, f64> {
    let right = |(i, row): (usize, &HeldOut)| (row.question, answers.get(i).is_some_and(|a| a.trim() == row.answer));
    share(rows.iter().enumerate().map(right))
}

/// For each question the one answer that is right most often, and its [`accuracy`]: what guessing alone can reach.
#[must_use]
pub fn best_constant(rows: &[HeldOut]) -> BTreeMap<Question, (&'static str, f64)> {
    let mut best = BTreeMap::new();
    for question in Question::ALL {
        for &answer in question.answers() {
            let of_question = rows.iter().filter(|row| row.question == question);
            for (_, accuracy) in share(of_question.map(|row| (question, row.answer == answer))) {
                let (kept, highest) = best.entry(question).or_insert((answer, accuracy));
                if accuracy > *highest {
                    (*kept, *highest) = (answer, accuracy);
                }
            }
        }
    }
    best
}

fn share(marks: impl Iterator<Item = (Question, bool)>) -> BTreeMap<Question, f64> {
    let mut counts: BTreeMap<Question, (usize, usize)> = BTreeMap::new();
    for (question, right) in marks {
        let (n_right, n) = counts.entry(question).or_default();
        *n_right += usize::from(right);
        *n += 1;
    }
    counts.into_iter().map(|(question, (n_right, n))| (question, n_right as f64 / n as f64)).collect()
}
