//! Requests to stop, from signals and from the file `stop` in the run folder. It never decides what follows.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

use crate::{Error, say};

/// Between two looks for the stop file, which may lie on a slow file system.
const FILE_TICK: Duration = Duration::from_millis(500);

/// Where requests arrive.
pub struct Requests {
    signals: Signals,
    file: PathBuf,
    last_look: Instant,
    /// The first one, in words.
    asked: Option<String>,
}

/// What has just arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// The first one: stop, with a checkpoint if one is near.
    Stop,
    /// Ctrl-C after that: do not wait for anything.
    AtOnce,
}

impl Requests {
    /// Listens from now on. A stop file that is there already has been answered by an earlier run, or meant it.
    ///
    /// # Errors
    /// The system gives no signals, or the old stop file cannot be removed.
    pub fn listen(run_dir: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Process { what: "the signal handler", source };
        let signals = Signals::new([SIGINT, SIGTERM, SIGUSR1]).map_err(failed)?;
        let requests = Self { signals, file: run_dir.join("stop"), last_look: Instant::now(), asked: None };
        if requests.clear_file()? {
            say(&format!("{} of an earlier run is removed", requests.file.display()));
        }
        Ok(requests)
    }

    /// The next request, if there is one. Signals that only repeat the first one are none: the save they could
    /// disturb is under way.
    pub fn next(&mut self) -> Option<Request> {
        for signal in self.signals.pending() {
            let name = signal_hook::low_level::signal_name(signal).unwrap_or("a signal");
            match &self.asked {
                None => {
                    self.asked = Some(name.to_owned());
                    return Some(Request::Stop);
                }
                Some(_) if signal == SIGINT => return Some(Request::AtOnce),
                Some(_) => {}
            }
        }
        if self.asked.is_some() || self.last_look.elapsed() < FILE_TICK {
            return None;
        }
        self.last_look = Instant::now();
        if self.file.exists() {
            self.asked = Some(self.file.display().to_string());
            return Some(Request::Stop);
        }
        None
    }

    /// Who asked, once somebody has.
    pub fn asked(&self) -> Option<&str> {
        self.asked.as_deref()
    }

    /// Removes the stop file: one request is answered once. Returns whether it was there.
    ///
    /// # Errors
    /// It is there and stays.
    pub fn clear_file(&self) -> Result<bool, Error> {
        match fs::remove_file(&self.file) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Error::file(&self.file, "remove")(error)),
        }
    }
}
