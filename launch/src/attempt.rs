//! One attempt: the workers of this machine from their start to the end of the last one, and what it came to.
//! It never begins another one; nobody outlives it.

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use signal_hook::consts::{SIGKILL, SIGTERM};
use trainer::{Event, Phase};

use crate::cluster::Speaker;
use crate::control::{Job, Order, Report};
use crate::event_log::{Entry, EventLog, What};
use crate::progress::Progress;
use crate::requests::{Request, Requests};
use crate::watch::{Late, Slow, Watch};
use crate::workers::{Group, Notice, Workers, tail};
use crate::{Error, error};

/// How often workers are looked at when they say nothing.
const TICK: Duration = Duration::from_millis(50);
/// Once a rank only missed another one, how long that one has to say why before all are ended.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// How long the system may take to end a killed process.
const DYING_TIME: Duration = Duration::from_secs(60);
/// Of the grace time, what is left for the end of the processes and of this one.
const GRACE_SHARE: f64 = 0.8;

/// What an attempt is told.
pub struct Plan {
    /// Which one, from 0.
    pub number: u32,
    pub group: Group,
    /// What each worker is told.
    pub job: Job,
    /// Folder of the logs.
    pub logs: PathBuf,
    /// No phase is late before that.
    pub patience: Duration,
    /// From a request to stop to the end of everything.
    pub grace: Duration,
    /// Node 0 of several: tells the others where rank 0 listens.
    pub speaker: Option<Speaker>,
}

/// What lasts longer than an attempt.
pub struct Surroundings {
    pub progress: Progress,
    pub log: EventLog,
    pub requests: Requests,
}

/// What an attempt came to.
pub enum Verdict {
    /// All steps are made.
    Finished,
    /// Ended on request.
    Stopped {
        /// With a checkpoint of the last step; otherwise the newest one stands.
        at_boundary: bool,
    },
    /// A worker was lost or failed; `first_step` and `last_step` are steps made.
    Failed { failure: Failure, first_step: u64, last_step: u64 },
}

/// A failed worker.
pub struct Failure {
    pub rank: u32,
    /// What to tell the user.
    pub error: Error,
    /// Another attempt may succeed.
    pub may_pass: bool,
    /// It failed only because another one was gone.
    pub lost_a_peer: bool,
}

struct Attempt<'a> {
    plan: Plan,
    around: &'a mut Surroundings,
    workers: Workers,
    watch: Watch,
    /// In the order in which they were heard of.
    failures: Vec<Failure>,
    /// Since when one has failed.
    failing: Option<Instant>,
    /// Since when a request to stop is being answered.
    stopping: Option<Instant>,
    /// Since when the workers are being killed.
    killed: Option<Instant>,
    /// At least one worker ended before its last step because it was asked to.
    stopped: bool,
    first_step: Option<u64>,
}

/// Starts the workers of `plan` and hears everything until none is left. Further notices may come from outside: a
/// [`Notice::Abandon`] ends the attempt as if a worker had been lost.
///
/// # Errors
/// Workers that cannot be started or looked at; none is left then.
pub fn run(
    plan: Plan,
    around: &mut Surroundings,
    notify: &Sender<Notice>,
    notices: &Receiver<Notice>,
) -> Result<Verdict, Error> {
    let mut workers = Workers::start(plan.group, plan.number, &plan.logs, notify)?;
    for rank in plan.group.ranks() {
        workers.send(rank, &Order::Start(plan.job.clone()));
    }
    let watch = Watch::new(plan.group.ranks(), plan.patience, Instant::now());
    around.log.write(&Entry::new(plan.number, What::Attempt).saying(&format!("{} workers", plan.group.world_size)));
    let attempt = Attempt {
        plan,
        around,
        workers,
        watch,
        failures: Vec::new(),
        failing: None,
        stopping: None,
        killed: None,
        stopped: false,
        first_step: None,
    };
    attempt.hear(notices)
}

impl Attempt<'_> {
    fn hear(mut self, notices: &Receiver<Notice>) -> Result<Verdict, Error> {
        while !self.workers.all_ended() {
            match notices.recv_timeout(TICK) {
                Ok(notice) => self.on_notice(notice),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
            // All that is known comes before anybody is judged.
            notices.try_iter().for_each(|notice| self.on_notice(notice));
            while let Some(request) = self.around.requests.next() {
                self.on_request(request);
            }
            for (rank, status) in self.workers.newly_ended()? {
                self.on_end(rank, status);
            }
            self.look_for_late();
            self.end_what_takes_too_long();
            self.require_dead()?;
        }
        Ok(self.verdict())
    }

    fn on_notice(&mut self, notice: Notice) {
        match notice {
            Notice::Report { rank, report } => self.on_report(rank, report),
            Notice::Silent { rank } => self.workers.note_silent(rank),
            Notice::Endpoint(endpoint) => self.workers.send_to_all(&Order::Endpoint(endpoint)),
            Notice::Abandon(reason) => {
                let rank = self.plan.group.first_rank;
                let error = Error::Abandoned { reason };
                self.fail(Failure { rank, error, may_pass: true, lost_a_peer: true }, What::Failed);
                self.kill();
            }
        }
    }

    fn on_report(&mut self, rank: u32, report: Report) {
        match report {
            Report::Event(Event::At { step, phase }) => self.watch.on_phase(rank, step, phase, Instant::now()),
            Report::Event(Event::Listening(endpoint)) => {
                self.workers.send_to_all(&Order::Endpoint(endpoint));
                self.plan.speaker.iter().for_each(|speaker| speaker.listening(endpoint.port()));
            }
            Report::Event(event) => self.on_event(rank, &event),
            Report::Failed { exit_code, message, may_pass } => {
                let log = self.workers.log(rank).to_owned();
                let error = Error::Worker { rank, exit_code, log, message };
                self.fail(Failure { rank, error, may_pass, lost_a_peer: exit_code == error::LOST }, What::Failed);
            }
        }
    }

    fn on_event(&mut self, rank: u32, event: &Event) {
        if matches!(event, Event::Step { .. }) {
            self.around.progress.on_memory(self.workers.memory());
        }
        self.around.progress.on_event(rank, event);
        let (what, step) = match event {
            Event::Started { step, .. } => (What::Training, *step),
            Event::Checkpoint { step } => (What::Checkpoint, *step),
            Event::Warning(text) => return self.log(What::Warning, rank, text),
            _ => return,
        };
        if what == What::Training {
            self.first_step.get_or_insert(step);
        }
        if rank == 0 {
            self.around.log.write(&Entry::new(self.plan.number, what).at_step(step));
        }
    }

    /// Ends at the next step's boundary if that is near enough, else at once: the newest checkpoint stands then.
    fn on_request(&mut self, request: Request) {
        if request == Request::AtOnce {
            self.around.progress.note("ending at once; the newest checkpoint stands");
            return self.kill();
        }
        let asked = self.around.requests.asked().unwrap_or_default().to_owned();
        let left = self.watch.until_boundary(Instant::now());
        let at_boundary = left.is_some_and(|left| left <= self.plan.grace.mul_f64(GRACE_SHARE));
        self.stopping = Some(Instant::now());
        self.around.log.write(&Entry::new(self.plan.number, What::StopAsked).saying(&asked));
        match left {
            Some(_) if at_boundary => {
                self.around.progress.note(&format!("{asked}: stopping after a checkpoint; Ctrl-C again ends at once"));
                self.workers.signal(Signal::TERM);
            }
            Some(left) => {
                let grace = self.plan.grace.as_secs_f64();
                let left = left.as_secs_f64();
                self.around.progress.note(&format!(
                    "{asked}: the step under way needs {left:.0} s more, the grace time is {grace:.0} s: ending now, the newest checkpoint stands"
                ));
                self.kill();
            }
            None => {
                self.around.progress.note(&format!("{asked}: no step is under way; ending now"));
                self.kill();
            }
        }
    }

    fn on_end(&mut self, rank: u32, status: ExitStatus) {
        let how = match (status.code(), status.signal()) {
            (Some(0), _) => return,
            (Some(code), _) if code == i32::from(error::STOPPED) => return self.stopped = true,
            (Some(_), _) if self.failures.iter().any(|failure| failure.rank == rank) => return,
            (Some(101), _) => "panicked; this is a defect of ecg-train, please report it".to_owned(),
            (Some(code), _) => format!("ended with code {code} without a word"),
            (None, Some(SIGKILL)) if self.killed.is_some() => return,
            (None, Some(SIGTERM)) if self.stopping.is_some() => return self.stopped = true,
            (None, signal) => died_by(signal.unwrap_or_default()),
        };
        self.lose(rank, format!("{how}{}", self.place(rank)), What::Lost);
    }

    fn lose(&mut self, rank: u32, how: String, what: What) {
        let log = self.workers.log(rank).to_owned();
        let error = Error::Lost { rank, how, tail: tail(&log, self.workers.log_begin(rank)), log };
        self.fail(Failure { rank, error, may_pass: true, lost_a_peer: false }, what);
    }

    /// ` in PHASE of step N`, where that is known.
    fn place(&self, rank: u32) -> String {
        self.watch.place(rank).map(|(step, phase)| in_phase(step, phase)).unwrap_or_default()
    }

    fn look_for_late(&mut self) {
        if self.failing.is_some() || self.killed.is_some() {
            return;
        }
        if let Some(slow) = self.watch.slow() {
            self.warn_of(slow);
        }
        let workers = &self.workers;
        if let Some(late) = self.watch.late(Instant::now(), |rank| workers.is_stopped(rank)) {
            let Late { rank, step, phase, silent, deadline } = late;
            let state = if self.workers.is_stopped(rank) { "; its process is stopped by a signal" } else { "" };
            let how = format!(
                "is late{}: nothing for {:.1} s, its deadline was {:.1} s{state}",
                in_phase(step, phase),
                silent.as_secs_f64(),
                deadline.as_secs_f64()
            );
            self.lose(rank, how, What::Late);
        }
    }

    fn warn_of(&mut self, slow: Slow) {
        let Slow { rank, step, own, others } = slow;
        let (own, others) = (own.as_secs_f64(), others.as_secs_f64());
        let text = format!(
            "is slow: {own:.2} s a micro-batch, the others {others:.2} s, at step {step}; all ranks wait for it, look at its machine"
        );
        self.around.progress.note(&format!("warning: rank {rank} {text}"));
        self.log(What::Slow, rank, &text);
    }

    /// Remembers why a worker failed, and ends all: without it the others would wait for ever.
    fn fail(&mut self, failure: Failure, what: What) {
        if self.killed.is_some() {
            return; // What a worker says while all are being killed is no cause of anything.
        }
        let text = failure.error.to_string();
        self.log(what, failure.rank, &text);
        self.failing.get_or_insert_with(Instant::now);
        let is_cause = !failure.lost_a_peer;
        self.failures.push(failure);
        if is_cause {
            self.kill();
        }
    }

    fn end_what_takes_too_long(&mut self) {
        let is_over = |since: Instant, time| since.elapsed() > time;
        let cause_is_silent = self.failing.is_some_and(|since| is_over(since, LAST_WORDS));
        let grace_is_over = self.stopping.is_some_and(|since| is_over(since, self.plan.grace.mul_f64(GRACE_SHARE)));
        if self.killed.is_none() && (cause_is_silent || grace_is_over) {
            if grace_is_over {
                self.around.progress.note("the grace time is over; the newest checkpoint stands");
            }
            self.kill();
        }
    }

    /// A process in a system call that never returns (a dead file server) cannot be ended; nobody waits for it for ever.
    fn require_dead(&self) -> Result<(), Error> {
        match self.killed.is_some_and(|since| since.elapsed() > DYING_TIME) {
            true => {
                let why = self.failures.first().map_or("the job was to end".to_owned(), |f| f.error.to_string());
                Err(Error::Undead { why, ranks: self.workers.living() })
            }
            false => Ok(()),
        }
    }

    fn kill(&mut self) {
        self.killed.get_or_insert_with(Instant::now);
        self.workers.signal(Signal::KILL);
    }

    fn log(&mut self, what: What, rank: u32, text: &str) {
        let entry = Entry::new(self.plan.number, what).of(rank, self.watch.place(rank)).saying(text);
        self.around.log.write(&entry);
    }

    /// What the attempt came to. A rank that only missed its peer is not to blame where another one failed by itself.
    fn verdict(mut self) -> Verdict {
        let is_asked = self.around.requests.asked().is_some();
        if self.failures.is_empty() && !self.stopped && !(is_asked && self.killed.is_some()) {
            return Verdict::Finished;
        }
        let to_blame = self.failures.iter().position(|failure| !failure.lost_a_peer).unwrap_or(0);
        match self.failures.is_empty() {
            // What only another attempt could mend is not worth a word when there is to be none.
            false if !(is_asked && self.failures[to_blame].may_pass) => Verdict::Failed {
                failure: self.failures.swap_remove(to_blame),
                first_step: self.first_step.unwrap_or_default(),
                last_step: self.watch.steps_made(),
            },
            _ => Verdict::Stopped { at_boundary: self.stopped && self.killed.is_none() },
        }
    }
}

fn in_phase(step: u64, phase: Phase) -> String {
    if step == 0 { format!(" in {phase}") } else { format!(" in {phase} of step {step}") }
}

fn died_by(signal: i32) -> String {
    let name = signal_hook::low_level::signal_name(signal).unwrap_or("a signal without a name");
    let hint = if signal == SIGKILL { "; the system kills so when memory runs out" } else { "" };
    format!("was killed by {name} ({signal}){hint}")
}

#[cfg(test)]
mod tests;
