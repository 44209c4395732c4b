//! The worker processes of one job on this machine: starts them, hears them, signals them, sees them end.
//! It never judges: what an end means is the supervisor's business. Dropped, it leaves no process behind.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::Sender;
use std::thread;

use rustix::process::{Pid, Signal, kill_process};

use crate::control::{self, Order, Report};
use crate::{Error, environment};

/// How much of the end of a log is looked at, in bytes, and shown, in lines.
const TAIL_BYTES: u64 = 8192;
const TAIL_LINES: usize = 8;

/// Something that the supervisor has to hear.
#[derive(Debug)]
pub enum Notice {
    /// A worker said something.
    Report {
        /// Which worker.
        rank: u32,
        /// What it said.
        report: Report,
    },
    /// A worker's stdout ended: nothing more will be heard from it.
    Silent {
        /// Which worker.
        rank: u32,
    },
    /// A signal to this process.
    Signal(i32),
}

/// All workers of the job, by rank.
pub struct Workers(Vec<Worker>);

struct Worker {
    child: Child,
    orders: ChildStdin,
    log: PathBuf,
    silent: bool,
    ended: bool,
}

impl Workers {
    /// Starts `n_workers` copies of this program as ranks 0, 1, ...; their logs go to `logs`/rank-R.log.
    /// What they say arrives at `notices`.
    ///
    /// # Errors
    /// A process or a log that cannot be started; those already started are ended.
    pub fn start(n_workers: u32, logs: &Path, notices: &Sender<Notice>) -> Result<Self, Error> {
        std::fs::create_dir_all(logs).map_err(Error::file(logs, "create"))?;
        let mut workers = Self(Vec::new());
        for rank in 0..n_workers {
            workers.0.push(start_worker(rank, n_workers, logs, notices)?);
        }
        Ok(workers)
    }

    /// Sends an order. A worker that is gone cannot read it; its end is noticed elsewhere.
    pub fn send(&mut self, rank: u32, order: &Order) {
        if let Some(worker) = self.0.get_mut(rank as usize) {
            let _ = control::send(&mut worker.orders, order);
        }
    }

    /// All ranks.
    pub fn ranks(&self) -> std::ops::Range<u32> {
        0..self.0.len() as u32
    }

    /// Notes that nothing more will be heard from a worker.
    pub fn note_silent(&mut self, rank: u32) {
        if let Some(worker) = self.0.get_mut(rank as usize) {
            worker.silent = true;
        }
    }

    /// Signals every worker that has not ended.
    pub fn signal(&self, signal: Signal) {
        for worker in self.0.iter().filter(|worker| !worker.ended) {
            // The process is not yet waited for, so its id cannot belong to another one.
            if let Some(pid) = Pid::from_raw(worker.child.id().cast_signed()) {
                let _ = kill_process(pid, signal); // It may just have ended by itself.
            }
        }
    }

    /// Workers that have ended since the last call, each heard to its last word.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn newly_ended(&mut self) -> Result<Vec<(u32, ExitStatus)>, Error> {
        let mut ended = Vec::new();
        for (rank, worker) in (0..).zip(&mut self.0).filter(|(_, worker)| worker.silent && !worker.ended) {
            let status = worker.child.try_wait().map_err(|source| Error::Process { what: "a worker", source })?;
            if let Some(status) = status {
                worker.ended = true;
                ended.push((rank, status));
            }
        }
        Ok(ended)
    }

    /// Whether every worker has ended.
    pub fn all_ended(&self) -> bool {
        self.0.iter().all(|worker| worker.ended)
    }

    /// The log file of a worker.
    pub fn log(&self, rank: u32) -> &Path {
        self.0.get(rank as usize).map_or(Path::new(""), |worker| &worker.log)
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        for worker in self.0.iter_mut().filter(|worker| !worker.ended) {
            let _ = worker.child.wait();
        }
    }
}

fn start_worker(rank: u32, n_workers: u32, logs: &Path, notices: &Sender<Notice>) -> Result<Worker, Error> {
    let path = logs.join(format!("rank-{rank}.log"));
    let log = OpenOptions::new().create(true).append(true).open(&path).map_err(Error::file(&path, "open"))?;
    let failed = |source| Error::Process { what: "a worker", source };
    let n_threads = environment::threads_per_worker(n_workers);
    let mut child = Command::new(environment::this_program()?)
        .arg("worker")
        .env_clear()
        .envs(environment::of_worker(std::env::vars_os(), rank, n_workers, n_threads))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log.try_clone().map_err(Error::file(&path, "open"))?)
        // Ctrl-C in the terminal reaches the supervisor alone, which then asks the workers to stop.
        .process_group(0)
        .spawn()
        .map_err(failed)?;
    let (Some(orders), Some(reports)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(failed(io::Error::other("its pipes are missing")));
    };
    let notices = notices.clone();
    thread::spawn(move || hear(rank, reports, log, &notices));
    Ok(Worker { child, orders, log: path, silent: false, ended: false })
}

/// Passes a worker's reports on until its stdout ends. Lines that are no reports (libraries print, too) go to its log.
fn hear(rank: u32, reports: ChildStdout, mut log: File, notices: &Sender<Notice>) {
    let mut reports = BufReader::new(reports);
    let mut line = Vec::new();
    while reports.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
        match serde_json::from_slice(&line) {
            Ok(report) => drop(notices.send(Notice::Report { rank, report })),
            Err(_) => drop(log.write_all(&line)),
        }
        line.clear();
    }
    let _ = notices.send(Notice::Silent { rank });
}

/// The last lines of a log, or those of the panic in it, for an error message.
pub fn tail(log: &Path) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    // A panic's message comes before its backtrace.
    let panic = lines.iter().rposition(|line| line.contains(" panicked at "));
    let begin = panic.unwrap_or(lines.len().saturating_sub(TAIL_LINES));
    let last: Vec<String> = lines.iter().skip(begin).take(TAIL_LINES).map(|line| format!("  | {line}")).collect();
    if last.is_empty() { "  (nothing)".to_owned() } else { last.join("\n") }
}

#[cfg(test)]
mod tests;
