//! `ecg-train launch`: starts the workers of a run, watches them, and ends all of them when one is lost.
//! It never computes, and nobody outlives it: workers read the end of their control pipe as the end of the job.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use rustix::rand::{GetRandomFlags, getrandom};
use signal_hook::consts::{SIGINT, SIGKILL, SIGTERM};
use signal_hook::iterator::Signals;
use trainer::Event;

use crate::cli::LaunchArgs;
use crate::control::{Job, Order, Report};
use crate::progress::Progress;
use crate::workers::{Notice, Workers, tail};
use crate::{Error, Outcome, error, run_folder, say};

/// How often workers are looked at when they say nothing.
const TICK: Duration = Duration::from_millis(50);
/// How long workers may take to end by themselves once the job has failed.
const GRACE: Duration = Duration::from_secs(3);

/// Runs a training job on this machine to its end.
///
/// # Errors
/// A config that cannot run (before any process is started), or the failure of the first worker that failed by itself.
pub fn launch(args: &LaunchArgs) -> Result<Outcome, Error> {
    if args.gpus.is_some() && !cfg!(feature = "cuda") {
        return Err(Error::NoCuda);
    }
    let n_workers = args.gpus.or(args.cpus).unwrap_or(1);
    let (config, places) = run_folder::load(&args.config, &args.run)?;
    config.train.require_work_for(n_workers as usize).map_err(trainer::Error::from)?;
    run_folder::without_effect(&config).iter().for_each(|text| say(&format!("warning: {text}")));
    let resolved = run_folder::open(&config, args.run.from_scratch)?;

    let (notify, notices) = mpsc::channel();
    forward_signals(&notify)?;
    let mut workers = Workers::start(n_workers, &config.output_dir.join("logs"), &notify)?;
    let job_key = new_job_key()?;
    for rank in workers.ranks() {
        let job = Job {
            job_key,
            config: resolved.clone(),
            places: places.clone(),
            from_scratch: args.run.from_scratch,
            gpu: args.gpus.is_some(),
        };
        workers.send(rank, &Order::Start(job));
    }
    Supervisor::new(workers, Progress::new(&config)).watch(&notices)
}

/// A failed worker: what to tell the user, and whether it failed only because another one was gone.
struct Failure {
    rank: u32,
    error: Error,
    lost_a_peer: bool,
}

struct Supervisor {
    workers: Workers,
    progress: Progress,
    /// In the order in which they were heard of.
    failures: Vec<Failure>,
    /// Since when the workers are being ended because one failed.
    ending: Option<Instant>,
    /// A signal asked this process to stop.
    stop_asked: bool,
    /// The workers were killed: by a second Ctrl-C, or because they did not end within [`GRACE`].
    killed: bool,
    /// At least one worker ended before its last step because it was asked to.
    stopped: bool,
}

impl Supervisor {
    fn new(workers: Workers, progress: Progress) -> Self {
        Self { workers, progress, failures: Vec::new(), ending: None, stop_asked: false, killed: false, stopped: false }
    }

    /// Hears everything until no worker is left; then says how the job ended.
    fn watch(mut self, notices: &Receiver<Notice>) -> Result<Outcome, Error> {
        while !self.workers.all_ended() {
            match notices.recv_timeout(TICK) {
                Ok(Notice::Report { rank, report }) => self.on_report(rank, report),
                Ok(Notice::Silent { rank }) => self.workers.note_silent(rank),
                Ok(Notice::Signal(signal)) => self.on_signal(signal),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
            for (rank, status) in self.workers.newly_ended()? {
                self.on_end(rank, status);
            }
            if !self.killed && self.ending.is_some_and(|since| since.elapsed() > GRACE) {
                self.kill();
            }
        }
        self.verdict()
    }

    fn on_report(&mut self, rank: u32, report: Report) {
        match report {
            Report::Event(Event::Listening(endpoint)) => {
                for other in self.workers.ranks().filter(|other| *other != rank) {
                    self.workers.send(other, &Order::Endpoint(endpoint));
                }
            }
            Report::Event(event) => self.progress.on_event(rank, &event),
            Report::Failed { exit_code, message } => {
                let log = self.workers.log(rank).to_owned();
                let error = Error::Worker { rank, exit_code, log, message };
                self.fail(Failure { rank, error, lost_a_peer: exit_code == error::LOST });
            }
        }
    }

    /// The first signal asks for a checkpoint; Ctrl-C after it does not wait for one.
    fn on_signal(&mut self, signal: i32) {
        if !self.stop_asked {
            self.stop_asked = true;
            self.progress.note("stopping after a checkpoint; Ctrl-C again ends at once");
            self.workers.signal(Signal::TERM);
        } else if signal == SIGINT {
            self.stopped = true;
            self.kill();
        }
    }

    fn on_end(&mut self, rank: u32, status: ExitStatus) {
        let how = match (status.code(), status.signal()) {
            (Some(0), _) => return,
            (Some(code), _) if code == i32::from(error::STOPPED) => return self.stopped = true,
            (Some(_), _) if self.failures.iter().any(|failure| failure.rank == rank) => return,
            (Some(101), _) => "panicked; this is a defect of ecg-train, please report it".to_owned(),
            (Some(code), _) => format!("ended with code {code} without a word"),
            (None, Some(SIGKILL)) if self.killed => return,
            (None, Some(SIGTERM)) if self.ending.is_some() => return,
            (None, Some(SIGTERM)) if self.stop_asked => return self.stopped = true,
            (None, signal) => died_by(signal.unwrap_or_default()),
        };
        let log = self.workers.log(rank).to_owned();
        let error = Error::Lost { rank, how, tail: tail(&log), log };
        self.fail(Failure { rank, error, lost_a_peer: false });
    }

    /// Remembers why a worker failed and ends the others: without it they would wait for ever.
    fn fail(&mut self, failure: Failure) {
        if self.killed {
            return; // What a worker says while the others are being killed is no cause of anything.
        }
        self.failures.push(failure);
        if self.ending.is_none() {
            self.ending = Some(Instant::now());
            self.workers.signal(Signal::TERM);
        }
    }

    fn kill(&mut self) {
        self.killed = true;
        self.workers.signal(Signal::KILL);
    }

    /// What the job came to. A rank that only missed its peer is not to blame where another one failed by itself.
    fn verdict(mut self) -> Result<Outcome, Error> {
        if !self.failures.is_empty() {
            self.progress.close();
            let to_blame = self.failures.iter().position(|failure| !failure.lost_a_peer).unwrap_or(0);
            return Err(self.failures.swap_remove(to_blame).error);
        }
        let outcome = if self.stopped { Outcome::Stopped } else { Outcome::Done };
        self.progress.summary(outcome);
        Ok(outcome)
    }
}

fn died_by(signal: i32) -> String {
    let name = signal_hook::low_level::signal_name(signal).unwrap_or("a signal without a name");
    let hint = if signal == SIGKILL { "; the system kills so when memory runs out" } else { "" };
    format!("was killed by {name} ({signal}){hint}")
}

/// SIGINT and SIGTERM become notices, so that one loop hears everything.
fn forward_signals(notify: &Sender<Notice>) -> Result<(), Error> {
    let failed = |source| Error::Process { what: "the signal handler", source };
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(failed)?;
    let notify = notify.clone();
    thread::spawn(move || signals.forever().all(|signal| notify.send(Notice::Signal(signal)).is_ok()));
    Ok(())
}

/// Thirty-two bytes that nobody can guess: a connection without them does not belong to the job.
fn new_job_key() -> Result<[u8; 32], Error> {
    let failed = |source| Error::Process { what: "the system's random numbers", source };
    let mut key = [0; 32];
    let n = getrandom(&mut key[..], GetRandomFlags::empty()).map_err(|errno| failed(errno.into()))?;
    if n < key.len() {
        return Err(failed(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(key)
}

#[cfg(test)]
mod tests;
