//! What is trained, as names and files: which linears, where each adapter lies, PEFT's files, tensor names, the base, the merge.
//! It never computes a forward pass, and never skips a key in silence: what does not fit is an error that lists all of it.

mod adapter;
pub mod base;
mod config;
mod dtype;
mod error;
#[cfg(test)]
mod fixtures;
mod init;
mod layout;
mod merge;
pub mod names;
mod shard;
mod targets;

pub use adapter::{Adapter, read_adapter, write_adapter};
pub use config::AdapterConfig;
pub use dtype::Dtype;
pub use error::Error;
pub use init::init;
pub use layout::{Layout, Module};
pub use merge::{Change, MergeOptions, MergeReport, Rounding, merge, shards, write_random_adapter, write_random_base};
pub use targets::{Targets, all_linear, suffixes};

type Result<T> = std::result::Result<T, Error>;
