//! From a conversation cell, in any of the layouts met in the wild, to turns that a chat template can render.
//! It guesses nothing: a turn it does not understand is a fault of the row.

use serde_json::Value;

use crate::Fault;
use crate::row::{Message, Part, Role, Turn};
use crate::text::strip;

/// The marker with which LLaVA-style data sets show where the page stands.
const MARKER: &str = "<image>";
/// Most text of one row, in bytes: a hundred times the longest prompt a model reads.
const MAX_TEXT: usize = 1 << 20;

/// The turns of a cell, in any known layout; who may speak after whom is not looked at.
pub(crate) fn turns_of(cell: &Value) -> Result<Vec<Turn>, Fault> {
    let turns = match cell {
        Value::String(json) => {
            let cell = serde_json::from_str(json).map_err(|_| Fault::Layout("its text is not JSON"))?;
            turns(&cell)?
        }
        cell => turns(cell)?,
    };
    match turns.iter().map(|turn| turn.text.len()).sum() {
        0..=MAX_TEXT => Ok(turns),
        bytes => Err(Fault::TooLong { bytes, max: MAX_TEXT }),
    }
}

/// Bytes of all texts.
pub(crate) fn text_bytes(turns: &[Turn]) -> u32 {
    turns.iter().map(|turn| turn.text.len() as u32).sum()
}

/// What the chat template is given; the page stands first in the first user turn, wherever its marker was.
/// `keep_image_marker` leaves the marker's letters in the text, as the published script did.
pub(crate) fn messages(turns: Vec<Turn>, keep_image_marker: bool) -> Result<Vec<Message>, Fault> {
    let mut messages: Vec<Message> = Vec::with_capacity(turns.len());
    for (i, Turn { role, text }) in turns.into_iter().enumerate() {
        let text = if keep_image_marker { text } else { text.replace(MARKER, "") };
        let text = strip(&text).to_owned();
        let previous = messages.last().map(|m| m.role);
        match (previous, role) {
            (None, Role::System) => {}
            (Some(Role::User), Role::Assistant) if text.is_empty() => return Err(Fault::EmptyAnswer(i)),
            (Some(Role::User), Role::Assistant) => {}
            (None | Some(Role::System | Role::Assistant), Role::User) => {}
            _ => return Err(Fault::Order(i)),
        }
        let shows_page = role == Role::User && previous != Some(Role::Assistant);
        let image = shows_page.then_some(Part::Image);
        messages.push(Message { role, parts: image.into_iter().chain([Part::Text(text)]).collect() });
    }
    match messages.last() {
        None => Err(Fault::NoTurns),
        Some(last) if last.role != Role::Assistant => Err(Fault::NoAnswer),
        Some(_) => Ok(messages),
    }
}

fn turns(cell: &Value) -> Result<Vec<Turn>, Fault> {
    let mut turns = Vec::new();
    match cell {
        Value::Null => {}
        Value::Array(items) => {
            for item in items {
                let field = |names: [&str; 2]| names.iter().find_map(|name| item.get(name));
                if let (Some(question), Some(answer)) = (item.get("question"), item.get("answer")) {
                    turns.push(Turn { role: Role::User, text: text(question)? });
                    turns.push(Turn { role: Role::Assistant, text: text(answer)? });
                } else if let (Some(from), Some(value)) = (field(["from", "role"]), field(["value", "content"])) {
                    turns.push(Turn { role: role(from, turns.len())?, text: text(value)? });
                } else {
                    return Err(Fault::Layout("a turn has neither from/value, role/content nor question/answer"));
                }
            }
        }
        // A `Sequence` of `datasets`: one list of names, one of texts.
        Value::Object(lists) => {
            let (Some(Value::Array(from)), Some(Value::Array(value))) = (lists.get("from"), lists.get("value")) else {
                return Err(Fault::Layout("a struct without the lists from and value"));
            };
            if from.len() != value.len() {
                return Err(Fault::Layout("its lists from and value differ in length"));
            }
            for (i, (from, value)) in from.iter().zip(value).enumerate() {
                turns.push(Turn { role: role(from, i)?, text: text(value)? });
            }
        }
        _ => return Err(Fault::Layout("neither a list, a struct nor JSON text")),
    }
    Ok(turns)
}

fn role(name: &Value, turn: usize) -> Result<Role, Fault> {
    match name.as_str() {
        Some("human" | "user") => Ok(Role::User),
        Some("gpt" | "assistant" | "model") => Ok(Role::Assistant),
        Some("system") => Ok(Role::System),
        _ => Err(Fault::UnknownRole(turn)),
    }
}

/// A string, a list of strings (joined by commas, as ECG-QA's answers) or typed parts, whose texts follow each other.
fn text(value: &Value) -> Result<String, Fault> {
    match value {
        Value::Null => Ok(String::new()),
        Value::String(text) => Ok(text.clone()),
        Value::Array(items) if items.iter().all(Value::is_string) => {
            Ok(items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "))
        }
        Value::Array(parts) => {
            let mut joined = String::new();
            for part in parts {
                match (part.get("type").and_then(Value::as_str), part.get("text")) {
                    (Some("image"), _) => {}
                    (Some("text"), Some(Value::String(text))) => joined.push_str(text),
                    _ => return Err(Fault::Layout("a part that is neither text nor image")),
                }
            }
            Ok(joined)
        }
        _ => Err(Fault::Layout("a turn's text is neither a string nor a list")),
    }
}

#[cfg(test)]
mod tests;
