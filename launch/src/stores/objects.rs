//! `remote`'s objects as `data` reads and writes files: a path that is an address is an object, any other one a file here.

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use data::{Disk, Ranges, Shelf, Store, Unreachable};
use remote::objects::{Error, Fault, Object, Objects, Settings};

use super::{Access, is_address};

#[derive(Debug)]
pub struct Anywhere {
    objects: Objects,
    keep: bool,
}

impl Anywhere {
    /// # Errors
    /// Certificates that cannot be read.
    pub fn new(access: &Access) -> Result<Self, Error> {
        let Access { variables, patience, cache, certificates } = access.clone();
        let keep = cache.is_some();
        Ok(Self { objects: Objects::new(Settings { variables, patience, cache, certificates })?, keep })
    }
}

impl Store for Anywhere {
    fn size(&self, path: &Path) -> io::Result<u64> {
        match url(path) {
            Some(url) => self.objects.size(url).map_err(failed),
            None => Disk.size(path),
        }
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn Ranges>> {
        let Some(url) = url(path) else { return Disk.open(path) };
        // A manifest says what everything else must be, so it always comes from the store itself.
        let keep = self.keep && path.extension().is_none_or(|end| end != "json");
        Ok(Arc::new(Opened(self.objects.open(url, keep).map_err(failed)?)))
    }

    fn forget(&self, path: &Path) -> bool {
        let url = url(path);
        url.iter().for_each(|url| self.objects.forget(url));
        url.is_some()
    }
}

impl Shelf for Anywhere {
    fn is_empty(&self, folder: &Path) -> io::Result<bool> {
        self.objects.is_empty(required(folder)?).map_err(failed)
    }

    fn put(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.objects.put(required(path)?, bytes).map_err(failed)
    }

    fn put_file(&self, path: &Path, file: &Path) -> io::Result<()> {
        self.objects.put_file(required(path)?, file).map_err(failed)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.objects.remove(required(path)?).map_err(failed)
    }
}

#[derive(Debug)]
struct Opened(Object);

impl Ranges for Opened {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read(&self, offset: u64, length: usize) -> io::Result<Bytes> {
        match offset.checked_add(length as u64) {
            Some(end) if end <= self.0.size() => self.0.read(offset, length).map_err(failed),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

fn url(path: &Path) -> Option<&str> {
    path.to_str().filter(|_| is_address(path))
}

fn required(path: &Path) -> io::Result<&str> {
    url(path).ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

/// A missing object is a missing file; anything else says nothing about the file.
fn failed(error: Error) -> io::Error {
    match error.fault {
        Fault::NotFound => io::Error::new(io::ErrorKind::NotFound, "there is no such object"),
        fault => io::Error::other(Unreachable(fault.to_string())),
    }
}
