//! How the published script reads an answer, its traps included: numbers compare with the published ones only so.
//! It never guesses: where the script draws a letter at random, there is none here.

use crate::Task;

/// Letters that the script looks for, whatever the task offers.
const LETTERS: [char; 8] = ['A', 'B', 'C', 'D', 'E', 'F', 'G', 'H'];
/// Where a stated answer begins.
const ANSWER: &str = "Answer:";
const OPTION: &str = "The correct option is ";

/// Labels of an answer as bits, in the order of `space`: every one whose letters stand anywhere in the text.
pub(crate) fn labels(task: Task, space: &[&str], text: &str) -> u32 {
    if task != Task::Code15Test {
        return bits(space, |label| text.contains(label));
    }
    let text = after_last(text, ANSWER);
    let abnormal = text.contains("ABNORMAL");
    bits(space, |label| match label {
        "ABNORMAL" => abnormal,
        "NORM" => !abnormal && text.contains("NORM"),
        label => text.contains(label),
    })
}

/// Labels of a gold answer.
pub(crate) fn gold_labels(task: Task, space: &[&str], gold: &str) -> u32 {
    bits(space, |label| match (task, label) {
        (Task::Code15Test, "NORM" | "ABNORMAL") => gold == label,
        (Task::Code15Test, _) if gold == "NORM" || gold == "ABNORMAL" => false,
        _ => gold.contains(label),
    })
}

/// The letter of an answer; none where the script draws one.
pub(crate) fn letter(text: &str) -> Option<char> {
    let mut chars = text.chars();
    if let (Some(only), None) = (chars.next(), chars.next())
        && LETTERS.contains(&only)
    {
        return Some(only);
    }
    if let Some(dotted) = LETTERS.into_iter().find(|letter| text.contains(&format!("{letter}."))) {
        return Some(dotted);
    }
    if text.contains(OPTION) {
        return after_last(text, OPTION).chars().next().filter(|letter| LETTERS.contains(letter));
    }
    let stated = text.contains(ANSWER).then(|| after_last(text, ANSWER))?;
    LETTERS.into_iter().find(|&letter| stated.contains(letter))
}

/// The options of an answer: those whose letters stand anywhere in the text in small letters.
pub(crate) fn options<'a>(options: &[&'a str], text: &str) -> Vec<&'a str> {
    let text = text.to_lowercase();
    options.iter().copied().filter(|option| text.contains(option)).collect()
}

pub(crate) fn bits(space: &[&str], holds: impl Fn(&str) -> bool) -> u32 {
    space.iter().enumerate().fold(0, |bits, (i, label)| bits | u32::from(holds(label)) << i)
}

fn after_last<'a>(text: &'a str, marker: &str) -> &'a str {
    text.rsplit_once(marker).map_or(text, |(_, after)| after)
}
