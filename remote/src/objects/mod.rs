//! Objects of S3, Google's and Azure's stores and files of web servers, read by range through a cache on this machine's disk,
//! and written whole. It never hands out fewer bytes than were asked for, and waits for no store longer than it was told.
//!
//! What the bytes mean, and whether they are the right ones, is known to whoever reads them: [`Objects::forget`].

mod cache;
mod client;
mod error;
mod http;
mod object;
mod settings;
mod write;

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use tokio::runtime::{Builder, Runtime};

pub use cache::default_folder;
pub use error::{Error, Fault};
pub use object::Object;
pub use settings::{Settings, variables};

use cache::{Cache, Key};
use client::Address;
use http::Connector;

/// Unit of what is asked for and kept: a page image and more.
const BLOCK: u64 = 1 << 20;
/// Blocks that are kept in memory, for the several columns of a row.
const RECENT: usize = 32;
/// Files of a folder that are asked for one by one; then all of them are listed.
const ASKED_ALONE: u32 = 2;
/// Threads that may ask at once without waiting for another one's answer.
const TURNS: usize = 64;

/// Stores, by address.
#[derive(Debug)]
pub struct Objects {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    settings: Settings,
    connector: Connector,
    runtime: Runtime,
    stores: Mutex<BTreeMap<String, Arc<dyn ObjectStore>>>,
    cache: Option<Cache>,
    recent: Mutex<VecDeque<(Key, Bytes)>>,
    /// Two threads that want the same block ask once.
    turns: [Mutex<()>; TURNS],
    folders: Mutex<BTreeMap<String, Folder>>,
}

/// What is known of a folder's objects.
#[derive(Debug, Default)]
struct Folder {
    asked: u32,
    objects: BTreeMap<String, Version>,
}

/// Which of the objects that an address may have had.
#[derive(Debug, Clone)]
struct Version {
    size: u64,
    /// Its entity tag or the time of its last change.
    name: String,
}

impl Version {
    fn of(meta: &ObjectMeta) -> Self {
        let name = meta.e_tag.clone().unwrap_or_else(|| meta.last_modified.to_rfc3339());
        Self { size: meta.size, name: format!("{} {name}", meta.size) }
    }
}

impl Objects {
    /// # Errors
    /// Certificates that cannot be read, or no thread to be had.
    pub fn new(settings: Settings) -> Result<Self, Error> {
        let wrong = |source| {
            let path = settings.certificates.clone().unwrap_or_default();
            Error { url: "SSL_CERT_FILE".into(), fault: Fault::File { path, source } }
        };
        let tls = crate::tls::config(settings.certificates.as_deref()).map_err(wrong)?;
        // Requests are made on its blocking threads; itself it only waits, on whichever thread asks.
        let runtime = Builder::new_current_thread().enable_time().build().map_err(wrong)?;
        let cache = settings.cache.clone().filter(|(_, limit)| *limit > 0);
        let shared = Shared {
            connector: Connector::new(tls, settings.patience),
            runtime,
            stores: Mutex::default(),
            cache: cache.map(|(folder, limit)| Cache::new(folder, limit)),
            recent: Mutex::default(),
            turns: std::array::from_fn(|_| Mutex::default()),
            folders: Mutex::default(),
            settings,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Refuses an address that names no store, or holds a secret.
    ///
    /// # Errors
    /// Just that; the message does not repeat a secret.
    pub fn require_address(url: &str) -> Result<(), Error> {
        Address::parse(url).map(drop)
    }

    /// Bytes of an object.
    ///
    /// # Errors
    /// There is none, or the store refuses or does not answer.
    pub fn size(&self, url: &str) -> Result<u64, Error> {
        Ok(self.shared.version(&Address::parse(url)?)?.size)
    }

    /// An object to be read by range; `keep`: through the cache.
    ///
    /// # Errors
    /// As [`Objects::size`].
    pub fn open(&self, url: &str, keep: bool) -> Result<Object, Error> {
        let address = Address::parse(url)?;
        let version = self.shared.version(&address)?;
        Ok(Object { shared: self.shared.clone(), address, version, keep })
    }

    /// Drops what is known and kept of an object, as it was found to be wrong.
    pub fn forget(&self, url: &str) {
        let Ok(address) = Address::parse(url) else { return };
        let (folder, name) = address.folder_and_name();
        let version = lock(&self.shared.folders).get_mut(&folder).and_then(|folder| folder.objects.remove(name));
        let Some(version) = version else { return };
        for block in 0..version.size.div_ceil(BLOCK) {
            self.shared.drop_block(&Key::new(&address.url, &version.name, block));
        }
    }
}

impl Shared {
    fn store(&self, address: &Address) -> Result<Arc<dyn ObjectStore>, Error> {
        let mut stores = lock(&self.stores);
        if let Some(store) = stores.get(&address.root) {
            return Ok(store.clone());
        }
        let store = client::connect(address, &self.settings, self.connector.clone())?;
        stores.insert(address.root.clone(), store.clone());
        Ok(store)
    }

    /// Waits for a request to end, or to have failed for as long as failures are borne.
    fn wait<T>(&self, address: &Address, request: impl Future<Output = object_store::Result<T>>) -> Result<T, Error> {
        let began = Instant::now();
        let result = self.runtime.block_on(request);
        result.map_err(|error| address.error(Fault::of(&error, began.elapsed())))
    }

    fn version(&self, address: &Address) -> Result<Version, Error> {
        let (folder, name) = address.folder_and_name();
        let list = {
            let mut folders = lock(&self.folders);
            let known = folders.entry(folder.clone()).or_default();
            if let Some(version) = known.objects.get(name) {
                return Ok(version.clone());
            }
            known.asked += 1;
            known.asked == ASKED_ALONE + 1 && !address.is_web
        };
        if list {
            self.list(address, &folder);
            if let Some(version) = lock(&self.folders).get(&folder).and_then(|folder| folder.objects.get(name)) {
                return Ok(version.clone());
            }
        }
        let store = self.store(address)?;
        let version = Version::of(&self.wait(address, store.head(&address.path))?);
        lock(&self.folders).entry(folder).or_default().objects.insert(name.to_owned(), version.clone());
        Ok(version)
    }

    /// One answer for a thousand objects; where the credentials may not list, each is asked for alone.
    fn list(&self, address: &Address, folder: &str) {
        let Ok(store) = self.store(address) else { return };
        let mut prefix: Vec<_> = address.path.parts().collect();
        prefix.pop();
        let prefix = prefix.into_iter().collect();
        let Ok(listed) = self.wait(address, store.list_with_delimiter(Some(&prefix))) else { return };
        let versions = listed
            .objects
            .iter()
            .map(|meta| (meta.location.filename().unwrap_or_default().to_owned(), Version::of(meta)));
        lock(&self.folders).entry(folder.to_owned()).or_default().objects.extend(versions);
    }

    fn recent(&self, key: &Key) -> Option<Bytes> {
        lock(&self.recent).iter().find(|(known, _)| known == key).map(|(_, block)| block.clone())
    }

    fn note(&self, key: Key, block: &Bytes) {
        let mut recent = lock(&self.recent);
        recent.retain(|(known, _)| *known != key);
        recent.push_front((key, block.clone()));
        recent.truncate(RECENT);
    }

    fn drop_block(&self, key: &Key) {
        lock(&self.recent).retain(|(known, _)| known != key);
        if let Some(cache) = &self.cache {
            cache.remove(key);
        }
    }

    fn patience(&self) -> Duration {
        self.settings.patience
    }
}

/// What a panicking thread left is whole: nothing is changed in two steps.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
