//! What a judge is asked about an answer in words, and what it replies: requests as OpenAI's batch API takes them, replies
//! as it gives them back. It never speaks to anybody.

use serde_json::{Value, json};

use crate::scores::metrics;
use crate::task::Kind;
use crate::{Answered, Basis, Bootstrap, Scores, Task};

/// The best score of a criterion; the worst is 0.
const BEST: f64 = 10.0;

/// One reply.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// Which request it is about.
    pub id: String,
    /// A score from 0 to 10 for each of the task's criteria, in their order.
    pub scores: Vec<f64>,
}

/// A reply that cannot be counted.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ReplyError {
    /// Not JSON.
    #[error("is not JSON")]
    NotJson,
    /// No `custom_id`.
    #[error("has no custom_id, so nobody knows what it is about")]
    NoId,
    /// The judge's service reports an error.
    #[error("the judge was not heard on {0}: its service reports an error")]
    Refused(String),
    /// No content where a reply has it.
    #[error("holds no words of the judge on {0}")]
    NoContent(String),
    /// The judge's words are no JSON object.
    #[error("the judge's words on {0} are no JSON object")]
    NoObject(String),
    /// A criterion is missing, or its score is no number from 0 to 10.
    #[error("the judge's words on {id} have no score from 0 to 10 for {criterion}")]
    NoScore {
        /// Which request.
        id: String,
        /// Which criterion.
        criterion: &'static str,
    },
}

/// The request about one answer, as a line of a batch; none for a task that needs no judge.
#[must_use]
pub fn request(task: Task, id: &str, row: &Answered, model: &str) -> Option<Value> {
    let Kind::Judged(criteria) = task.kind() else { return None };
    let (what, scales) = match task {
        Task::Arena => ("an answer to a question about an ECG", ARENA),
        _ => ("an ECG report", REPORT),
    };
    let keys: Vec<String> =
        criteria.iter().map(|key| format!("\"{key}\": {{\"Score\": 0-10, \"Explanation\": \"...\"}}")).collect();
    let system = format!(
        "You are a cardiologist who grades {what} against a reference. The reference is right. Grade what is said, not how \
         long or how well it is written. Give each criterion a number from 0 (worst) to 10 (best).\n{scales}\n\
         Reply with one JSON object and nothing else: {{{}}}",
        keys.join(", ")
    );
    let user = format!("Question:\n{}\n\nReference:\n{}\n\nTo be graded:\n{}", row.question, row.gold, row.answer);
    Some(json!({
        "custom_id": id,
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {
            "model": model,
            "temperature": 0,
            "response_format": {"type": "json_object"},
            "messages": [{"role": "system", "content": system}, {"role": "user", "content": user}],
        },
    }))
}

const REPORT: &str = "\
Diagnosis: are the reference's diagnoses there (conduction, ischaemia, infarction, hypertrophy and so on), and no others? \
Wrong or missing diagnoses that would change treatment weigh most.
Waveform: are the findings on P, QRS, ST and T, their changes and leads those of the reference?
Rhythm: are rhythm and rate those of the reference?";
const ARENA: &str = "\
Accuracy: is what is said about the ECG right by the reference?
Completeness: is everything there that the reference says and the question asks for?
Instruction Adherence: does it do what the question asks, in the form it asks for, whether right or wrong?";

/// Reads one line of a judge's replies: a line of a batch's output, or an object with `custom_id` and `content`.
///
/// # Errors
/// What is missing, by request; never the judge's words, which quote a row.
pub fn parse_reply(task: Task, line: &str) -> Result<Reply, ReplyError> {
    let Kind::Judged(criteria) = task.kind() else { return Err(ReplyError::NoObject(task.to_string())) };
    let line: Value = serde_json::from_str(line).map_err(|_| ReplyError::NotJson)?;
    let id = line.get("custom_id").and_then(Value::as_str).ok_or(ReplyError::NoId)?.to_owned();
    let status = line.pointer("/response/status_code").and_then(Value::as_u64);
    if line.get("error").is_some_and(|error| !error.is_null()) || status.is_some_and(|status| status != 200) {
        return Err(ReplyError::Refused(id));
    }
    let content = line.pointer("/response/body/choices/0/message/content").or_else(|| line.get("content"));
    let said = match content {
        Some(Value::String(words)) => object_in(words).ok_or_else(|| ReplyError::NoObject(id.clone()))?,
        Some(object @ Value::Object(_)) => object.clone(),
        _ => return Err(ReplyError::NoContent(id)),
    };
    let score = |criterion: &'static str| {
        let found = said.as_object().and_then(|said| said.iter().find(|(key, _)| same(key, criterion)));
        let score = found.and_then(|(_, value)| number(value)).filter(|score| (0.0..=BEST).contains(score));
        score.ok_or_else(|| ReplyError::NoScore { id: id.clone(), criterion })
    };
    let scores = criteria.iter().map(|criterion| score(criterion)).collect::<Result<_, _>>()?;
    Ok(Reply { id, scores })
}

/// The mean of the criteria times 10, over all replies, and each criterion's mean; none for a task without a judge.
#[must_use]
pub fn score_replies(task: Task, replies: &[Reply], bootstrap: Bootstrap) -> Option<Scores> {
    let Kind::Judged(criteria) = task.kind() else { return None };
    let weighted = |of: &dyn Fn(&Reply) -> f64, weights: &[u32]| {
        let n: f64 = weights.iter().map(|&w| f64::from(w)).sum();
        let sum: f64 = replies.iter().zip(weights).map(|(reply, &w)| of(reply) * f64::from(w)).sum();
        (n > 0.0).then(|| sum / n)
    };
    let of = |weights: &[u32]| {
        let overall = |reply: &Reply| reply.scores.iter().sum::<f64>() / criteria.len() as f64 * 10.0;
        let each = (0..criteria.len()).map(|i| weighted(&|reply: &Reply| reply.scores[i], weights));
        [weighted(&overall, weights)].into_iter().chain(each).collect()
    };
    let names: Vec<String> = ["score".to_owned()]
        .into_iter()
        .chain(criteria.iter().map(|criterion| criterion.to_lowercase().replace(' ', "_")))
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    Some(Scores {
        task,
        basis: Basis::Judge,
        n_rows: replies.len(),
        unreadable: 0,
        gold_unreadable: 0,
        metrics: metrics(&names, replies.len(), &of, bootstrap),
        classes: Vec::new(),
    })
}

/// The object in a judge's words, which may stand in a code fence.
fn object_in(words: &str) -> Option<Value> {
    let object = words.get(words.find('{')?..=words.rfind('}')?)?;
    serde_json::from_str(object).ok().filter(Value::is_object)
}

/// `Instruction Adherence`, `instruction_adherence` and `InstructionAdherence` are one.
fn same(key: &str, criterion: &str) -> bool {
    let letters =
        |text: &str| -> String { text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect() };
    letters(key) == letters(criterion)
}

/// A score: a number, digits, or an object that has one as its `Score`.
fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(digits) => digits.trim().parse().ok(),
        Value::Object(fields) => fields.iter().find(|(key, _)| same(key, "score")).and_then(|(_, score)| number(score)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
