//! The worker processes of one job on this machine: starts them, hears them, signals them, sees them end.
//! It never judges: what an end means is the supervisor's business. Dropped, it leaves no process behind.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::net::SocketAddr;
use std::ops::Range;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::control::{self, Order, Report};
use crate::{Error, environment, machine};

/// How much of the end of a log is looked at, in bytes, and shown, in lines.
const TAIL_BYTES: u64 = 8192;
const TAIL_LINES: usize = 8;
/// How long a killed worker is waited for when everything is over.
const DYING_TIME: Duration = Duration::from_secs(5);

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
    /// Where rank 0 listens, from another machine.
    Endpoint(SocketAddr),
    /// The group cannot go on, for a reason outside this machine.
    Abandon(String),
}

/// Which ranks of the job run on this machine: `n_workers` from `first_rank` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group {
    pub first_rank: u32,
    pub n_workers: u32,
    /// Ranks on all machines.
    pub world_size: u32,
    /// Of the first rank, among those of this machine.
    pub first_local_rank: u32,
    /// Ranks of this machine, of all nodes on it.
    pub local_world_size: u32,
}

impl Group {
    /// Of a job on this machine alone.
    pub fn alone(n_workers: u32) -> Self {
        Self { first_rank: 0, n_workers, world_size: n_workers, first_local_rank: 0, local_world_size: n_workers }
    }

    /// The ranks of this machine.
    pub fn ranks(self) -> Range<u32> {
        self.first_rank..self.first_rank + self.n_workers
    }
}

/// All workers of this machine, by rank.
pub struct Workers {
    group: Group,
    workers: Vec<Worker>,
}

struct Worker {
    child: Child,
    orders: ChildStdin,
    log: PathBuf,
    /// Length of the log before this worker.
    log_begin: u64,
    silent: bool,
    ended: bool,
}

impl Workers {
    /// Starts a copy of this program for each rank of `group`; their logs go to `logs`/rank-R.log.
    /// What they say arrives at `notices`. To be called on the main thread: with the thread that starts it, a worker ends.
    ///
    /// # Errors
    /// A process or a log that cannot be started; those already started are ended.
    pub fn start(group: Group, attempt: u32, logs: &Path, notices: &Sender<Notice>) -> Result<Self, Error> {
        std::fs::create_dir_all(logs).map_err(Error::file(logs, "create"))?;
        let mut workers = Self { group, workers: Vec::new() };
        for rank in group.ranks() {
            workers.workers.push(start_worker(rank, group, attempt, logs, notices)?);
        }
        Ok(workers)
    }

    /// Sends an order. A worker that is gone cannot read it; its end is noticed elsewhere.
    pub fn send(&mut self, rank: u32, order: &Order) {
        if let Some(worker) = self.get_mut(rank) {
            let _ = control::send(&mut worker.orders, order);
        }
    }

    /// Sends an order to every worker.
    pub fn send_to_all(&mut self, order: &Order) {
        self.group.ranks().for_each(|rank| self.send(rank, order));
    }

    /// Notes that nothing more will be heard from a worker.
    pub fn note_silent(&mut self, rank: u32) {
        if let Some(worker) = self.get_mut(rank) {
            worker.silent = true;
        }
    }

    /// Signals every worker that has not ended.
    pub fn signal(&self, signal: Signal) {
        for worker in self.workers.iter().filter(|worker| !worker.ended) {
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
        let silent = self.group.ranks().zip(&mut self.workers).filter(|(_, worker)| worker.silent && !worker.ended);
        for (rank, worker) in silent {
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
        self.workers.iter().all(|worker| worker.ended)
    }

    /// Ranks whose workers have not ended.
    pub fn living(&self) -> Vec<u32> {
        let pairs = self.group.ranks().zip(&self.workers);
        pairs.filter(|(_, worker)| !worker.ended).map(|(rank, _)| rank).collect()
    }

    /// The log file of a worker.
    pub fn log(&self, rank: u32) -> &Path {
        self.get(rank).map_or(Path::new(""), |worker| &worker.log)
    }

    /// Where in its log a worker's own lines begin.
    pub fn log_begin(&self, rank: u32) -> u64 {
        self.get(rank).map_or(0, |worker| worker.log_begin)
    }

    /// Whether a signal has stopped a worker's process (SIGSTOP, or a debugger).
    pub fn is_stopped(&self, rank: u32) -> bool {
        let stat = self.get(rank).map(|worker| std::fs::read_to_string(format!("/proc/{}/stat", worker.child.id())));
        let Some(Ok(stat)) = stat else { return false };
        // The name before the state may hold anything but ends with the last bracket.
        stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with(['T', 't']))
    }

    /// Resident memory of all workers that live, in bytes; `None` where the system does not tell.
    pub fn memory(&self) -> Option<u64> {
        let resident = |worker: &Worker| machine::bytes(&format!("/proc/{}/status", worker.child.id()), "VmRSS");
        self.workers.iter().filter(|worker| !worker.ended).map(resident).sum()
    }

    fn get(&self, rank: u32) -> Option<&Worker> {
        self.workers.get(rank.checked_sub(self.group.first_rank)? as usize)
    }

    fn get_mut(&mut self, rank: u32) -> Option<&mut Worker> {
        self.workers.get_mut(rank.checked_sub(self.group.first_rank)? as usize)
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        for worker in self.workers.iter_mut().filter(|worker| !worker.ended) {
            // A process that the system cannot end is left to it.
            let begin = Instant::now();
            while matches!(worker.child.try_wait(), Ok(None)) && begin.elapsed() < DYING_TIME {
                thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

fn start_worker(rank: u32, group: Group, attempt: u32, logs: &Path, notices: &Sender<Notice>) -> Result<Worker, Error> {
    let path = logs.join(format!("rank-{rank}.log"));
    let mut log = OpenOptions::new().create(true).append(true).open(&path).map_err(Error::file(&path, "open"))?;
    let log_begin = log.metadata().map_or(0, |metadata| metadata.len());
    // A log that cannot be written to is no reason not to train.
    let _ = writeln!(log, "-- rank {rank} of {}, attempt {attempt}", group.world_size);
    let failed = |source| Error::Process { what: "a worker", source };
    let mut child = Command::new(environment::this_program()?)
        .arg0("ecg-train")
        .arg("worker")
        .env_clear()
        .envs(environment::of_worker(std::env::vars_os(), rank, group))
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
    Ok(Worker { child, orders, log: path, log_begin, silent: false, ended: false })
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

/// The last lines of a log from `begin` on, or those of the panic in it, for an error message.
pub fn tail(log: &Path, begin: u64) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES).max(begin)))?;
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
