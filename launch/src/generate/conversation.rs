//! What a model is asked: turns and the pages they show, from a prompt or from a file of messages in transformers' format.
//! It guesses nothing: a page too many or too few is an error before anything is computed.

use std::path::{Path, PathBuf};

use data::{Message, Part, Role};
use serde_json::Value;

use crate::Error;

/// The marker with which LLaVA-style prompts show where a page stands.
const MARKER: &str = "<image>";
/// A page on disk is refused above this, before it is read; so is a file of messages.
const MAX_BYTES: u64 = 256 << 20;

/// Turns, ending with the user's, and the pages in the order in which they show them.
#[derive(Debug, Clone, PartialEq)]
pub struct Conversation {
    pub messages: Vec<Message>,
    /// `u8 [size, size, 3]` each.
    pub pages: Vec<Vec<u8>>,
}

/// Reads pages as the model sees them.
#[derive(Debug, Clone, Copy)]
pub struct Pages {
    /// Pixels of the model's side.
    pub size: usize,
}

impl Pages {
    /// The page of a file.
    pub fn read(&self, path: &Path) -> Result<Vec<u8>, Error> {
        let page = data::page(&read(path)?, self.size);
        page.map_err(|source| Error::Page { path: path.to_owned(), source })
    }
}

impl Conversation {
    /// One question. Where the prompt says `<image>`, once for each page, they stand there; else all before the text.
    ///
    /// # Errors
    /// Markers and pages differ in number.
    pub fn of_prompt(system: Option<&str>, prompt: &str, pages: Vec<Vec<u8>>) -> Result<Self, Error> {
        let parts = parts(prompt, pages.len()).map_err(Error::Markers)?;
        let mut messages = begin(system);
        messages.push(Message { role: Role::User, parts });
        Ok(Self { messages, pages })
    }

    /// The messages of a JSON file: a list of `{role, content}`, or an object with it as `messages`. A content is a text, or
    /// parts `{type: "text", text}` and `{type: "image"}` with its file as `image`, `path` or `url`, seen from the JSON's
    /// folder; an image that names no file is the next of `given`.
    ///
    /// # Errors
    /// A file that is not such messages, with the place; a page that cannot be used; pages left over.
    pub fn of_file(file: &Path, pages: &Pages, given: Vec<Vec<u8>>) -> Result<Self, Error> {
        let wrong = |reason: String| Error::Messages { path: file.to_owned(), reason };
        let json: Value = serde_json::from_slice(&read(file)?).map_err(|error| wrong(error.to_string()))?;
        let list = json.as_array().or_else(|| json["messages"].as_array());
        let list = list.ok_or_else(|| wrong("neither a list of messages nor an object that has one".into()))?;
        let mut given = given.into_iter();
        let mut asked = Self { messages: Vec::new(), pages: Vec::new() };
        for (i, message) in list.iter().enumerate() {
            let (role, content) = read_message(message).map_err(|reason| wrong(format!("message {i}: {reason}")))?;
            let mut parts = Vec::with_capacity(content.len());
            for part in content {
                parts.push(match part {
                    Content::Text(text) => Part::Text(text),
                    Content::Image(source) => {
                        asked.pages.push(match source {
                            Some(name) => pages.read(&file.with_file_name(name))?,
                            None => given.next().ok_or_else(|| {
                                wrong(format!("message {i}: an image names no file, and no --image is left for it"))
                            })?,
                        });
                        Part::Image
                    }
                });
            }
            asked.messages.push(Message { role, parts });
        }
        if given.next().is_some() {
            return Err(wrong("shows fewer pages than --image gives; add {\"type\": \"image\"} to a message".into()));
        }
        match asked.messages.last() {
            Some(last) if last.role == Role::User => Ok(asked),
            _ => Err(wrong("the last message must be the user's, as it is the one to be answered".into())),
        }
    }
}

/// The turns before the first question.
pub fn begin(system: Option<&str>) -> Vec<Message> {
    let message = |text: &str| Message { role: Role::System, parts: vec![Part::Text(text.to_owned())] };
    system.map(message).into_iter().collect()
}

/// Markers in a prompt, and pages beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Markers {
    pub found: usize,
    pub pages: usize,
}

impl std::fmt::Display for Markers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "the prompt says {MARKER} {} times and there are {} pages; say it once for each, or not at all",
            self.found, self.pages
        )
    }
}

/// A turn's text and its pages, in their order.
pub fn parts(text: &str, n_pages: usize) -> Result<Vec<Part>, Markers> {
    let found = text.matches(MARKER).count();
    if found == 0 {
        return Ok([vec![Part::Image; n_pages], vec![Part::Text(text.to_owned())]].concat());
    }
    if found != n_pages {
        return Err(Markers { found, pages: n_pages });
    }
    let mut parts = Vec::new();
    for (i, piece) in text.split(MARKER).enumerate() {
        parts.extend((i > 0).then_some(Part::Image));
        parts.extend(Some(piece.trim()).filter(|piece| !piece.is_empty()).map(|piece| Part::Text(piece.to_owned())));
    }
    Ok(parts)
}

/// A part of a message, its page not yet read.
#[derive(Debug, PartialEq)]
enum Content {
    Text(String),
    Image(Option<PathBuf>),
}

fn read_message(message: &Value) -> Result<(Role, Vec<Content>), String> {
    let role = match message["role"].as_str() {
        Some("system") => Role::System,
        Some("user") => Role::User,
        Some("assistant" | "model") => Role::Assistant,
        _ => return Err("its role is none of system, user, assistant".into()),
    };
    let content = match &message["content"] {
        Value::String(text) => vec![Content::Text(text.clone())],
        Value::Array(parts) => parts.iter().map(read_part).collect::<Result<_, _>>()?,
        _ => return Err("its content is neither a text nor a list of parts".into()),
    };
    Ok((role, content))
}

fn read_part(part: &Value) -> Result<Content, String> {
    match part["type"].as_str() {
        Some("text") => match part["text"].as_str() {
            Some(text) => Ok(Content::Text(text.to_owned())),
            None => Err("a part of type text has no text".into()),
        },
        Some("image") => {
            let source = ["image", "path", "url"].iter().find_map(|key| part.get(key)).filter(|v| !v.is_null());
            match source.map(|source| source.as_str().map(|name| name.strip_prefix("file://").unwrap_or(name))) {
                None => Ok(Content::Image(None)),
                Some(Some(name)) if !name.contains("://") && !name.starts_with("data:") => {
                    Ok(Content::Image(Some(name.into())))
                }
                Some(_) => Err("an image is not the name of a file; download it and name the file".into()),
            }
        }
        _ => Err("a part is neither of type text nor image".into()),
    }
}

/// A file given by the user, read whole.
pub fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let length = std::fs::metadata(path).map_err(Error::file(path, "read"))?.len();
    if length > MAX_BYTES {
        return Err(Error::file(path, "read")(std::io::ErrorKind::FileTooLarge.into()));
    }
    std::fs::read(path).map_err(Error::file(path, "read"))
}
