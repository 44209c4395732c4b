//! `ecg-train merge`: base + adapter -> one model folder that transformers loads.
//! It never changes base or adapter; the arithmetic is `lora::merge`'s.

mod card;
mod verify;

use lora::{MergeOptions, Rounding};

use crate::cli::{self, Dtype, MergeArgs};
use crate::{Error, places, say};

/// Merges and says what became of the adapter.
///
/// # Errors
/// Folders that do not fit each other, or one that cannot be written; nothing is visible then.
pub fn run(args: &MergeArgs) -> Result<(), Error> {
    let dtype = args.dtype.map(|dtype| match dtype {
        Dtype::Bf16 => lora::Dtype::Bf16,
        Dtype::F32 => lora::Dtype::F32,
    });
    let rounding = match args.rounding {
        cli::Rounding::Once => Rounding::Once,
        cli::Rounding::Peft => Rounding::Peft,
    };
    let options = MergeOptions { dtype, max_shard_bytes: args.shard_size, rounding };
    let (base, adapter) = (places::model(&args.base)?, places::adapter(&args.adapter)?);
    let report = lora::merge(&base, &adapter, &args.out, options, &|report| card::text(&adapter, report))?;
    if !report.base_is_the_adapters {
        let adapter = adapter.display();
        say(&format!("note: {adapter} does not say which base it was trained on, so that was not compared"));
    }
    say(&format!("{report}"));
    if args.verify {
        say(&verify::run(&base, &adapter, &args.out, args.image.as_deref())?);
    }
    say(&format!("merged model: {}", args.out.display()));
    Ok(())
}
