//! What supervisor and worker say to each other: one JSON object a line, orders on the worker's stdin, reports on its stdout.
//! It never carries rows or tensors, and the job key in it is never logged.

use std::io::{self, BufRead, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use model::engine::Backend;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use trainer::{Deadlines, Event, Places};

use crate::stores::Access;

/// Supervisor to worker. The end of the stream says that the supervisor is gone.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// The first line: what to do.
    Start(Job),
    /// To ranks above 0, once rank 0 has said where it listens.
    Endpoint(SocketAddr),
}

/// A rank's share of the job; rank and world size are in its environment. No `Debug`: the key must not reach a log.
#[derive(Clone, Serialize, Deserialize)]
pub struct Job {
    /// Proves to the other ranks that a connection belongs to this job.
    pub job_key: [u8; 32],
    /// The resolved configuration in the run folder.
    pub config: PathBuf,
    /// Where what it names lies on this machine.
    pub places: Places,
    /// Refuse to resume.
    pub from_scratch: bool,
    /// Train on the GPU with number LOCAL_RANK; none: on the CPU.
    pub backend: Option<Backend>,
    /// Which start of the workers this is, from 0.
    pub attempt: u32,
    /// How long other ranks are waited for.
    pub deadlines: Deadlines,
    /// Rank 0: on which interface to listen.
    pub listen: IpAddr,
    /// Hash of the program.
    pub program: [u8; 32],
    /// How object stores are reached, where the rows lie in one.
    pub stores: Option<Box<Access>>,
}

/// Worker to supervisor.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// Something happened in the run.
    Event(Event),
    /// The worker's last words: its own exit code and error chain, outermost first.
    Failed {
        /// Exit code of the program.
        exit_code: u8,
        /// `error: ...` and its causes.
        message: String,
        /// Another attempt may succeed.
        may_pass: bool,
    },
}

/// Writes one message as a line and flushes it.
///
/// # Errors
/// The other side has gone.
pub fn send(to: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    to.write_all(&line)?;
    to.flush()
}

/// Reads the next message; `None` at the end of the stream.
///
/// # Errors
/// A line that is no such message, or a failed read.
pub fn receive<T: DeserializeOwned>(from: &mut impl BufRead) -> io::Result<Option<T>> {
    let mut line = String::new();
    match from.read_line(&mut line)? {
        0 => Ok(None),
        _ => Ok(Some(serde_json::from_str(&line)?)),
    }
}

#[cfg(test)]
mod tests;
