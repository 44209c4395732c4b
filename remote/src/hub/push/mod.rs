//! Files from here into one commit of a repository. It never sends what the repository has already, and believes a commit
//! only when the hub lists every file with its size and hash.
//!
//! The protocol: `api/repos/create`, `api/models/NAME/preupload/REV` (which files are large), `NAME.git/info/lfs/objects/batch`
//! and what it answers for the large ones (git-lfs's `basic`, or the hub's `multipart`), and
//! `api/models/NAME/commit/REV` with one JSON line a file, small files within it.

mod file;
mod lfs;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use percent_encoding::utf8_percent_encode;
use serde_json::{Value, json};
use ureq::http::Method;

pub use file::LocalFile;

use super::http::{Answer, Failure, Payload, Refusal};
use super::listing::{COMPONENT, Listing, RemoteFile, is_hex, unusable};
use super::{Error, Hub, Result};
use crate::HubId;

/// How a push is made.
#[derive(Debug, Clone)]
pub struct PushOptions {
    /// A repository that is made now is private.
    pub private: bool,
    /// First line of the commit.
    pub message: String,
}

/// What became of a push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// The commit that has all files.
    pub commit: String,
    /// Files that it changed; the others were there already.
    pub changed: usize,
    /// The repository was made.
    pub created: bool,
    /// Where to look at it.
    pub url: String,
}

/// What hears of bytes; of those that are sent again as negative numbers.
type Progress<'a> = &'a dyn Fn(i64);

/// One push under way.
struct Push<'a> {
    hub: &'a Hub,
    id: &'a HubId,
    progress: Progress<'a>,
}

impl Hub {
    /// Brings the repository `id` to hold `files` at the branch that is its revision; makes both where they are missing.
    ///
    /// # Errors
    /// No token, no right to write, a hub that does not answer: nothing was committed then. Or a commit that is not what
    /// was sent.
    pub fn push(&self, id: &HubId, files: &[LocalFile], options: &PushOptions, progress: Progress) -> Result<Pushed> {
        if !self.client.has_token() {
            return Err(Error::NoToken { id: Box::new(id.clone()) });
        }
        let push = Push { hub: self, id, progress };
        let (before, created) = push.repository(options.private)?;
        let url = format!("{}/{}", self.client.endpoint, id.name);
        let missing: Vec<&LocalFile> = files.iter().filter(|file| !file.is_among(&before.files)).collect();
        let done = |commit| Pushed { commit, changed: missing.len(), created, url };
        if missing.is_empty() {
            return Ok(done(before.commit));
        }
        let large = push.preupload(&missing)?;
        let of = |is_large| missing.iter().zip(&large).filter(move |(_, l)| **l == is_large).map(|(file, _)| *file);
        push.send_large(&of(true).collect::<Vec<_>>())?;
        let commit = push.commit(of(true), of(false), &options.message, &before.commit, files)?;
        push.verify(files, &commit)?;
        Ok(done(commit))
    }
}

impl Push<'_> {
    /// What the branch holds; repository and branch are made where they are missing.
    fn repository(&self, private: bool) -> Result<(Listing, bool)> {
        match self.listing(&self.id.revision) {
            Err(Error::NotFound { .. }) => {}
            listing => return Ok((listing?, false)),
        }
        let (owner, name) = self.id.name.split_once('/').unwrap_or_default();
        let mut wanted = json!({"type": "model", "name": name, "organization": owner});
        if private {
            wanted["private"] = json!(true);
        }
        let create = format!("{}/api/repos/create", self.hub.client.endpoint);
        let created = self.make(&create, &wanted, "make the repository")?;
        if self.id.revision != "main" {
            self.make(&self.api("branch"), &json!({}), "make the branch")?;
        }
        Ok((self.listing(&self.id.revision)?, created))
    }

    /// Whether it was made, or is there already (409).
    fn make(&self, url: &str, wanted: &Value, action: &'static str) -> Result<bool> {
        match self.post(url, "application/json", wanted.to_string().as_bytes()) {
            Ok(_) => Ok(true),
            Err(Refusal { failure: Failure::Status(409), .. }) => Ok(false),
            Err(refusal) => Err(self.refused(action, refusal)),
        }
    }

    /// Whether each file is a large one, by the hub's rules.
    fn preupload(&self, files: &[&LocalFile]) -> Result<Vec<bool>> {
        const ACTION: &str = "announce the files";
        let mut wanted = Vec::with_capacity(files.len());
        for file in files {
            let sample = BASE64.encode(file.sample()?);
            wanted.push(json!({"path": file.name, "size": file.size, "sample": sample}));
        }
        let answer = self.ask(&self.api("preupload"), "application/json", &json!({"files": wanted}), ACTION)?;
        let modes = answer["files"].as_array().ok_or_else(|| unusable(self.id, "it names no files to upload"))?;
        let is_large = |file: &&LocalFile| {
            let mode = modes.iter().find(|mode| mode["path"] == *file.name).map(|mode| &mode["uploadMode"]);
            match mode.and_then(Value::as_str) {
                // A storage takes no empty file.
                Some("lfs") => Ok(file.size > 0),
                Some("regular") => Ok(false),
                _ => Err(unusable(self.id, "it does not say how a file is to be uploaded")),
            }
        };
        files.iter().map(is_large).collect()
    }

    /// One commit on top of `parent`, and no other: a repeated request cannot make two.
    fn commit<'f>(
        &self,
        large: impl Iterator<Item = &'f LocalFile>,
        small: impl Iterator<Item = &'f LocalFile>,
        message: &str,
        parent: &str,
        all: &[LocalFile],
    ) -> Result<String> {
        let header = json!({"summary": message, "description": "", "parentCommit": parent});
        let mut lines = format!("{}\n", json!({"key": "header", "value": header}));
        for LocalFile { name, size, sha256, .. } in large {
            let value = json!({"path": name, "algo": "sha256", "oid": sha256, "size": size});
            lines += &format!("{}\n", json!({"key": "lfsFile", "value": value}));
        }
        for file in small {
            let content = BASE64.encode(file.read()?);
            let value = json!({"path": file.name, "encoding": "base64", "content": content});
            lines += &format!("{}\n", json!({"key": "file", "value": value}));
        }
        match self.post(&self.api("commit"), "application/x-ndjson", lines.as_bytes()) {
            Ok(answer) => {
                let answer: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
                let commit = answer["commitOid"].as_str().filter(|commit| is_hex(commit, 40));
                commit.map(str::to_owned).ok_or_else(|| unusable(self.id, "it names no commit"))
            }
            // Another commit on the branch: ours, if its answer got lost.
            Err(Refusal { failure: Failure::Status(409 | 412), .. }) => {
                let now = self.listing(&self.id.revision)?;
                match all.iter().all(|file| file.is_among(&now.files)) {
                    true => Ok(now.commit),
                    false => Err(Error::Moved { id: Box::new(self.id.clone()) }),
                }
            }
            Err(refusal) => Err(self.refused("commit", refusal)),
        }
    }

    /// Every file must be listed at the commit as it is here.
    fn verify(&self, files: &[LocalFile], commit: &str) -> Result<()> {
        let listing = self.listing(commit)?;
        match files.iter().find(|file| !file.is_among(&listing.files)) {
            None => Ok(()),
            Some(file) => Err(Error::Unlike {
                id: Box::new(self.id.clone()),
                file: file.name.clone(),
                found: match listing.files.iter().find(|remote| remote.path == file.name) {
                    Some(RemoteFile { size, hash, .. }) => format!("{size} bytes with hash {hash}"),
                    None => "no such file".to_owned(),
                },
                commit: commit.to_owned(),
            }),
        }
    }

    fn listing(&self, revision: &str) -> Result<Listing> {
        Listing::ask(&self.hub.client, &self.id.at(revision)).map_err(|error| match error {
            Error::NoAccess { id, status, .. } => {
                Error::NoWrite { id, action: "list the files", status, reason: String::new() }
            }
            error => error,
        })
    }

    /// `api/models/NAME/what/REVISION`.
    fn api(&self, what: &str) -> String {
        let revision = utf8_percent_encode(&self.id.revision, COMPONENT);
        format!("{}/api/models/{}/{what}/{revision}", self.hub.client.endpoint, self.id.name)
    }

    fn post(&self, url: &str, kind: &str, body: &[u8]) -> std::result::Result<Answer, Refusal> {
        let headers =
            [("content-type", kind), ("accept", if kind == lfs::MEDIA_TYPE { kind } else { "application/json" })];
        self.hub.client.send(&Method::POST, url, &headers, Payload::Bytes(body), &|_| {})
    }

    /// Posts JSON and reads the answer's.
    fn ask(&self, url: &str, kind: &str, wanted: &Value, action: &'static str) -> Result<Value> {
        let answer = self.post(url, kind, wanted.to_string().as_bytes());
        let answer = answer.map_err(|refusal| self.refused(action, refusal))?;
        serde_json::from_slice(&answer.body).map_err(|_| unusable(self.id, "it is not JSON"))
    }

    fn refused(&self, action: &'static str, refusal: Refusal) -> Error {
        let (id, reason) = (Box::new(self.id.clone()), refusal.reason);
        match refusal.failure {
            Failure::Status(status @ (401 | 403)) => Error::NoWrite { id, action, status, reason },
            Failure::Status(status) => Error::Refused { id, action, status, reason },
            Failure::Connection(reason) => Error::Broken { id, action, reason },
        }
    }
}
