//! What can go wrong in an eval. A message names files, lines and row ids, never what a row or an answer says.

use std::path::PathBuf;

use score::{ReplyError, Task};

/// Why an eval cannot begin, go on or be scored.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// Neither a model with rows and a folder, nor answers.
    #[error("nothing to do: give --model, --data and --out, or --answers")]
    Incomplete,
    /// A task's rows are not there.
    #[error(
        "{data}: no rows of {task} there; expected a folder {task}/ (parquet or prepared), or {task}.parquet, .json or .jsonl"
    )]
    NoRows {
        /// `--data`.
        data: String,
        /// The task.
        task: Task,
    },
    /// The output folder is another eval's.
    #[error("{file}: that eval had another {what}: {was}, now {now}; choose another --out", file = file.display())]
    OtherEval {
        /// Its `eval.json`.
        file: PathBuf,
        /// What differs.
        what: String,
        /// As recorded.
        was: String,
        /// As asked for.
        now: String,
    },
    /// A line of a file does not read.
    #[error("{file}:{line}: {reason}", file = file.display())]
    Line {
        /// The file.
        file: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// A line of a judge's replies does not count.
    #[error("{file}:{line}: {source}; ask the judge again and put its reply there", file = file.display())]
    Reply {
        /// The file.
        file: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong.
        source: ReplyError,
    },
    /// Answers that no reply is about.
    #[error("{file}: {n} answers have no reply: {first}; every answer must be judged", file = file.display())]
    NoReply {
        /// The file of replies.
        file: PathBuf,
        /// How many.
        n: usize,
        /// The first few.
        first: String,
    },
    /// No answers of the task in the file.
    #[error("{file}: holds no answers to {task}", file = file.display())]
    NoAnswers {
        /// The file.
        file: PathBuf,
        /// The task.
        task: Task,
    },
    /// A judge's replies about a task that none scores, or the other way round.
    #[error("{task} {what}")]
    Judge {
        /// The task.
        task: Task,
        /// What it needs.
        what: &'static str,
    },
    /// A label that does not begin at the end of a prompt.
    #[error(
        "--likelihood: the chat template and the tokenizer do not write {label} as an answer of its own tokens; ask without it"
    )]
    NoTokens {
        /// The label.
        label: String,
    },
    /// `--answers` with several tasks.
    #[error("--answers is a file of one task; give one --task")]
    ManyTasks,
    /// There is no other page.
    #[error("--control shuffled-page: all rows show the same page")]
    OnePage,
}

impl EvalError {
    /// 2 for what was asked, 3 for what a file holds.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Line { .. }
            | Self::Reply { .. }
            | Self::NoReply { .. }
            | Self::NoAnswers { .. }
            | Self::NoRows { .. } => 3,
            _ => 2,
        }
    }
}
