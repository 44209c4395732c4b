//! What a rank trains with, as hashes: ranks that differ in any of it must not train together.
//! It never reads everything: a data set is known by its size and rows spread over it, a base by its shapes and small tensors.

use data::Dataset;
use lora::base::Base;

use crate::collective::Identity;
use crate::config::Config;
use crate::error::Error;
use crate::optimizer::AdamW;

/// Rows of a data set that are looked at.
const N_ROWS: usize = 16;
/// Tensors of the base up to this size are hashed: the norms and biases, which every training of a base changes.
const SMALL_TENSOR: u64 = 64 << 10;

/// The identity of a rank that is about to make the step after `step`.
pub(crate) fn of(
    program: blake3::Hash,
    config: &Config,
    dataset: &Dataset,
    base: blake3::Hash,
    step: u64,
    optim: &AdamW,
) -> Identity {
    Identity {
        program,
        config: blake3::hash(config.fingerprint().as_bytes()),
        rows: of_rows(dataset),
        base,
        start: blake3::hash(format!("{step} {}", optim.digest()).as_bytes()),
    }
}

fn of_rows(dataset: &Dataset) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(dataset.len() as u64).to_le_bytes());
    for row in (0..N_ROWS.min(dataset.len())).map(|i| i * dataset.len() / N_ROWS.min(dataset.len())) {
        // A row that cannot be read is refused when it is trained on; here it only has to be the same everywhere.
        match dataset.row(row) {
            Ok(row) => {
                hasher.update(row.id.as_bytes()).update(&row.image).update(format!("{:?}", row.messages).as_bytes())
            }
            Err(_) => hasher.update(b"unreadable"),
        };
    }
    hasher.finalize()
}

/// Of an open base.
pub(crate) fn of_base(base: &Base) -> Result<blake3::Hash, Error> {
    let mut hasher = blake3::Hasher::new();
    for (name, info) in base.tensors() {
        hasher.update(format!("{name} {:?} {:?}", info.dtype, info.shape).as_bytes());
        if info.offsets.end - info.offsets.start <= SMALL_TENSOR {
            hasher.update(&base.read_bytes(name)?);
        }
    }
    Ok(hasher.finalize())
}
