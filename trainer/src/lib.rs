//! One rank: resume, then loop over the training step.

pub mod collective;
pub mod config;
pub mod optimizer;
pub mod schedule;
