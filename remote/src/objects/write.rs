//! Whole objects into a store: small ones at once, large ones in parts that become visible together.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::Bytes;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload};

use super::client::Address;
use super::{Error, Fault, Objects, lock};

/// Bytes of a part: 10,000 of them, which is S3's limit, are 160 GB.
const PART: u64 = 16 << 20;

impl Objects {
    /// Refuses an address that can only be read from.
    ///
    /// # Errors
    /// No address, or a web server's.
    pub fn require_writable(url: &str) -> Result<(), Error> {
        let address = Address::parse(url)?;
        if address.is_web { Err(address.error(Fault::ReadOnly)) } else { Ok(()) }
    }

    /// Whether no object lies in a folder.
    ///
    /// # Errors
    /// The store refuses or does not answer.
    pub fn is_empty(&self, url: &str) -> Result<bool, Error> {
        let address = Address::parse(url)?;
        let store = self.shared.store(&address)?;
        let listed = self.shared.wait(&address, store.list_with_delimiter(Some(&address.path)))?;
        Ok(listed.objects.is_empty() && listed.common_prefixes.is_empty())
    }

    /// Makes an object of some bytes.
    ///
    /// # Errors
    /// The store refuses or does not answer.
    pub fn put(&self, url: &str, bytes: &[u8]) -> Result<(), Error> {
        let address = Address::parse(url)?;
        let store = self.shared.store(&address)?;
        let payload = PutPayload::from(Bytes::copy_from_slice(bytes));
        self.shared.wait(&address, store.put(&address.path, payload))?;
        self.require_size(&address, bytes.len() as u64)
    }

    /// Makes an object of a file; when this returns, the store says that it has all of its bytes. Each part carries its
    /// sha256 where the store looks at it.
    ///
    /// # Errors
    /// The file cannot be read; the store refuses, does not answer, or has another size.
    pub fn put_file(&self, url: &str, path: &Path) -> Result<(), Error> {
        let address = Address::parse(url)?;
        let failed = |source| address.error(Fault::File { path: path.to_owned(), source });
        let file = File::open(path).map_err(failed)?;
        let size = file.metadata().map_err(failed)?.len();
        let read = |at: u64| {
            let mut bytes = vec![0; PART.min(size - at) as usize];
            file.read_exact_at(&mut bytes, at).map_err(failed)?;
            Ok(PutPayload::from(bytes))
        };
        let store = self.shared.store(&address)?;
        if size <= PART {
            self.shared.wait(&address, store.put(&address.path, read(0)?))?;
        } else {
            let mut upload = self.shared.wait(&address, store.put_multipart(&address.path))?;
            let sent = self.send_parts(&address, &mut *upload, size, &read);
            if sent.is_err() {
                // What was sent is kept, and paid for, until it is given up.
                let _ = self.shared.wait(&address, upload.abort());
            }
            sent?;
        }
        self.require_size(&address, size)
    }

    fn send_parts(
        &self,
        address: &Address,
        upload: &mut dyn MultipartUpload,
        size: u64,
        read: &dyn Fn(u64) -> Result<PutPayload, Error>,
    ) -> Result<(), Error> {
        for at in (0..size).step_by(PART as usize) {
            self.shared.wait(address, upload.put_part(read(at)?))?;
        }
        self.shared.wait(address, upload.complete()).map(drop)
    }

    /// Removes an object.
    ///
    /// # Errors
    /// The store refuses or does not answer.
    pub fn remove(&self, url: &str) -> Result<(), Error> {
        let address = Address::parse(url)?;
        let store = self.shared.store(&address)?;
        self.changed(&address);
        self.shared.wait(&address, store.delete(&address.path))
    }

    fn require_size(&self, address: &Address, sent: u64) -> Result<(), Error> {
        self.changed(address);
        let found = self.shared.version(address)?.size;
        if found == sent { Ok(()) } else { Err(address.error(Fault::Differs { sent, found })) }
    }

    /// What was known of the object's folder is so no more.
    fn changed(&self, address: &Address) {
        lock(&self.shared.folders).remove(&address.folder_and_name().0);
    }
}
