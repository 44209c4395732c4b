//! Whom and what to name when a step is refused: the rows where numbers were not finite, the ranks whose digests differ.
//! The answer is the same on every rank, and for every number of ranks.

use std::collections::BTreeMap;

use crate::collective::{self, Ranks};

/// Most rows that are named, and most bytes of an id: a line of the journal is bounded.
const MAX_ROWS: usize = 64;
const MAX_ID_BYTES: usize = 256;

/// Row ids by micro-batch of the step.
#[derive(Debug, Default)]
pub(crate) struct Refused(BTreeMap<u64, Vec<String>>);

impl Refused {
    /// Notes the rows of a micro-batch.
    pub fn add(&mut self, micro_batch: u64, rows: &[String]) {
        let short = |id: &String| id[..id.floor_char_boundary(MAX_ID_BYTES)].to_owned();
        self.0.insert(micro_batch, rows.iter().take(MAX_ROWS).map(short).collect());
    }

    /// The rows of all ranks, in the order of their micro-batches.
    pub fn of_all(&self, ranks: &mut Ranks) -> Result<Vec<String>, collective::Error> {
        let mine = serde_json::to_vec(&self.0).expect("numbers and texts are JSON");
        let mut all: BTreeMap<u64, Vec<String>> = BTreeMap::new();
        for bytes in ranks.all_gather_bytes(&mine)? {
            // A rank that does not say its rows has still made all refuse the step.
            all.extend(serde_json::from_slice::<BTreeMap<u64, Vec<String>>>(&bytes).unwrap_or_default());
        }
        let mut rows: Vec<String> = all.into_values().flatten().collect();
        rows.truncate(MAX_ROWS);
        Ok(rows)
    }
}

/// Ranks whose digest is not that of more than half of all; every rank where there is no such half; none if all are equal.
pub(crate) fn suspects(digests: &[Vec<u8>]) -> Vec<usize> {
    let n_like = |digest: &Vec<u8>| digests.iter().filter(|other| *other == digest).count();
    let right = digests.iter().find(|digest| 2 * n_like(digest) > digests.len());
    (0..digests.len()).filter(|&rank| right != Some(&digests[rank])).collect()
}

#[cfg(test)]
mod tests;
