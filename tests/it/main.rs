//! One test binary: every promise is a module.

mod bad_input;
mod demo;
mod fixture;
mod forward;
mod gradients;
mod journey;
mod ops;
mod rooms;
mod traces;
