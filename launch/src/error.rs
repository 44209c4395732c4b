//! What can go wrong in a command, and the exit code each error ends the program with.
//! It never holds text of a row: ids only.

use std::io;
use std::path::{Path, PathBuf};

use remote::HubId;

use crate::cluster::Error as ClusterError;
use crate::counted;

/// Usage or configuration.
pub(crate) const CONFIG: u8 = 2;
/// The data set.
const DATA: u8 = 3;
/// Numbers.
const NUMBERS: u8 = 4;
/// A rank was lost.
pub(crate) const LOST: u8 = 5;
/// Storage.
pub(crate) const STORAGE: u8 = 6;
/// Stopped on request.
pub(crate) const STOPPED: u8 = 75;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no engine on the device.
    #[error(transparent)]
    Device(#[from] model::engine::DeviceError),
    /// `model.path` is neither a folder here nor a hub id.
    #[error("model.path: {0} is no folder here and no hub id such as google/medgemma-4b-it; correct the path")]
    NoModel(String),
    /// This build does not speak to the hub.
    #[error(
        "{0}: there is no such path here, and this build knows no hub ids; make one that does with `cargo build --release -p launch --features hub`, or download it (`{command} --local-dir DIR`) and give its folder", command = .0.hf_download()
    )]
    NoHub(HubId),
    /// A repository of the hub.
    #[cfg(feature = "hub")]
    #[error(transparent)]
    Hub(#[from] remote::hub::Error),
    /// This build knows no object stores.
    #[error(
        "{}: this build knows no object stores; make one that does with `cargo build --release -p launch --features object-store`, or copy the folder here", .0.display()
    )]
    NoObjectStore(PathBuf),
    /// An address of an object store.
    #[cfg(feature = "object-store")]
    #[error(transparent)]
    Objects(#[from] remote::objects::Error),
    /// An environment variable of a worker started by hand.
    #[error("{name} is {actual}, expected {expected}; `ecg-train launch` sets the variables of its workers itself")]
    Variable {
        /// Its name.
        name: &'static str,
        /// What it holds.
        actual: String,
        /// What it must hold.
        expected: &'static str,
    },
    /// MASTER_ADDR and MASTER_PORT name no address.
    #[error("MASTER_ADDR {host}, MASTER_PORT {port} is no address of rank 0; check the name and that it resolves here")]
    Address {
        /// MASTER_ADDR.
        host: String,
        /// MASTER_PORT.
        port: u16,
        /// What the resolver says.
        source: io::Error,
    },
    /// `--dir` of the demo is somebody else's folder.
    #[error("{dir} is not empty and no earlier demo made it; choose another folder with --dir", dir = .0.display())]
    ForeignDir(PathBuf),
    /// The machine is too small for the run.
    #[error("even rows of little more than a page need {needed}: {there_is}; {next}")]
    Memory {
        /// Bytes of all ranks, as text.
        needed: String,
        /// Ranks and what the machine has.
        there_is: String,
        /// What needs less.
        next: &'static str,
    },
    /// A bench that would not fit into this machine.
    #[error("this step needs {:.1} GB of memory and {:.1} GB are free; give --gpus 1, or fewer rows: --set train.micro_batch_size=1 --set train.global_batch_size=1", *needed as f64 / 1e9, *free as f64 / 1e9)]
    TooLargeToMeasure {
        /// Bytes, as computed.
        needed: u64,
        /// Bytes of this machine that are free.
        free: u64,
    },
    /// Tokens without a row of the embedding.
    #[error(
        "{model}: its tokenizer has {tokens} tokens, its embedding {rows} rows; tokenizer.json is of another model"
    )]
    TooManyTokens {
        /// `model.path`.
        model: String,
        /// Of the tokenizer.
        tokens: usize,
        /// Of the embedding.
        rows: usize,
    },
    /// A folder that `report` knows nothing of.
    #[error("{folder}: neither a run (journal.jsonl) nor an eval (results.json); give an output_dir or what `eval --out` wrote", folder = .folder.display())]
    NothingToReport {
        /// Which.
        folder: PathBuf,
    },
    /// `check` found errors, and has printed them.
    #[error("{}; a run would end with exit code {exit_code}", counted(*n, "error"))]
    CheckFailed {
        /// How many.
        n: usize,
        /// That of the first.
        exit_code: u8,
    },
    /// Rows to train on and rows to evaluate on show the same.
    #[error(
        "data.train and data.eval share {what}: {shared}; leave them out of one of the two, or see `check --allow-leaks`"
    )]
    Leak {
        /// Patients, recordings or pages.
        what: &'static str,
        /// How many, and row ids.
        shared: String,
    },
    /// A run's answers do not fit its questions.
    #[error("{file}: row {id} has no answer; run the command again", file = file.display())]
    NoAnswer {
        /// File of answers.
        file: PathBuf,
        /// Row id.
        id: String,
    },
    /// The demo's model did not learn what it must.
    #[error(
        "the demo did not pass: {0} must beat the best control by 20 points; please report it with the files of the run folder"
    )]
    DemoFailed(String),
    /// `merge --verify` found that little of the adapter is in the merged weights.
    #[error(
        "on this page the merged model is {merged:.3e} from base + adapter (rms of logits), the base alone {base:.3e}: rounding has taken what the adapter changes; merge with --dtype f32, or use base and adapter side by side"
    )]
    NotMerged {
        /// Distance of the merged model.
        merged: f64,
        /// Distance of the base.
        base: f64,
    },
    /// A file or folder of this command.
    #[error("{path}: cannot {action} it", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// A page given on the command line.
    #[error("{path}: not a usable page; give a PNG or JPEG file", path = path.display())]
    Page {
        /// The file.
        path: PathBuf,
        /// What the decoder says.
        source: data::PageError,
    },
    /// `--resize` without a size and without a config.
    #[error(
        "--resize: without --config there is no model whose size could be taken; give a number of pixels, e.g. --resize 896"
    )]
    NoImageSize,
    /// A hub's data set brings its own pages.
    #[error(
        "--images: the pages of {0} come with it; leave the option out, or download the data set and give its folder"
    )]
    ImagesOfHub(String),
    /// A prompt's markers and the pages beside it.
    #[error("{0}")]
    Markers(crate::generate::Markers),
    /// A file of messages.
    #[error("{path}: {reason}", path = path.display())]
    Messages {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        reason: String,
    },
    /// A folder that was to hold pages.
    #[error("{folder}: no PNG or JPEG file in it; name the folder that holds the pages", folder = .0.display())]
    NoPages(PathBuf),
    /// Neither an adapter nor a run that has one.
    #[error("{folder}: neither adapter_config.json nor a good checkpoint-N in it; name an adapter's or a run's folder", folder = .0.display())]
    NoAdapter(PathBuf),
    /// `push --repo` is no name of a repository.
    #[error("--repo {0} is no repository such as owner/name; correct it")]
    NoRepository(String),
    /// A folder without anything to push.
    #[error("{folder}: no weights (*.safetensors) in it; name the folder of an adapter, a checkpoint, a run or a model", folder = .0.display())]
    NothingToPush(PathBuf),
    /// The rest of other answers.
    #[error("{file}: holds answers of another model, adapter, rows or options; repeat those, or remove it", file = .0.display())]
    OtherAnswers(PathBuf),
    /// A prompt given on the command line.
    #[error("the prompt cannot be asked")]
    Prompt(#[source] data::Fault),
    /// A process could not be started or talked to.
    #[error("cannot start or reach {what}")]
    Process {
        /// Which.
        what: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// The supervisor sent no orders.
    #[error("no orders on stdin; a worker is started by `ecg-train launch`, or by hand with --config")]
    NoOrders,
    /// A worker said why it failed.
    #[error("rank {rank} failed; its log is {log}\n{message}", log = log.display())]
    Worker {
        /// Which worker.
        rank: u32,
        /// Its own exit code.
        exit_code: u8,
        /// Its log file.
        log: PathBuf,
        /// Its error chain.
        message: String,
    },
    /// A worker died without a word, or does not get on.
    #[error("rank {rank} {how}; the other ranks were ended; its log {log} ends with:\n{tail}", log = log.display())]
    Lost {
        /// Which worker.
        rank: u32,
        /// By which signal or code.
        how: String,
        /// Its log file.
        log: PathBuf,
        /// Last lines of the log.
        tail: String,
    },
    /// Killed workers that do not end.
    #[error(
        "{why}; ranks {ranks:?} were killed and do not end, as in a call to a file system that is gone; look at this machine, then run the same command again"
    )]
    Undead {
        /// Why they were killed.
        why: String,
        /// Which.
        ranks: Vec<u32>,
    },
    /// The group was given up for something outside this machine.
    #[error("the ranks of this machine were ended: {reason}")]
    Abandoned {
        /// For what.
        reason: String,
    },
    /// The budget of attempts is spent.
    #[error(
        "{why}; the newest good checkpoint stands, the same command goes on from it\n{table}\nthe last one: {last}"
    )]
    GaveUp {
        /// Which limit.
        why: String,
        /// What happened, an attempt a line.
        table: String,
        /// Of the last attempt.
        last: Box<Error>,
    },
    /// A worker of another machine failed, or all of them missed it.
    #[error("node {node} ({host}): {message}")]
    OtherNode {
        /// Which machine.
        node: usize,
        /// Its name.
        host: String,
        /// Of its own error.
        exit_code: u8,
        /// Its own words.
        message: String,
    },
    /// The machines of the run do not come together.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The demo was asked to stop.
    #[error("the demo was stopped; the same command begins it anew")]
    DemoStopped,
    /// A command that the demo ran failed and has said why.
    #[error("the demo ends here: `{command}` failed")]
    Step {
        /// What was run.
        command: String,
        /// Its exit code.
        exit_code: u8,
    },
    /// From the trainer.
    #[error(transparent)]
    Trainer(#[from] trainer::Error),
    /// From the data set.
    #[error(transparent)]
    Data(#[from] data::Error),
    /// From the model.
    #[error(transparent)]
    Model(#[from] model::Error),
    /// From the adapter or the merge.
    #[error(transparent)]
    Lora(#[from] lora::Error),
    /// From the demo's data.
    #[error(transparent)]
    Synth(#[from] synth::Error),
    /// From an eval.
    #[error(transparent)]
    Eval(#[from] crate::eval::EvalError),
    /// A file could not be published.
    #[error(transparent)]
    Storage(#[from] storage::Error),
}

impl Error {
    /// For `map_err`: names the file and what was tried with it.
    pub(crate) fn file(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File { path: path.to_owned(), action, source }
    }

    /// Whether another attempt from the last checkpoint may succeed.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Trainer(error) if error.may_pass())
    }

    /// Whether the process must end without politeness: a rank was lost, and what NCCL has begun on a GPU may never end.
    #[must_use]
    pub fn leaves_at_once(&self) -> bool {
        self.exit_code() == LOST
    }

    /// The documented exit code: 2 usage or config, 3 data, 4 numbers, 5 a rank was lost, 6 storage.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Trainer(error) => error.exit_code(),
            Self::Cluster(error) => error.exit_code(),
            #[cfg(feature = "hub")]
            Self::Hub(error) => error.exit_code(),
            #[cfg(feature = "object-store")]
            Self::Objects(error) => error.exit_code(),
            Self::Worker { exit_code, .. }
            | Self::OtherNode { exit_code, .. }
            | Self::Step { exit_code, .. }
            | Self::CheckFailed { exit_code, .. } => *exit_code,
            Self::Data(error) if error.is_storage() => STORAGE,
            Self::Lora(error) if error.is_storage() => STORAGE,
            Self::Page { .. } | Self::Prompt(_) | Self::Data(_) | Self::Leak { .. } => DATA,
            Self::Eval(error) => error.exit_code(),
            Self::NotMerged { .. } | Self::DemoFailed(_) | Self::Model(model::Error::NotFinite { .. }) => NUMBERS,
            Self::DemoStopped => STOPPED,
            Self::Lost { .. } | Self::Undead { .. } | Self::Abandoned { .. } | Self::Process { .. } => LOST,
            Self::GaveUp { last, .. } => last.exit_code(),
            Self::File { .. } | Self::Storage(_) => STORAGE,
            Self::Synth(error) => match error {
                synth::Error::Spec { .. } => CONFIG,
                _ => STORAGE,
            },
            _ => CONFIG,
        }
    }
}

/// `error: ...` and a `caused by: ...` line for each cause that the message above it does not already say.
#[must_use]
pub fn describe(error: &dyn std::error::Error) -> String {
    let mut said = format!("error: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !said.contains(&text) {
            said.push_str(&format!("\n  caused by: {text}"));
        }
        cause = error.source();
    }
    said
}

#[cfg(test)]
mod tests;
