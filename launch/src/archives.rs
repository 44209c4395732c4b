//! The archives of a hub's data set for `prepare`, one at a time: each is downloaded when its turn comes, and removed when
//! its rows are in finished shards. It never removes what was in the cache before.

use std::io;
use std::path::PathBuf;

use data::{Fetch, Unreachable};
use remote::hub::Wanted;

use crate::say;

/// How many lie in the cache at a time: the one that is read, the next one, and one whose last rows are in no finished
/// shard yet.
const AT_A_TIME: usize = 3;

/// JSON rows and their archives.
#[derive(Debug)]
pub struct Archives {
    wanted: Wanted,
    /// Places of the archives among the files, in the order in which they are read.
    order: Vec<usize>,
}

impl Archives {
    /// Of files whose first is the JSON.
    pub fn new(wanted: Wanted) -> Self {
        let names: Vec<&str> = wanted.names().collect();
        let mut order: Vec<usize> = (1..names.len()).collect();
        order.sort_by_cached_key(|&at| data::numbered(names[at]));
        Self { wanted, order }
    }

    /// Bytes of all archives.
    pub fn all_bytes(&self) -> u64 {
        self.order.iter().map(|&at| self.wanted.size(at)).sum()
    }

    /// Most bytes that are in the cache at a time, the JSON left out.
    pub fn bytes_at_a_time(&self) -> u64 {
        let mut bytes: Vec<u64> = self.order.iter().map(|&at| self.wanted.size(at)).collect();
        bytes.sort_unstable_by(|a, b| b.cmp(a));
        bytes.iter().take(AT_A_TIME).sum()
    }

    /// The JSON's path, once it is here; refuses a cache that has no room for what is to come.
    ///
    /// # Errors
    /// Too little space, no access, or bytes that are not the hub's.
    pub fn json(&self) -> Result<PathBuf, remote::hub::Error> {
        let archives: u64 = self.order.iter().map(|&at| self.wanted.missing(at)).sum();
        self.wanted.require_space(self.wanted.missing(0) + archives.min(self.bytes_at_a_time()))?;
        self.wanted.fetch_one(0)
    }
}

impl Fetch for Archives {
    fn file(&self, at: usize) -> (PathBuf, u64) {
        (self.wanted.path(self.order[at]), self.wanted.size(self.order[at]))
    }

    fn n_files(&self) -> usize {
        self.order.len()
    }

    fn have(&self, at: usize) -> u64 {
        self.wanted.size(self.order[at]) - self.wanted.missing(self.order[at])
    }

    fn fetch(&self, at: usize) -> io::Result<()> {
        let fetched = self.wanted.borrow(self.order[at]);
        fetched.map(drop).map_err(|error| io::Error::other(Unreachable(error.to_string())))
    }

    fn release(&self, at: usize) {
        // It costs room and nothing else.
        if let Err(error) = self.wanted.give_back(self.order[at]) {
            say(&error.to_string());
        }
    }
}
