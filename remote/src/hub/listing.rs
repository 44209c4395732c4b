//! The files of a repository at one commit, as the hub lists them. It never believes a path, a hash or a size unseen.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::http::{Client, Failure};
use super::{Error, Result};
use crate::{HubId, Kind};

/// Largest list of files read: a repository of 100,000 files.
const MAX_BYTES: u64 = 64 << 20;
/// What stays as it is in one component of an address.
pub(super) const COMPONENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// One file of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RemoteFile {
    /// Within the repository; normal components only.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// sha256 of a large file, sha1 of the git blob of a small one; also its name in the cache.
    pub hash: String,
}

#[derive(Debug)]
pub(super) struct Listing {
    pub commit: String,
    pub files: Vec<RemoteFile>,
}

impl Listing {
    /// Asks the hub.
    pub fn ask(client: &Client, id: &HubId) -> Result<Self> {
        let revision = utf8_percent_encode(&id.revision, COMPONENT);
        let url = format!("{}/api/{}/{}/revision/{revision}?blobs=true", client.endpoint, kinds(id), id.name);
        let bytes = client.get_all(&url, MAX_BYTES).map_err(|failure| error(client, id, &id.name, failure))?;
        let answer: Value = serde_json::from_slice(&bytes).map_err(|_| unusable(id, "it is not JSON"))?;
        let commit =
            answer["sha"].as_str().filter(|sha| is_hex(sha, 40)).ok_or_else(|| unusable(id, "it names no commit"))?;
        let siblings = answer["siblings"].as_array().ok_or_else(|| unusable(id, "it lists no files"))?;
        let files =
            siblings.iter().map(|file| remote_file(file).ok_or_else(|| unusable(id, "it lists a file that is none")));
        Ok(Self { commit: commit.to_owned(), files: files.collect::<Result<_>>()? })
    }
}

/// The address of one file's bytes.
pub(super) fn address(client: &Client, id: &HubId, commit: &str, path: &str) -> String {
    let path: Vec<String> = path.split('/').map(|part| utf8_percent_encode(part, COMPONENT).to_string()).collect();
    let kind = if id.kind != Kind::Model { "datasets/" } else { "" };
    format!("{}/{kind}{}/resolve/{commit}/{}", client.endpoint, id.name, path.join("/"))
}

/// What a failed request means for the user.
pub(super) fn error(client: &Client, id: &HubId, what: &str, failure: Failure) -> Error {
    let kind = if id.kind != Kind::Model { "datasets/" } else { "" };
    match failure {
        Failure::Status(status @ (401 | 403)) => Error::NoAccess {
            id: Box::new(id.clone()),
            status,
            had_token: client.has_token(),
            page: format!("{}/{kind}{}", client.endpoint, id.name),
        },
        Failure::Status(404) => Error::NotFound { id: Box::new(id.clone()) },
        Failure::Status(status) => Error::Status { what: what.to_owned(), status },
        Failure::Connection(reason) => Error::Unreachable { host: client.endpoint.clone(), reason },
    }
}

pub(super) fn unusable(id: &HubId, reason: &str) -> Error {
    Error::Answer { id: Box::new(id.clone()), reason: reason.to_owned() }
}

fn kinds(id: &HubId) -> &'static str {
    match id.kind {
        Kind::Model => "models",
        Kind::Dataset(_) => "datasets",
    }
}

/// `{rfilename, size, blobId, lfs: {sha256, size}}`; `lfs` only of large files.
fn remote_file(file: &Value) -> Option<RemoteFile> {
    let path = file["rfilename"].as_str()?;
    let normal = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains(['\\', '\0']);
    let lfs = &file["lfs"];
    let (hash, size) = match lfs["sha256"].as_str() {
        Some(sha256) => (Some(sha256).filter(|hash| is_hex(hash, 64)), lfs["size"].as_u64().or(file["size"].as_u64())),
        None => (file["blobId"].as_str().filter(|hash| is_hex(hash, 40)), file["size"].as_u64()),
    };
    let file = RemoteFile { path: path.to_owned(), size: size?, hash: hash?.to_owned() };
    path.split('/').all(normal).then_some(file)
}

pub(super) fn is_hex(text: &str, len: usize) -> bool {
    text.len() == len && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}
