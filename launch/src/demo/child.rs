//! The commands that the demo runs: this program again, one at a time, shown as a user would type them.
//! It never leaves a child running when the demo is asked to stop.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::{Error, environment, error, say};

const TICK: Duration = Duration::from_millis(50);

/// Runs children and stops them with the demo.
pub struct Children {
    stop: Arc<AtomicBool>,
}

impl Children {
    /// From now on SIGINT and SIGTERM end the running child first.
    pub fn new() -> Result<Self, Error> {
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, stop.clone())
                .map_err(|source| Error::Process { what: "the signal handler", source })?;
        }
        Ok(Self { stop })
    }

    /// Runs one command of `ecg-train` to its end; returns how long it took. If it fails, it has said why.
    pub fn run(&mut self, command: &str, options: &[(&str, &dyn AsRef<OsStr>)]) -> Result<Duration, Error> {
        let mut shown = format!("ecg-train {command}");
        for (name, value) in options {
            let value = value.as_ref().to_string_lossy();
            let _ =
                if value.contains(' ') { write!(shown, " {name} {value:?}") } else { write!(shown, " {name} {value}") };
        }
        say(&format!("\n$ {shown}"));
        let args = options.iter().flat_map(|(name, value)| [OsStr::new(name), value.as_ref()]);
        let mut child = Command::new(environment::this_program()?);
        self.wait(child.arg(command).args(args), shown)
    }

    fn wait(&self, command: &mut Command, shown: String) -> Result<Duration, Error> {
        let failed = |source| Error::Process { what: "a command of the demo", source };
        let begun = Instant::now();
        let mut child = command.spawn().map_err(failed)?;
        let mut told = false;
        let status = loop {
            if let Some(status) = child.try_wait().map_err(failed)? {
                break status;
            }
            if self.stop.load(Ordering::Relaxed) && !told {
                told = true;
                // Ctrl-C has reached the child already, a SIGTERM to the demo alone has not; a second signal of this
                // kind does no harm.
                if let Some(pid) = Pid::from_raw(child.id().cast_signed()) {
                    let _ = kill_process(pid, Signal::TERM);
                }
            }
            thread::sleep(TICK);
        };
        match status.code() {
            _ if self.stop.load(Ordering::Relaxed) => Err(Error::DemoStopped),
            Some(0) => Ok(begun.elapsed()),
            code => {
                let exit_code = code.and_then(|code| u8::try_from(code).ok()).unwrap_or(error::LOST);
                Err(Error::Step { command: shown, exit_code })
            }
        }
    }
}
