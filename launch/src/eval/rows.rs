//! Where the rows of a task lie below `--data`: a folder or file of its name, its own rows, or the hub.
//! It never takes another task's rows for those asked for, where several tasks are.

use std::path::{Path, PathBuf};

use data::{Dataset, Role, Row, Sources};
use score::Task;

use crate::{Error, places, stores};

use super::EvalError;

/// The open rows of a task.
pub(super) struct Rows {
    pub task: Task,
    pub dataset: Dataset,
    /// Where they were found, for a person.
    pub found: String,
}

impl Rows {
    /// `is_only`: no other task is asked for, so `data` may be the rows themselves.
    pub(super) fn open(data: &str, task: Task, is_only: bool) -> Result<Self, Error> {
        let files = find(data, task, is_only)?;
        let found = files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ");
        let sources = Sources { files, image_folder: None, include: String::new(), keep_image_marker: false };
        Ok(Self { task, dataset: stores::open(&sources)?, found })
    }

    /// Whether all questions of a row are asked, one after the other.
    pub(super) fn is_dialogue(&self) -> bool {
        self.task == Task::Arena
    }

    /// Questions of a row: the first one, of a dialogue all.
    pub(super) fn n_questions(&self, row: &Row) -> usize {
        match self.is_dialogue() {
            true => row.messages.iter().filter(|m| m.role == Role::Assistant).count(),
            false => 1,
        }
    }
}

fn find(data: &str, task: Task, is_only: bool) -> Result<Vec<PathBuf>, Error> {
    if let Some(files) = places::task_rows(data, task.name())? {
        return Ok(files);
    }
    let below = |name: &str| {
        let folder = Path::new(data).join(name);
        let beside = ["parquet", "json", "jsonl"].map(|end| Path::new(data).join(format!("{name}.{end}")));
        [folder].into_iter().chain(beside).find(|path| path.exists())
    };
    match task.names().iter().find_map(|name| below(name)) {
        Some(found) => Ok(vec![found]),
        None if is_only => Ok(vec![data.into()]),
        None => Err(EvalError::NoRows { data: data.to_owned(), task }.into()),
    }
}
