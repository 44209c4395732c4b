//! Why an object cannot be had, with what to do next. No message ever holds a secret or a signed address, nor what a store
//! answers beyond its status and the name of the error: those answers repeat keys and signatures.

use std::error::Error as StdError;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use object_store::Error as StoreError;

/// What went wrong, and with which object.
#[derive(Debug, thiserror::Error)]
#[error("{url}: {fault}")]
pub struct Error {
    /// Its address.
    pub url: String,
    /// What it is.
    pub fault: Fault,
}

/// What can go wrong with an object.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// No address of a store.
    #[error("{0}; write it as s3://BUCKET/FOLDER, gs://BUCKET/FOLDER, az://CONTAINER/FOLDER or https://HOST/FOLDER")]
    Address(String),
    /// The variables do not make a client.
    #[error("{0}; correct the variables of the store (AWS_..., GOOGLE_..., AZURE_...)")]
    Settings(String),
    /// There is no such object.
    #[error("there is no such object; correct the address")]
    NotFound,
    /// 401 or 403.
    #[error(
        "the store refuses access ({0}); see that the credentials in this shell's variables (AWS_..., GOOGLE_..., AZURE_...) may read it, and have not expired"
    )]
    Refused(String),
    /// No answer that could be used, for as long as was waited.
    #[error("{reason}, for {} s; when the store answers again, the same command goes on", waited.as_secs())]
    Unreachable {
        /// The last failure.
        reason: String,
        /// How long was tried.
        waited: Duration,
    },
    /// A server that gives whole files alone.
    #[error("the server does not answer ranges of bytes; use one that does, or a store")]
    NoRanges,
    /// A plain web server takes no files.
    #[error("a web server is only read from; prepare into a folder, s3://, gs:// or az://")]
    ReadOnly,
    /// What was sent is not what is there.
    #[error("{sent} bytes were sent and {found} are there; run the same command again")]
    Differs {
        /// Bytes of the file.
        sent: u64,
        /// Bytes of the object.
        found: u64,
    },
    /// A file of this machine.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl Error {
    /// The documented exit code: 2 for what the user can correct, 6 for disks and networks.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self.fault {
            Fault::Address(_) | Fault::Settings(_) | Fault::ReadOnly => 2,
            _ => 6,
        }
    }
}

impl Fault {
    /// Of a request that was tried for `waited`.
    pub(super) fn of(error: &StoreError, waited: Duration) -> Self {
        match error {
            StoreError::NotFound { .. } => Self::NotFound,
            StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. } => Self::Refused(cause(error)),
            StoreError::NotSupported { .. } => Self::NoRanges,
            _ => match cause(error) {
                cause if cause.starts_with("the store answers 40") => Self::Refused(cause),
                reason => Self::Unreachable { reason, waited },
            },
        }
    }
}

/// The innermost words: a status and the store's name of the error, or what happened to the connection.
fn cause(error: &StoreError) -> String {
    let mut innermost: &dyn StdError = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    let text = innermost.to_string();
    match text.split_once("status code: ") {
        None => text.lines().next().unwrap_or_default().chars().take(200).collect(),
        Some((_, answer)) => {
            let status = answer.split(':').next().unwrap_or_default().trim();
            let code = answer.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>"));
            match code.filter(|(code, _)| code.len() < 64 && code.bytes().all(|b| b.is_ascii_alphanumeric())) {
                Some((code, _)) => format!("the store answers {status}, {code}"),
                None => format!("the store answers {status}"),
            }
        }
    }
}
