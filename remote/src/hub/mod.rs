//! Repositories of the Hugging Face hub, in the cache folder that Python's huggingface_hub uses: what one has downloaded
//! the other finds. It never hands out a file whose size and hash are not those that the hub states.
//!
//! The protocol is three requests: `api/models/NAME/revision/REV?blobs=true` for the commit and the list of files with
//! their hashes, `NAME/resolve/COMMIT/FILE` for bytes (a redirect leads to the storage), ranges to go on where a
//! connection broke off. What is pushed goes the way that `push` describes.

mod archives;
mod cache;
mod download;
mod error;
mod http;
mod listing;
mod push;
mod settings;
mod split;

use std::path::PathBuf;
use std::sync::Arc;

pub use error::Error;
pub use push::{LocalFile, PushOptions, Pushed};
pub use settings::{Settings, Token};

use crate::{HubId, Kind};
use cache::Cache;
use http::Client;
use listing::{Listing, RemoteFile};

/// File names that a message holds at most.
const SHOWN: usize = 8;

type Result<T> = std::result::Result<T, Error>;

/// A hub and a cache.
#[derive(Debug)]
pub struct Hub {
    client: Arc<Client>,
    settings: Settings,
}

/// What of a repository is wanted, at the commit its revision means now.
#[derive(Debug)]
pub struct Wanted {
    client: Arc<Client>,
    id: HubId,
    cache: Cache,
    files: Vec<RemoteFile>,
    /// The commit.
    pub commit: String,
    /// Bytes that are not in the cache yet.
    pub missing_bytes: u64,
    /// The hub did not answer; why, and that the cache is used instead.
    pub offline: Option<String>,
}

impl Hub {
    /// # Errors
    /// Certificates that cannot be read.
    pub fn new(settings: Settings) -> Result<Self> {
        Ok(Self { client: Arc::new(Client::new(&settings)?), settings })
    }

    /// Asks which files the repository has. If the hub is not to be asked or cannot be reached, what the cache holds is all.
    ///
    /// # Errors
    /// No such repository, no access to it, or nothing in it that is of use here.
    pub fn look_up(&self, id: &HubId) -> Result<Wanted> {
        self.look_up_as(id, wanted)
    }

    /// As [`Hub::look_up`] of a data set, for whoever can take JSON rows whose pages are in archives, too: where it has
    /// no parquet files of the split, its files are that JSON file and behind it the archives beside it.
    ///
    /// # Errors
    /// As there; more than one JSON file.
    pub fn look_up_rows(&self, id: &HubId) -> Result<Wanted> {
        self.look_up_as(id, archives::wanted)
    }

    fn look_up_as(&self, id: &HubId, wanted: fn(&HubId, Vec<RemoteFile>) -> Result<Vec<RemoteFile>>) -> Result<Wanted> {
        let cache = Cache::new(&self.settings.cache, id);
        let listing = match self.settings.offline {
            true => {
                Err(Error::Unreachable { host: self.settings.endpoint.clone(), reason: "HF_HUB_OFFLINE is set".into() })
            }
            false => Listing::ask(&self.client, id),
        };
        let (listing, offline) = match listing {
            Ok(listing) => {
                cache.note_revision(&id.revision, &listing.commit)?;
                (listing, None)
            }
            Err(Error::Unreachable { host, reason }) => match cache.listing(&id.revision)? {
                Some(listing) => (listing, Some(reason)),
                None => {
                    return Err(Error::NotCached {
                        id: Box::new(id.clone()),
                        host,
                        reason,
                        cache: self.settings.cache.clone(),
                    });
                }
            },
            Err(error) => return Err(error),
        };
        let files = wanted(id, listing.files)?;
        let missing_bytes = files.iter().map(|file| cache.missing_bytes(file)).sum();
        let (client, commit) = (self.client.clone(), listing.commit);
        Ok(Wanted { client, id: id.clone(), cache, files, commit, missing_bytes, offline })
    }
}

impl Wanted {
    /// How many files.
    #[must_use]
    pub fn n_files(&self) -> usize {
        self.files.len()
    }

    /// Their bytes, in the cache or not.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }

    /// Downloads what is missing, verifies what is not yet known to be good, and returns the snapshot's folder and the
    /// files of it. `progress` hears of bytes as they arrive, from several threads; of those lost again as negative numbers.
    ///
    /// # Errors
    /// Too little space, no access, a hub that does not answer, or bytes that are not what the hub states: removed then.
    pub fn fetch(&self, progress: &(dyn Fn(i64) + Sync)) -> Result<(PathBuf, Vec<PathBuf>)> {
        self.cache.require_space(self.missing_bytes)?;
        download::all(self, progress)?;
        let folder = self.cache.snapshot(&self.commit);
        let mut files = Vec::new();
        for file in &self.files {
            files.push(self.cache.link(&self.commit, file)?);
        }
        Ok((folder, files))
    }
}

/// Of a model the files of its top folder that are no other format's weights; of a data set the files of the split, or
/// those named.
fn wanted(id: &HubId, files: Vec<RemoteFile>) -> Result<Vec<RemoteFile>> {
    const MODEL: [&str; 4] = ["safetensors", "json", "jinja", "model"];
    let nothing = |found: String| Error::NothingOfUse { id: Box::new(id.clone()), found };
    let pattern = id.files.as_deref().map(glob::Pattern::new).transpose();
    let pattern = pattern.map_err(|_| nothing("its glob is none".to_owned()))?;
    let has_tars = files.iter().any(|file| file.path.ends_with(".tar.gz"));
    let mut seen: Vec<String> = files.iter().take(SHOWN).map(|file| file.path.clone()).collect();
    if files.len() > SHOWN {
        seen.push(format!("and {} more", files.len() - SHOWN));
    }
    let wanted: Vec<RemoteFile> = match (id.kind, &pattern) {
        (Kind::Model, _) => {
            let is_wanted = |path: &str| path.rsplit_once('.').is_some_and(|(_, end)| MODEL.contains(&end));
            files.into_iter().filter(|file| !file.path.contains('/') && is_wanted(&file.path)).collect()
        }
        (Kind::Dataset(_), Some(pattern)) => files.into_iter().filter(|file| pattern.matches(&file.path)).collect(),
        (Kind::Dataset(wanted), None) => split::of(wanted, files),
    };
    match wanted.is_empty() {
        true if id.kind != Kind::Model && has_tars => Err(Error::Tars { id: Box::new(id.clone()) }),
        true => Err(nothing(seen.join(", "))),
        false => Ok(wanted),
    }
}
