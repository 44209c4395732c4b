//! The mathematics of MedGemma: Gemma 3 decoder, SigLIP tower, projector, LoRA and loss, forward and hand-written
//! backward over a small set of operations ([`Ops`]). It never reads a data set, starts a process or knows of ranks.
//!
//! Shapes in names: `b` rows of a batch, `d` hidden width, `h` heads, `t` tokens of all rows, packed without padding, `i`
//! intermediate width, `r` LoRA rank, `v` vocabulary. Every tensor is a matrix: rows are tokens, columns are features.

mod attention;
mod cache;
pub mod config;
pub mod engine;
mod error;
pub mod gemma3;
pub mod generate;
mod generation_config;
mod input;
mod load;
pub mod lora_linear;
pub mod loss;
mod mask;
mod medgemma;
pub mod memory;
pub mod mlp;
mod next;
pub mod ops;
pub mod parts;
pub mod projector;
mod rope;
mod sample;
pub mod siglip;
mod sums;
mod vector;

pub use config::ModelConfig;
pub use error::Error;
pub use generation_config::GenerationConfig;
pub use input::Input;
pub use loss::LossNorm;
pub use medgemma::{Checkpointing, MedGemma, Seen};
pub use ops::{Ops, Place};
pub use sample::Sampling;
pub use sums::{Stat, StepSums, Sums, TokenAccuracy};
pub use vector::vectorised;
