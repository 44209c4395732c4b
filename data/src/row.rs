//! What one row of a data set is once its file format is forgotten: an encoded page and the turns about it.
//! It never decodes the page and never looks at a tokenizer.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::{Error, Fault};

/// Who speaks in a turn. Data sets call them human/user, gpt/assistant/model and system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Instructions before the first question.
    System,
    /// Who asks.
    User,
    /// Who answers; what training learns to say.
    Assistant,
}

/// One turn as its source has it, `<image>` included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Turn {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub text: String,
}

/// One piece of a turn, in the order the chat template renders them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// The place of one page.
    Image,
    /// Words; special tokens written in them stay words.
    Text(String),
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said or shown.
    pub parts: Vec<Part>,
}

impl Message {
    /// Its words, those of each part on a line.
    #[must_use]
    pub fn words(&self) -> String {
        let text = |part: &Part| match part {
            Part::Text(text) => Some(text.trim().to_owned()),
            Part::Image => None,
        };
        self.parts.iter().filter_map(text).collect::<Vec<_>>().join("\n")
    }
}

/// Where a row lies, for messages that a person can follow up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file that holds it.
    pub file: Arc<Path>,
    /// Its row group, from 0; 0 in a file that has none.
    pub row_group: usize,
    /// The row within the file, from 0.
    pub row: u64,
}

/// One row as its source has it.
#[derive(Debug, Clone)]
pub(crate) struct RawRow {
    pub id: String,
    pub place: Place,
    /// The page, encoded.
    pub image: Bytes,
    pub image_path: Option<String>,
    /// In a known layout, otherwise unchecked.
    pub turns: Vec<Turn>,
}

/// One row as read: nothing decoded but its columns.
#[derive(Debug, Clone)]
pub struct Row {
    /// Its `id`, or `<file>:<row>` where the data set gives none.
    pub id: String,
    /// Where it was read.
    pub place: Place,
    /// The page, encoded (PNG or JPEG bytes as stored).
    pub image: Vec<u8>,
    /// The turns: an optional system turn, then user and assistant in turn, ending with an answer.
    pub messages: Vec<Message>,
}

impl Row {
    /// What is wrong with it, with its place and id.
    #[must_use]
    pub fn error(&self, fault: Fault) -> Error {
        Error::Row { file: self.place.file.clone(), row: self.place.row, id: self.id.clone(), fault }
    }

    /// What is said up to the first answer, and what from there on.
    #[must_use]
    pub fn at_first_answer(&self) -> (&[Message], &[Message]) {
        let answer = self.messages.iter().position(|message| message.role == Role::Assistant);
        self.messages.split_at(answer.unwrap_or(self.messages.len()))
    }
}
