//! One test binary: every promise is a module.

mod fixture;
mod forward;
mod gradients;
mod journey;
mod ops;
mod traces;
