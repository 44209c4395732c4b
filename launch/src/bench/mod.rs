//! `ecg-train bench`: honest figures of this program on this machine, each with what it was measured on.
//! It reads and writes no file of a user's.

mod allreduce;
mod data;
mod flop;
mod gemm;
mod generate;
mod merge;
mod open;
mod peak;
mod process;
mod reference;
mod step;

use crate::Error;
use crate::cli::{Bench, BenchArgs};

/// Measures what was asked for and prints it.
///
/// # Errors
/// A configuration that cannot be run, or a measuring process that fails.
pub fn run(args: &BenchArgs) -> Result<(), Error> {
    match &args.what {
        Bench::Step(args) => step::run(args),
        Bench::Data(args) => data::run(args),
        Bench::Gemm(args) => gemm::run(args),
        Bench::Allreduce(args) => allreduce::run(args),
        Bench::Open(args) => open::run(args),
        Bench::Merge(args) => merge::run(args),
        Bench::Generate(args) => {
            generate::run(args);
            Ok(())
        }
    }
}
