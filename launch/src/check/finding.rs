//! One thing that was looked at: how it stands, what it is, where, and what to do next.
//! It never holds text of a row: ids only.

use crate::{Error, describe};

/// How a thing stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    Ok,
    /// The run will go, but not as one would think.
    Warning,
    /// The run would end with this exit code.
    Error(u8),
}

/// One finding of a section.
#[derive(Debug, Clone)]
pub(crate) struct Finding {
    pub level: Level,
    /// What was found; for an error also where and what next, as every error of this program says.
    pub what: String,
    /// The key, file or rank, where `what` does not name it.
    pub place: Option<String>,
    /// What to do about it.
    pub next: Option<String>,
}

impl Finding {
    pub fn ok(what: impl Into<String>) -> Self {
        Self { level: Level::Ok, what: what.into(), place: None, next: None }
    }

    pub fn warning(what: impl Into<String>, next: impl Into<String>) -> Self {
        Self { level: Level::Warning, what: what.into(), place: None, next: Some(next.into()) }
    }

    /// An error that the run would end with.
    pub fn error(error: impl Into<Error>) -> Self {
        let error = error.into();
        let said = describe(&error);
        let what = said.strip_prefix("error: ").unwrap_or(&said).to_owned();
        Self { level: Level::Error(error.exit_code()), what, place: None, next: None }
    }

    pub fn at(self, place: impl Into<String>) -> Self {
        Self { place: Some(place.into()), ..self }
    }

    pub fn exit_code(&self) -> Option<u8> {
        match self.level {
            Level::Error(code) => Some(code),
            Level::Ok | Level::Warning => None,
        }
    }

    /// `ok`, `warning` or `error`.
    pub fn name(&self) -> &'static str {
        match self.level {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::Error(_) => "error",
        }
    }
}
