//! `events.jsonl` in the run folder: what happened to a run beside its steps, one JSON object a line, for people and reports.
//! Nothing depends on it: a disk that does not take it stops no run.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use trainer::Phase;

use crate::say;

/// The log of one `launch`; it only ever grows, also over several of them.
pub struct EventLog {
    file: Option<File>,
}

/// One line. What does not apply is left out.
#[derive(Debug, Clone, Serialize)]
pub struct Entry {
    /// Seconds since 1970; for people, never for order.
    time: f64,
    /// Which start of the workers within this launch, from 0.
    pub attempt: u32,
    /// What happened.
    pub event: What,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rank: Option<u32>,
    /// Of the step under way or, for `training`, `checkpoint`, `stopped` and `finished`, steps made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// In words.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub text: String,
}

/// The kinds of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// What this `launch` computes with.
    Environment,
    /// Workers are being started.
    Attempt,
    /// All ranks have met; the loop begins after `step`.
    Training,
    /// The checkpoint of `step` is durable.
    Checkpoint,
    /// Something a user should know.
    Warning,
    /// A rank takes much longer than the others.
    Slow,
    /// A rank was silent beyond its deadline.
    Late,
    /// A rank died.
    Lost,
    /// A rank said why it ended.
    Failed,
    /// The workers will be started again.
    Restart,
    /// A signal or the stop file asked for an end.
    StopAsked,
    /// Ended on request.
    Stopped,
    /// All steps are made.
    Finished,
    /// No further attempt.
    GaveUp,
}

impl EventLog {
    /// Opens or begins the log in the run folder; of a node beside node 0 its own, for no two machines write one file.
    pub fn open(run_dir: &Path, node_rank: u32) -> Self {
        let path = match node_rank {
            0 => run_dir.join("events.jsonl"),
            _ => run_dir.join(format!("events-node-{node_rank}.jsonl")),
        };
        let file = OpenOptions::new().create(true).append(true).open(&path);
        let file =
            file.map_err(|error| say(&format!("warning: {}: {error}; events are not kept", path.display()))).ok();
        Self { file }
    }

    /// Appends a line; after a failure nothing more is written, so that no line is torn in the middle.
    pub fn write(&mut self, entry: &Entry) {
        let Some(file) = &mut self.file else { return };
        let mut line = serde_json::to_vec(entry).unwrap_or_default();
        line.push(b'\n');
        if let Err(error) = file.write_all(&line) {
            say(&format!("warning: events.jsonl: {error}; further events are not kept"));
            self.file = None;
        }
    }
}

impl Entry {
    /// An event of now.
    pub fn new(attempt: u32, event: What) -> Self {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as f64 / 1000.0;
        Self { time, attempt, event, rank: None, step: None, phase: None, text: String::new() }
    }

    /// Of a rank at a place.
    pub fn of(mut self, rank: u32, place: Option<(u64, Phase)>) -> Self {
        self.rank = Some(rank);
        (self.step, self.phase) = place.unzip();
        self
    }

    /// With steps made.
    pub fn at_step(mut self, step: u64) -> Self {
        self.step = Some(step);
        self
    }

    /// In words; of several lines the first.
    pub fn saying(mut self, text: &str) -> Self {
        self.text = text.lines().next().unwrap_or_default().to_owned();
        self
    }
}
