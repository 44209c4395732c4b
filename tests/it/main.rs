//! One test binary: every promise is a module.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bad_input;
mod bench;
mod check;
mod damage;
mod demo;
mod documents;
mod eval;
mod evaluation;
mod faults;
mod fixture;
mod forward;
mod generate;
mod gradients;
#[cfg(feature = "hub")]
mod hub;
mod instructions;
mod interop;
mod journey;
#[cfg(feature = "vulkan")]
mod kernels;
mod memory;
mod merge;
#[cfg(feature = "object-store")]
mod objects;
mod ops;
mod prepare;
mod progress;
mod report;
mod rooms;
mod tensorboard;
mod texts;
mod traces;
#[cfg(feature = "vulkan")]
mod vulkan;
