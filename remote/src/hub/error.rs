//! Why a repository of the hub cannot be had, with what to type next. No message ever holds a token or a signed address.

use std::io;
use std::path::{Path, PathBuf};

use crate::{HubId, Kind};

/// What can go wrong with a repository.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The hub cannot be reached, for the moment or by order.
    #[error("{host} cannot be reached: {reason}")]
    Unreachable {
        /// The endpoint.
        host: String,
        /// What happened.
        reason: String,
    },
    /// As above, and the cache does not help.
    #[error(
        "{id}: revision {revision} is not in the cache {cache} and {host} cannot be reached ({reason}); download it where there is a network (`{command}`) and take HF_HOME along",
        revision = id.revision, cache = cache.display(), command = id.hf_download()
    )]
    NotCached {
        /// The repository.
        id: Box<HubId>,
        /// The endpoint.
        host: String,
        /// What happened.
        reason: String,
        /// The cache.
        cache: PathBuf,
    },
    /// 401 or 403.
    #[error(
        "{id}: the hub refuses access ({status}); {next}",
        next = if *had_token {
            format!("accept the licence at {page} with the account whose token HF_TOKEN holds, and see that the token may read it")
        } else {
            format!("accept the licence at {page} and set HF_TOKEN to a token of that account (https://huggingface.co/settings/tokens)")
        }
    )]
    NoAccess {
        /// The repository.
        id: Box<HubId>,
        /// The HTTP status.
        status: u16,
        /// A token was sent.
        had_token: bool,
        /// The repository's page.
        page: String,
    },
    /// 404.
    #[error("{id}: there is no such {kind} at revision {revision}; check the name and the revision", kind = kind(id), revision = id.revision)]
    NotFound {
        /// The repository.
        id: Box<HubId>,
    },
    /// Another status than expected.
    #[error("{what}: the hub answers {status}; try again later")]
    Status {
        /// What was asked for.
        what: String,
        /// The HTTP status.
        status: u16,
    },
    /// An answer of another form, or one that is not to be trusted.
    #[error("{id}: the hub's answer is not usable: {reason}")]
    Answer {
        /// The repository.
        id: Box<HubId>,
        /// What is wrong.
        reason: String,
    },
    /// No file that is of use.
    #[error("{id}: nothing of use among its files ({found}); name parquet files as hf://datasets/OWNER/NAME/GLOB")]
    NothingOfUse {
        /// The repository.
        id: Box<HubId>,
        /// What there is.
        found: String,
    },
    /// JSON + tar.gz shards.
    #[error(
        "{id} is JSON with tar.gz shards, which cannot be read at random; prepare it once: `ecg-train prepare --source {id} --out PREPARED`, and set data.train to PREPARED"
    )]
    Tars {
        /// The repository.
        id: Box<HubId>,
    },
    /// JSON + tar.gz shards, but which JSON?
    #[error("{id} has several JSON files ({}); name one: hf://datasets/{}@{}/FILE.json", .names.join(", "), .id.name, .id.revision)]
    ManyJson {
        /// The repository.
        id: Box<HubId>,
        /// The files.
        names: Vec<String>,
    },
    /// Bytes that are not those the hub states.
    #[error("{file} of {id}: {reason}; the file was removed from the cache, run the command again")]
    Wrong {
        /// The repository.
        id: Box<HubId>,
        /// The file.
        file: String,
        /// The difference.
        reason: String,
    },
    /// The disk is too small.
    #[error("{folder}: {needed} bytes are to be downloaded and {free} are free; make room or set HF_HOME to another disk", folder = folder.display())]
    Space {
        /// The cache.
        folder: PathBuf,
        /// Bytes to come.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
    /// A push without a token.
    #[error("{id}: a push needs a token; set HF_TOKEN to one that may write (https://huggingface.co/settings/tokens)")]
    NoToken {
        /// The repository.
        id: Box<HubId>,
    },
    /// 401 or 403 of a push.
    #[error(
        "{id}: the hub refuses to {action} ({status}){}; the token in HF_TOKEN must be valid, and may write to {owner}", said(.reason),
        owner = .id.name.split('/').next().unwrap_or_default()
    )]
    NoWrite {
        /// The repository.
        id: Box<HubId>,
        /// What was tried.
        action: &'static str,
        /// The HTTP status.
        status: u16,
        /// The hub's words.
        reason: String,
    },
    /// Another refusal of a push.
    #[error("{id}: cannot {action}: the hub answers {status}{}; nothing was committed, try again later", said(.reason))]
    Refused {
        /// The repository.
        id: Box<HubId>,
        /// What was tried.
        action: &'static str,
        /// The HTTP status.
        status: u16,
        /// The hub's words.
        reason: String,
    },
    /// A push whose connection broke off.
    #[error(
        "{id}: cannot {action}: {reason}; nothing was committed, the same command goes on with what is not there yet"
    )]
    Broken {
        /// The repository.
        id: Box<HubId>,
        /// What was tried.
        action: &'static str,
        /// What happened.
        reason: String,
    },
    /// Somebody else committed meanwhile.
    #[error("{id}: somebody else has committed to {revision} meanwhile; run the command again", revision = id.revision)]
    Moved {
        /// The repository.
        id: Box<HubId>,
    },
    /// What was pushed is not what the hub lists afterwards.
    #[error(
        "{id}: {file} was pushed, but the hub lists {found} at commit {commit}; do not use that commit, push again"
    )]
    Unlike {
        /// The repository.
        id: Box<HubId>,
        /// The file.
        file: String,
        /// What is listed instead.
        found: String,
        /// The commit.
        commit: String,
    },
    /// A file of the cache, or one that is pushed.
    #[error("{path}: cannot {action} it", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// A file could not be published.
    #[error(transparent)]
    Storage(#[from] storage::Error),
}

impl Error {
    pub(super) fn file(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File { path: path.to_owned(), action, source }
    }

    /// The documented exit code: 2 for what the user can correct, 6 for disks and networks.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NotCached { .. }
            | Self::NoAccess { .. }
            | Self::NotFound { .. }
            | Self::NothingOfUse { .. }
            | Self::NoToken { .. }
            | Self::NoWrite { .. }
            | Self::Tars { .. }
            | Self::ManyJson { .. } => 2,
            _ => 6,
        }
    }
}

/// The hub's words, where it has any.
fn said(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(": {reason}") }
}

fn kind(id: &HubId) -> &'static str {
    match id.kind {
        Kind::Model => "model",
        Kind::Dataset(_) => "data set",
    }
}
