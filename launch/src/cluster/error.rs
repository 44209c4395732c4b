//! Why the nodes of a job do not come together.
//! It never holds a key.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::Launcher;
use crate::error::{CONFIG, LOST, STORAGE};

/// What this process does not know of its place, or what went wrong between the nodes.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A variable of a launcher that holds something else.
    #[error("{name} is {actual:?}, expected {expected}; start the program as {by} does, or alone with --nnodes 1")]
    Variable { name: &'static str, actual: String, expected: &'static str, by: Launcher },
    /// A launcher's variables are not all there.
    #[error("{by} says that this is process {rank}, but not of how many: {name} is not set; give --nnodes N")]
    NoCount { by: Launcher, rank: u32, name: &'static str },
    /// Two sources name different places.
    #[error(
        "{first} and {second} do not agree which process of how many this is; unset one of them, or give --nnodes and --node-rank"
    )]
    Conflict { first: String, second: String },
    /// More than one node, and nothing says which one this is.
    #[error("--nnodes {n_nodes} without a place among them; give --node-rank R, from 0 to {last}", last = .n_nodes - 1)]
    NoRank { n_nodes: u32 },
    /// A place that does not exist.
    #[error("node {node_rank} does not exist among {n_nodes} nodes ({by}); ranks of nodes begin at 0")]
    NoSuchNode { node_rank: u32, n_nodes: u32, by: Launcher },
    /// In the batch script of a job of several nodes, which runs on one of them.
    #[error(
        "this Slurm job has {n_nodes} nodes, but a batch script runs on the first one alone; type `srun ecg-train launch ...`, or give --nnodes 1 to use this node alone"
    )]
    NoStep { n_nodes: u32 },
    /// Several processes on a machine, each of which would start several workers.
    #[error(
        "{by} starts {n_local} processes on this machine and each would start {n_workers} workers; give {option} 1, or start one process a machine"
    )]
    TooMany { by: Launcher, n_local: u32, n_workers: u32, option: &'static str },
    /// The endpoint's name has no address.
    #[error("{host}: no such host; check --rdzv-endpoint or MASTER_ADDR")]
    NoSuchHost { host: String, source: io::Error },
    /// The endpoint is not on node 0.
    #[error(
        "{host} is {ip}, which is no address of this machine, and this is node 0, which is met there; check --node-rank and --rdzv-endpoint, or name the interface with --rdzv-interface"
    )]
    NotHere { host: String, ip: IpAddr },
    /// `--rdzv-interface`.
    #[error("--rdzv-interface {name}: no such interface here; there are {names}")]
    NoInterface { name: String, names: String },
    /// The system does not tell.
    #[error("the network interfaces of this machine cannot be read")]
    Interfaces(#[source] io::Error),
    /// The system has no random numbers.
    #[error("the system gives no random numbers for a job key")]
    Random(#[source] io::Error),
    /// The collective's own words.
    #[error("{0}")]
    Listen(String),
    /// A file with a key.
    #[error("{path}: cannot be read", path = path.display())]
    KeyFile { path: PathBuf, source: io::Error },
    /// Others could read or have written it.
    #[error(
        "{path} (mode {mode:o}, user {uid}) must belong to you and be readable by nobody else; `chmod 600` it, or set ECG_TRAIN_JOB_KEY on all nodes",
        path = path.display()
    )]
    NotPrivate { path: PathBuf, mode: u32, uid: u32 },
    /// A file that holds something else.
    #[error("{path} holds no key: 64 hexadecimal digits, e.g. from `openssl rand -hex 32`", path = .0.display())]
    NoKey(PathBuf),
    /// Never its text: it may be a mistyped key.
    #[error(
        "ECG_TRAIN_JOB_KEY is no key: 64 hexadecimal digits, the same on all nodes, e.g. from `openssl rand -hex 32`"
    )]
    NoKeyInVariable,
    /// The nodes are not of one job.
    #[error("{0}")]
    Refused(String),
    /// Nobody came.
    #[error(
        "node {node_rank} of {n_nodes}: the nodes did not meet within {waited:?} ({last}); are all of them started, with one output_dir that all of them see?"
    )]
    NotMet { node_rank: u32, n_nodes: u32, waited: Duration, last: String },
    /// What node 0 leaves for the others.
    #[error(transparent)]
    Storage(#[from] storage::Error),
}

impl Error {
    /// The documented exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NotMet { .. } => LOST,
            Self::Storage(_) => STORAGE,
            _ => CONFIG,
        }
    }
}
