//! The options that a question of ECG-QA lists, and whether an answer names the right ones.
//! It never looks for an option that the question does not list.

use std::collections::BTreeSet;

use crate::{Scoring, parity, strict};

/// What ECGBench's questions say behind their options.
const ASIDE: &str = "Only answer based on the given Options without any explanation.";
const MARKER: &str = "Options:";

/// The options of a question: what stands behind `Options:` (without it, all of the question), between commas.
fn listed(question: &str) -> Vec<String> {
    let options = question.rsplit_once(MARKER).map_or(question, |(_, options)| options);
    options.replace(ASIDE, "").split(',').map(|option| option.trim().to_owned()).collect()
}

/// What the answer names, and what is right.
pub(crate) fn read<'a>(scoring: Scoring, question: &str, answer: &str, gold: &'a str) -> (Vec<String>, Vec<&'a str>) {
    let listed = listed(question);
    let options: Vec<&str> = listed.iter().map(String::as_str).collect();
    let gold = gold.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
    let said = match scoring {
        Scoring::Parity => parity::options(&options, answer),
        Scoring::Strict => {
            // The last option may end the question's sentence.
            let options: Vec<&str> = options.iter().map(|option| option.trim_end_matches('.')).collect();
            return (strict::options(&options, answer).into_iter().map(str::to_owned).collect(), gold);
        }
    };
    (said.into_iter().map(str::to_owned).collect(), gold)
}

/// Whether they are the same sets; in strict scoring whatever their capitals.
pub(crate) fn equal(scoring: Scoring, said: &[String], gold: &[&str]) -> bool {
    let set = |words: &mut dyn Iterator<Item = &str>| -> BTreeSet<String> {
        words
            .map(|word| match scoring {
                Scoring::Parity => word.to_owned(),
                Scoring::Strict => word.trim_end_matches('.').to_lowercase(),
            })
            .collect()
    };
    set(&mut said.iter().map(String::as_str)) == set(&mut gold.iter().copied())
}
