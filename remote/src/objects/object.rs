//! One open object: ranges of it, put together from blocks that are kept, and from what the store answers.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use object_store::ObjectStoreExt;

use super::client::Address;
use super::{BLOCK, Error, Fault, Key, Shared, TURNS, Version, lock};

/// Most blocks of one request.
const BLOCKS_AT_ONCE: u64 = 8;

/// An open object. Reads on several threads do not disturb each other.
#[derive(Debug)]
pub struct Object {
    pub(super) shared: Arc<Shared>,
    pub(super) address: Address,
    pub(super) version: Version,
    pub(super) keep: bool,
}

impl Object {
    /// Its bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.version.size
    }

    /// Exactly the bytes `offset..offset + length`, which the object must have.
    ///
    /// # Errors
    /// The store refuses or does not answer.
    pub fn read(&self, offset: u64, length: usize) -> Result<Bytes, Error> {
        if length == 0 {
            return Ok(Bytes::new());
        }
        let end = offset + length as u64;
        let blocks = offset / BLOCK..end.div_ceil(BLOCK);
        let first = blocks.start * BLOCK;
        let whole = match blocks.end - blocks.start {
            1 => self.run(blocks)?.0,
            _ => self.join(blocks, length)?,
        };
        Ok(whole.slice((offset - first) as usize..(end - first) as usize))
    }

    fn join(&self, blocks: Range<u64>, length: usize) -> Result<Bytes, Error> {
        let mut bytes = Vec::with_capacity(length + 2 * BLOCK as usize);
        let mut next = blocks.start;
        while next < blocks.end {
            let (run, n) = self.run(next..blocks.end)?;
            bytes.extend_from_slice(&run);
            next += n;
        }
        Ok(bytes.into())
    }

    /// The first block of some, and as many more as come with it in one request; how many those are.
    fn run(&self, blocks: Range<u64>) -> Result<(Bytes, u64), Error> {
        let most = (blocks.end - blocks.start).min(BLOCKS_AT_ONCE);
        if !self.keep {
            return Ok((self.fetch(blocks.start..blocks.start + most)?, most));
        }
        let key = self.key(blocks.start);
        let found = || self.kept(&key).map(|block| (block, 1));
        if let Some(found) = found() {
            return Ok(found);
        }
        let _turn = lock(&self.shared.turns[key.spread() % TURNS]);
        if let Some(found) = found() {
            return Ok(found);
        }
        let is_missing = |block: &u64| self.kept(&self.key(*block)).is_none();
        let n = 1 + (blocks.start + 1..blocks.start + most).take_while(is_missing).count() as u64;
        let bytes = self.fetch(blocks.start..blocks.start + n)?;
        for i in 0..n {
            let from = (i * BLOCK) as usize;
            let block = bytes.slice(from..bytes.len().min(from + BLOCK as usize));
            let key = self.key(blocks.start + i);
            if let Some(cache) = &self.shared.cache {
                cache.put(&key, &block);
            }
            self.shared.note(key, &block);
        }
        Ok((bytes, n))
    }

    fn key(&self, block: u64) -> Key {
        Key::new(&self.address.url, &self.version.name, block)
    }

    fn kept(&self, key: &Key) -> Option<Bytes> {
        if let Some(block) = self.shared.recent(key) {
            return Some(block);
        }
        let block = self.shared.cache.as_ref()?.get(key, BLOCK as usize)?;
        self.shared.note(*key, &block);
        Some(block)
    }

    /// Blocks from the store. An answer that is shorter than it says is asked for again by the client below; one that says
    /// less than it should, here.
    fn fetch(&self, blocks: Range<u64>) -> Result<Bytes, Error> {
        let range = blocks.start * BLOCK..(blocks.end * BLOCK).min(self.version.size);
        let began = Instant::now();
        loop {
            let store = self.shared.store(&self.address)?;
            let bytes = self.shared.wait(&self.address, store.get_range(&self.address.path, range.clone()))?;
            if bytes.len() as u64 == range.end - range.start {
                return Ok(bytes);
            }
            if began.elapsed() > self.shared.patience() {
                let reason = "the store answers other ranges than it is asked for".to_owned();
                return Err(self.address.error(Fault::Unreachable { reason, waited: began.elapsed() }));
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    }
}
