//! The files that go to a judge and come back: one request, and one reply, a line for each answer.
//! It never sends anything anywhere.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use score::{Reply, Task};

use super::{Answer, EvalError};
use crate::Error;

/// How many answers without a reply are named.
const NAMED: usize = 5;

/// The lines of the file of requests; none for a task without a judge.
pub(super) fn requests(task: Task, answers: &[Answer], judge: &str) -> Option<String> {
    let mut lines = String::new();
    for (i, answer) in answers.iter().enumerate() {
        let request = score::request(task, &request_id(task, i), &answer.answered(), judge)?;
        let _ = writeln!(lines, "{request}"); // A String takes whatever is written.
    }
    Some(lines)
}

/// The replies in the order of the answers, each with exactly one.
pub(super) fn read_replies(file: &Path, task: Task, n_answers: usize) -> Result<Vec<Reply>, Error> {
    let text = std::fs::read_to_string(file).map_err(Error::file(file, "read"))?;
    let places: BTreeMap<String, usize> = (0..n_answers).map(|i| (request_id(task, i), i)).collect();
    let mut replies: Vec<Option<Reply>> = vec![None; n_answers];
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let at = |reason: String| EvalError::Line { file: file.to_owned(), line: i + 1, reason };
        let reply = score::parse_reply(task, line);
        let reply = reply.map_err(|source| EvalError::Reply { file: file.to_owned(), line: i + 1, source })?;
        let place =
            places.get(&reply.id).ok_or_else(|| at(format!("{} is no request about these answers", reply.id)))?;
        if replies[*place].is_some() {
            return Err(at(format!("{} has a reply already", reply.id)).into());
        }
        replies[*place] = Some(reply);
    }
    let missing: Vec<String> = (0..n_answers).filter(|&i| replies[i].is_none()).map(|i| request_id(task, i)).collect();
    match missing.is_empty() {
        true => Ok(replies.into_iter().flatten().collect()),
        false => {
            let first = missing.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
            Err(EvalError::NoReply { file: file.to_owned(), n: missing.len(), first }.into())
        }
    }
}

/// By the answer's line, from 1: row ids need not differ.
fn request_id(task: Task, i: usize) -> String {
    format!("{task}-{}", i + 1)
}
