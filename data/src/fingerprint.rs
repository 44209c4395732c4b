//! What a data set is known by: ranks, and a run and its continuation, train on the same rows if its hashes are equal.
//! It never depends on where files lie, and never reads more than footers, manifests, texts and a few pages.

use crate::dataset::Part;
use crate::{Dataset, Manifest};

/// Rows that are read and hashed where no manifest vouches for them.
const N_ROWS: usize = 16;

impl Dataset {
    /// Hash of what the rows are and of their order.
    ///
    /// Of a prepared folder it covers every byte, through the hashes in its manifest. Of parquet files it covers size and
    /// footer (schema, numbers, sizes and bounds of every column chunk), of JSON files every byte of text; of the pages
    /// of both, those of a few rows spread over the set. Rows left out by `include` or as bad rows count, too.
    #[must_use]
    pub fn fingerprint(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&(self.len() as u64).to_le_bytes());
        for part in self.parts() {
            hasher.update(part.fingerprint().as_bytes());
        }
        for row in self.kept().unwrap_or_default() {
            hasher.update(&row.to_le_bytes());
        }
        let n_rows = if self.is_prepared() { 0 } else { N_ROWS.min(self.len()) };
        for row in (0..n_rows).map(|i| i * self.len() / n_rows) {
            // A row that cannot be read is refused when it is trained on; here it only has to be the same everywhere.
            match self.row(row) {
                Ok(row) => {
                    hasher.update(blake3::hash(&row.image).as_bytes()).update(format!("{:?}", row.messages).as_bytes())
                }
                Err(_) => hasher.update(b"unreadable"),
            };
        }
        hasher.finalize()
    }
}

impl Part {
    fn fingerprint(&self) -> blake3::Hash {
        match self {
            Self::Parquet(file) => file.fingerprint(),
            Self::Json(file) => file.fingerprint(),
            Self::Prepared(prepared) => prepared.manifest().fingerprint(),
        }
    }
}

impl Manifest {
    /// Of the prepared rows, not of where they came from.
    fn fingerprint(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        for shard in &self.shards {
            hasher.update(format!("{} {}\n", shard.rows, shard.blake3).as_bytes());
        }
        if let (false, Some(index)) = (self.in_source_order, &self.index) {
            hasher.update(format!("ordered by {}\n", index.blake3).as_bytes());
        }
        hasher.finalize()
    }
}

#[cfg(test)]
mod tests;
