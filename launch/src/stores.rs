//! What opens rows wherever they lie: on this machine's disks or, with the feature `object-store`, in object stores.
//! Credentials come from the shell's variables and go to workers over the control pipe; they are never shown or written.

#[cfg(feature = "object-store")]
mod objects;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use data::{Dataset, Disk, Elsewhere, Sources, Store};
use serde::{Deserialize, Serialize};
use trainer::config::DataConfig;

use crate::Error;

/// How long a command waits for a store that does not answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// A run waits half as long as its supervisor does, and no longer than this: the store is to be named, not the rank.
const LONGEST_PATIENCE: Duration = Duration::from_secs(120);
/// Bytes that are kept of stores' objects, where a config says nothing.
const CACHE_GB: u64 = 20;

/// How object stores are reached. No `Debug`: it holds credentials, which must not reach a log.
#[derive(Clone, Serialize, Deserialize)]
pub struct Access {
    variables: BTreeMap<String, String>,
    patience: Duration,
    /// A folder for what was read, and most bytes there.
    cache: Option<(PathBuf, u64)>,
    certificates: Option<PathBuf>,
}

impl Access {
    /// As this shell's variables say.
    #[must_use]
    pub fn of_shell() -> Self {
        Self {
            variables: variables(),
            patience: PATIENCE,
            cache: default_folder().map(|folder| (folder.join("objects"), CACHE_GB * 1_000_000_000)),
            certificates: ["REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"].iter().find_map(std::env::var_os).map(Into::into),
        }
    }

    /// With what a config says about the cache.
    #[must_use]
    pub fn for_data(mut self, data: &DataConfig) -> Self {
        let (folder, bytes) = self.cache.unwrap_or_default();
        let bytes = data.cache_gb.map_or(bytes, |gb| gb.saturating_mul(1_000_000_000));
        self.cache = Some((data.cache_folder.clone().unwrap_or(folder), bytes));
        self
    }

    /// For a worker whose supervisor has so much patience.
    #[must_use]
    pub fn for_run(mut self, patience: Duration) -> Self {
        self.patience = (patience / 2).min(LONGEST_PATIENCE);
        self
    }

    /// Without a cache: what is read is what the store has.
    #[must_use]
    pub fn uncached(mut self) -> Self {
        self.cache = None;
        self
    }

    /// What opens all of these paths.
    ///
    /// # Errors
    /// An address that [`require`] refuses, or certificates that cannot be read.
    pub fn store<'a>(&self, paths: impl IntoIterator<Item = &'a PathBuf>) -> Result<Arc<dyn Store>, Error> {
        let mut any = false;
        for path in paths {
            require(path)?;
            any |= is_address(path);
        }
        if any { self.anywhere() } else { Ok(Arc::new(Disk)) }
    }

    #[cfg(not(feature = "object-store"))]
    fn anywhere(&self) -> Result<Arc<dyn Store>, Error> {
        Ok(Arc::new(Disk))
    }

    #[cfg(feature = "object-store")]
    fn anywhere(&self) -> Result<Arc<dyn Store>, Error> {
        Ok(Arc::new(objects::Anywhere::new(self)?))
    }

    /// The store that `prepare` is to write to, and a folder to work in; none where `out` is of this machine.
    ///
    /// # Errors
    /// An address that is only read from, or a build that knows no object stores.
    pub fn elsewhere(&self, out: &Path) -> Result<Option<Elsewhere>, Error> {
        if !is_address(out) {
            return Ok(None);
        }
        self.shelf(out).map(Some)
    }

    #[cfg(not(feature = "object-store"))]
    fn shelf(&self, out: &Path) -> Result<Elsewhere, Error> {
        Err(Error::NoObjectStore(out.to_owned()))
    }

    #[cfg(feature = "object-store")]
    fn shelf(&self, out: &Path) -> Result<Elsewhere, Error> {
        let url = out.to_string_lossy();
        remote::objects::Objects::require_writable(&url)?;
        let name = blake3::hash(url.as_bytes()).to_hex();
        let work = default_folder().unwrap_or_default().join("prepare").join(&name[..16]);
        Ok(Elsewhere { store: Arc::new(objects::Anywhere::new(self)?), work })
    }
}

/// Refuses an address with a secret in it or of no store, and any in a build that knows no object stores. Paths of this
/// machine pass.
///
/// # Errors
/// Just that.
pub fn require(path: &Path) -> Result<(), Error> {
    if is_address(path) { require_address(path) } else { Ok(()) }
}

#[cfg(not(feature = "object-store"))]
fn require_address(path: &Path) -> Result<(), Error> {
    Err(Error::NoObjectStore(path.to_owned()))
}

#[cfg(feature = "object-store")]
fn require_address(path: &Path) -> Result<(), Error> {
    Ok(remote::objects::Objects::require_address(&path.to_string_lossy())?)
}

/// Rows, wherever they lie.
///
/// # Errors
/// Rows or a store that cannot be used.
pub fn open(sources: &Sources) -> Result<Dataset, Error> {
    let store = Access::of_shell().store(&sources.files)?;
    Ok(Dataset::open_in(store, sources)?)
}

/// Whether a path is the address of a store.
#[must_use]
pub fn is_address(path: &Path) -> bool {
    path.to_str().is_some_and(remote::is_address)
}

#[cfg(not(feature = "object-store"))]
fn variables() -> BTreeMap<String, String> {
    BTreeMap::new()
}

#[cfg(feature = "object-store")]
fn variables() -> BTreeMap<String, String> {
    remote::objects::variables(std::env::vars_os())
}

#[cfg(not(feature = "object-store"))]
fn default_folder() -> Option<PathBuf> {
    None
}

#[cfg(feature = "object-store")]
fn default_folder() -> Option<PathBuf> {
    Some(remote::objects::default_folder(&|name| std::env::var_os(name)))
}
