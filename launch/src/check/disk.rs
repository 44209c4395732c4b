//! What a run will write, beside what its disk has: checkpoints, and the merged model after it.

use std::path::Path;

use indicatif::DecimalBytes;
use trainer::checkpoint;

use super::{Finding, Subject};

/// Of a checkpoint, for each trained number: the number itself and two moments, in f32.
const BYTES_A_NUMBER: u64 = 12;
const MB: u64 = 1_000_000;

/// All checkpoints that are kept, one more while it is made, and an export.
pub(super) fn check(subject: &mut Subject) -> Vec<Finding> {
    let (Some(config), Some(n_trainable)) = (&subject.config, subject.n_trainable) else { return Vec::new() };
    let dir = config.output_dir.ancestors().find(|dir| dir.is_dir()).unwrap_or(Path::new("."));
    let free = match storage::free_bytes(dir) {
        Ok(free) => free,
        Err(error) => return vec![Finding::error(error)],
    };
    let one = n_trainable as u64 * BYTES_A_NUMBER;
    let (n, shown) = (config.checkpoint.keep as u64 + 1, config.output_dir.display());
    if free < one {
        let (dir, need, free) = (config.output_dir.clone(), one.div_ceil(MB), free / MB);
        return vec![Finding::error(trainer::Error::from(checkpoint::Error::NoRoom { dir, need, free }))];
    }
    let room = format!("{} free at {shown}", DecimalBytes(free));
    let mut found = vec![match free < n * one {
        false => Finding::ok(format!("{n} checkpoints of {} at most; {room}", DecimalBytes(one))),
        true => Finding::warning(
            format!("{n} checkpoints of {} do not fit: {room}", DecimalBytes(one)),
            "a smaller checkpoint.keep, or another output_dir",
        ),
    }];
    if let Some(base) = subject.base_bytes
        && free < base + n * one
    {
        let what = format!("a merged model of {} will not fit beside them: {room}", DecimalBytes(base));
        found.push(Finding::warning(what, "give `merge --out` a folder on another disk"));
    }
    found
}
