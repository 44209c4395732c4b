//! What a rank trains with, as hashes: ranks that differ in any of it must not train together.
//! It never reads everything: a base is known by its shapes and small tensors.

use lora::base::Base;

use crate::collective::Identity;
use crate::config::Config;
use crate::error::Error;
use crate::optimizer::AdamW;

/// Tensors of the base up to this size are hashed: the norms and biases, which every training of a base changes.
const SMALL_TENSOR: u64 = 64 << 10;

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
