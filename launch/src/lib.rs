//! The commands of `ecg-train`: owns processes, signals and the terminal.
//! It never touches a tensor; what is computed is computed in `trainer`, `model`, `data` and `lora`.

use std::io::Write;

#[cfg(feature = "hub")]
mod archives;
mod attempt;
mod bench;
mod budget;
mod check;
pub mod cli;
pub mod cluster;
mod control;
mod demo;
mod environment;
mod error;
mod eval;
mod event_log;
mod generate;
mod machine;
mod merge;
mod places;
mod prepare;
mod progress;
mod push;
mod report;
mod requests;
mod run_folder;
mod shell;
mod stores;
mod supervisor;
mod together;
mod watch;
mod worker;
mod workers;

pub use error::{Error, describe};

use cli::{Cli, Command};

/// How a command ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Everything that was asked for is done.
    Done,
    /// Stopped on request; the same command goes on from the checkpoint.
    Stopped,
}

impl Outcome {
    /// The documented exit code: 0, or 75 (`EX_TEMPFAIL`: requeue me).
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Stopped => error::STOPPED,
        }
    }
}

/// Runs one command.
///
/// # Errors
/// What the command met; [`Error::exit_code`] is the program's exit code then.
pub fn run(cli: Cli) -> Result<Outcome, Error> {
    match cli.command {
        Command::Demo(args) => demo::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Prepare(args) => prepare::run(&args),
        Command::Launch(args) => supervisor::launch(&args),
        Command::Merge(args) => merge::run(&args).map(|()| Outcome::Done),
        Command::Generate(args) => generate::run(&args).map(|()| Outcome::Done),
        Command::Eval(args) => eval::run(&args).map(|()| Outcome::Done),
        Command::Report(args) => report::run(&args).map(|()| Outcome::Done),
        Command::Push(args) => push::run(&args).map(|()| Outcome::Done),
        Command::Bench(args) => bench::run(&args).map(|()| Outcome::Done),
        Command::Worker(args) => worker::run(&args),
        Command::Completions { shell } => {
            shell::completions(shell);
            Ok(Outcome::Done)
        }
        Command::Man(args) => shell::man(&args).map(|()| Outcome::Done),
    }
}

/// A panic tells its place and nothing else: its message could hold a row's text.
pub fn say_only_where_it_panicked() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
        say(&format!("a thread panicked at {place}"));
    }));
}

/// Ends the process without what libraries do at its end, which may wait for a GPU for ever.
pub fn leave(exit_code: u8) -> ! {
    signal_hook::low_level::exit(exit_code.into())
}

/// Writes a line for the user to stderr. A closed terminal must not end a run, so failure is ignored.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// `1 error`, `2 errors`.
fn counted(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

/// Writes a command's result to stdout; a reader that has gone away is no error.
fn print(bytes: &[u8]) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(bytes).and_then(|()| stdout.flush());
}
