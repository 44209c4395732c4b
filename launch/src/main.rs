//! The program `ecg-train`: parses the command line, runs it, and turns the outcome into a message and an exit code.
//! It never does any work itself.

use std::process::ExitCode;

use clap::Parser;
use launch::cli::Cli;

fn main() -> ExitCode {
    launch::say_only_where_it_panicked();
    match launch::run(Cli::parse()) {
        Ok(outcome) => ExitCode::from(outcome.exit_code()),
        Err(error) => {
            launch::say(&launch::describe(&error));
            if error.leaves_at_once() {
                launch::leave(error.exit_code());
            }
            ExitCode::from(error.exit_code())
        }
    }
}
