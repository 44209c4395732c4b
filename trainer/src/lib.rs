//! One rank: resume, then loop over the training step.

pub mod config;
pub mod optimizer;
pub mod schedule;
