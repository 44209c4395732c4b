//! Answers as lines of JSON: ours, those of `generate`, and those of PULSE's scripts.
//! It never takes a line that it does not understand for an answer.

use std::collections::BTreeMap;
use std::path::Path;

use data::{Message, Role};
use score::{Answered, Task};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::rows::Rows;
use super::{EvalError, Pages};
use crate::Error;

/// Largest file of answers that is read.
const MAX_BYTES: u64 = 4 << 30;

/// One line of `answers.jsonl`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// Row id.
    pub id: String,
    /// The task.
    pub task: Task,
    /// Which of the row's questions, from 0; left out for the first.
    #[serde(default, skip_serializing_if = "is_first")]
    pub turn: usize,
    /// What was asked.
    pub question: String,
    /// What is right.
    pub gold: String,
    /// What the model said.
    pub answer: String,
    /// In so many tokens.
    pub tokens: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_first(turn: &usize) -> bool {
    *turn == 0
}

impl Answer {
    /// As it is scored.
    #[must_use]
    pub fn answered(&self) -> Answered<'_> {
        Answered { question: &self.question, answer: &self.answer, gold: &self.gold }
    }
}

/// Question and gold answer of every row by its id: what a file of answers may lack.
pub(super) struct Golds(BTreeMap<String, (String, String)>);

impl Golds {
    pub(super) fn read(rows: &Rows) -> Result<Self, Error> {
        let mut golds = BTreeMap::new();
        for i in 0..rows.dataset.len() {
            let row = rows.dataset.row(i)?;
            let first = |role| row.messages.iter().find(|m| m.role == role).map(Message::words).unwrap_or_default();
            golds.insert(row.id.clone(), (first(Role::User), first(Role::Assistant)));
        }
        Ok(Self(golds))
    }
}

/// The answers to `task` in a file; lines that name another task are left out. Of PULSE's lines (`question_id`, `prompt`,
/// `text` or `response`) the gold answer is in the data set.
pub(super) fn read(file: &Path, task: Task, golds: Option<&Golds>) -> Result<Vec<Answer>, Error> {
    let length = std::fs::metadata(file).map_err(Error::file(file, "read"))?.len();
    if length > MAX_BYTES {
        return Err(Error::file(file, "read")(std::io::ErrorKind::FileTooLarge.into()));
    }
    let text = std::fs::read_to_string(file).map_err(Error::file(file, "read"))?;
    let mut answers = Vec::new();
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = |reason: String| EvalError::Line { file: file.to_owned(), line: i + 1, reason };
        let value: Value = serde_json::from_str(line).map_err(|_| wrong("is not JSON".into()))?;
        if value.get("task").is_some_and(|named| named.as_str().and_then(|name| name.parse().ok()) != Some(task)) {
            continue;
        }
        answers.push(answer(&value, task, golds).map_err(wrong)?);
    }
    match answers.is_empty() {
        true => Err(EvalError::NoAnswers { file: file.to_owned(), task }.into()),
        false => Ok(answers),
    }
}

fn answer(line: &Value, task: Task, golds: Option<&Golds>) -> Result<Answer, String> {
    let field = |names: &[&str]| names.iter().find_map(|name| line.get(name)).filter(|value| !value.is_null());
    let id = match field(&["id", "question_id"]) {
        Some(Value::String(id)) => id.clone(),
        Some(Value::Number(id)) => id.to_string(),
        _ => return Err("has neither `id` nor `question_id`".into()),
    };
    let said = field(&["answer", "text", "response"]).and_then(Value::as_str);
    let said = said.ok_or_else(|| format!("row {id}: has neither `answer`, `text` nor `response`"))?;
    let known = golds.map(|golds| golds.0.get(&id).ok_or_else(|| format!("row {id}: is not in --data"))).transpose()?;
    let asked = match field(&["question", "prompt"]) {
        Some(Value::String(question)) => Some(question.clone()),
        Some(Value::Object(prompt)) => prompt.get("prompt").and_then(Value::as_str).map(str::to_owned),
        _ => None,
    };
    let gold = match (known, field(&["gold", "expected"])) {
        (Some((_, gold)), _) => gold.clone(),
        (None, Some(Value::String(gold))) => gold.clone(),
        // ECG-QA's gold answers are lists.
        (None, Some(Value::Array(golds))) => golds.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "),
        _ => return Err(format!("row {id}: has no gold answer; give the task's rows with --data")),
    };
    let question = known.map(|(question, _)| question.clone()).or(asked).unwrap_or_default();
    let number = |name| line.get(name).and_then(Value::as_u64).unwrap_or_default() as usize;
    Ok(Answer { id, task, turn: number("turn"), question, gold, answer: said.to_owned(), tokens: number("tokens") })
}

/// The pages that a file of answers is about, as its name says.
pub(super) fn pages_of(file: &Path) -> Pages {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let is = |pages: &Pages| pages.control().is_some_and(|control| name.contains(control));
    [Pages::Blank, Pages::Shuffled].into_iter().find(is).unwrap_or(Pages::Own)
}
