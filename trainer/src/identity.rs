//! What a rank trains with, as hashes: ranks that differ in any of it must not train together.
//! It never reads anything itself: rows and base are known by hashes that were made when they were opened.

use crate::collective::Identity;
use crate::config::Config;
use crate::held_out::HeldOut;
use crate::optimizer::AdamW;

/// Of the rows to train on and those that are held out, if there are any.
pub(crate) fn of_rows(train: blake3::Hash, held_out: Option<&HeldOut>) -> blake3::Hash {
    held_out.map_or(train, |held_out| blake3::hash(&[*train.as_bytes(), *held_out.id().as_bytes()].concat()))
}

/// The identity of a rank that is about to make the step after `step`.
pub(crate) fn of(
    program: blake3::Hash,
    config: &Config,
    rows: blake3::Hash,
    base: blake3::Hash,
    step: u64,
    optim: &AdamW,
) -> Identity {
    Identity {
        program,
        config: blake3::hash(config.fingerprint().as_bytes()),
        rows,
        base,
        start: blake3::hash(format!("{step} {}", optim.digest()).as_bytes()),
    }
}
