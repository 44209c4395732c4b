//! How far each worker is, and which one is late or slow: deadlines are learned from the run itself.
//! It never acts, and asks no clock: what is late is the supervisor's to end.
//!
//! A worker says which phase it begins, from the thread that does the work. So silence means that the work stands still,
//! whether the process is stopped, deadlocked, turning in circles or waiting for a disk; a thread that only says
//! "I live" would not tell.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use trainer::Phase;

/// A phase may take this much longer than the slowest of its last [`N_LEARNED`] times.
const FACTOR: u32 = 8;
const N_LEARNED: usize = 32;
/// The first time of a phase may take this many times the patience: caches are cold, kernels are compiled.
const FIRST: u32 = 10;
/// Steps over which a rank's speed is compared with the others'.
const N_COMPARED: usize = 8;
/// A rank is slow when a micro-batch takes it this many times what it takes the others.
const SLOW_FACTOR: u32 = 2;
/// Differences below this are not worth a word.
const SLOW_FLOOR: Duration = Duration::from_millis(10);
/// Steps between two words about the same rank.
const SLOW_AGAIN: u64 = 200;
/// When nobody looked for so long, this process itself stood still, and nothing can be said about the others.
const BLIND: Duration = Duration::from_secs(1);

/// All workers of one attempt.
pub struct Watch {
    patience: Duration,
    ranks: BTreeMap<u32, Progress>,
    learned: BTreeMap<Phase, VecDeque<Duration>>,
    steps: VecDeque<Duration>,
    last_look: Option<Instant>,
}

struct Progress {
    step: u64,
    phase: Phase,
    since: Instant,
    step_since: Instant,
    /// Phases this rank has been through.
    seen: Vec<Phase>,
    /// Of the step under way: time for rows and their computation, and micro-batches.
    own_time: Duration,
    n_micro_batches: u32,
    /// Time for a micro-batch in each of the last steps.
    speed: VecDeque<Duration>,
    slow_said_at: Option<u64>,
}

/// A rank that does not get on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Late {
    pub rank: u32,
    pub step: u64,
    pub phase: Phase,
    /// Since it last said anything.
    pub silent: Duration,
    /// Its deadline.
    pub deadline: Duration,
}

/// A rank for which all others wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slow {
    pub rank: u32,
    pub step: u64,
    /// What a micro-batch takes it.
    pub own: Duration,
    /// What it takes the others.
    pub others: Duration,
}

impl Watch {
    /// Of an attempt whose workers begin now.
    pub fn new(ranks: impl Iterator<Item = u32>, patience: Duration, now: Instant) -> Self {
        let begin = |rank| (rank, Progress::new(now));
        let (learned, steps) = (BTreeMap::new(), VecDeque::new());
        Self { patience, ranks: ranks.map(begin).collect(), learned, steps, last_look: None }
    }

    /// A rank begins a phase.
    pub fn on_phase(&mut self, rank: u32, step: u64, phase: Phase, now: Instant) {
        let Some(progress) = self.ranks.get_mut(&rank) else { return };
        let took = now.saturating_duration_since(progress.since);
        // What a rank waits for others says nothing about how long the phase takes.
        if progress.seen.contains(&progress.phase) && !progress.phase.waits_for_others() {
            keep(self.learned.entry(progress.phase).or_default(), took, N_LEARNED);
        }
        if let Some(step) = progress.enter(step, phase, took, now)
            && progress.seen.contains(&Phase::AllReduce)
        {
            keep(&mut self.steps, step, N_COMPARED);
        }
    }

    /// Step and phase of a rank.
    pub fn place(&self, rank: u32) -> Option<(u64, Phase)> {
        self.ranks.get(&rank).map(|progress| (progress.step, progress.phase))
    }

    /// Steps that every rank here has made and nobody can undo but a restart.
    pub fn steps_made(&self) -> u64 {
        let made = |progress: &Progress| match progress.phase {
            Phase::Opening | Phase::Rendezvous | Phase::Checkpoint | Phase::Eval | Phase::EvalSums | Phase::Leaving => {
                progress.step
            }
            _ => progress.step.saturating_sub(1),
        };
        self.ranks.values().map(made).max().unwrap_or(0)
    }

    /// How long it will take until the step under way is made; `None` if no step has told yet.
    pub fn until_boundary(&self, now: Instant) -> Option<Duration> {
        let usual = self.steps.iter().max()?;
        let begun =
            self.ranks.values().filter(|progress| progress.step > 0).map(|progress| progress.step_since).min()?;
        let save = self.learned.get(&Phase::Checkpoint).and_then(|times| times.iter().max().copied());
        Some(usual.saturating_sub(now.saturating_duration_since(begun)) + save.unwrap_or_default())
    }

    /// The rank that is furthest beyond its deadline. `is_stopped` tells whether a rank's process stands still by a signal.
    ///
    /// A rank that may only wait for another one has no deadline here, unless its process is stopped: the other one has.
    pub fn late(&mut self, now: Instant, is_stopped: impl Fn(u32) -> bool) -> Option<Late> {
        let blind = self.last_look.replace(now).is_some_and(|last| now.saturating_duration_since(last) > BLIND);
        if blind {
            self.ranks.values_mut().for_each(|progress| progress.since = now);
        }
        let late = |(&rank, progress): (&u32, &Progress)| {
            let silent = now.saturating_duration_since(progress.since);
            let deadline = self.deadline(progress);
            let is_late = silent > deadline && (!progress.phase.waits_for_others() || is_stopped(rank));
            is_late.then_some(Late { rank, step: progress.step, phase: progress.phase, silent, deadline })
        };
        self.ranks.iter().filter_map(late).max_by_key(|late| late.silent.saturating_sub(late.deadline))
    }

    fn deadline(&self, progress: &Progress) -> Duration {
        let learned = self.learned.get(&progress.phase).and_then(|times| times.iter().max());
        match learned {
            _ if progress.phase.waits_for_others() => self.patience,
            Some(&slowest) if progress.seen.contains(&progress.phase) => self.patience.max(slowest * FACTOR),
            _ => self.patience * FIRST,
        }
    }

    /// A rank that has been slow for some steps and has not been named lately.
    pub fn slow(&mut self) -> Option<Slow> {
        let speeds: Vec<(u32, Duration)> =
            self.ranks.iter().filter_map(|(&rank, p)| Some((rank, p.speed()?))).collect();
        if speeds.len() < 2 || speeds.len() < self.ranks.len() {
            return None;
        }
        for &(rank, own) in &speeds {
            let mut others: Vec<Duration> =
                speeds.iter().filter(|(r, _)| *r != rank).map(|(_, speed)| *speed).collect();
            others.sort();
            let others = others[others.len() / 2];
            let progress = self.ranks.get_mut(&rank)?;
            let said = progress.slow_said_at.is_some_and(|at| progress.step < at + SLOW_AGAIN);
            if own > others * SLOW_FACTOR && own - others > SLOW_FLOOR && !said {
                progress.slow_said_at = Some(progress.step);
                return Some(Slow { rank, step: progress.step, own, others });
            }
        }
        None
    }
}

impl Progress {
    fn new(now: Instant) -> Self {
        Self {
            step: 0,
            phase: Phase::Opening,
            since: now,
            step_since: now,
            seen: Vec::new(),
            own_time: Duration::ZERO,
            n_micro_batches: 0,
            speed: VecDeque::new(),
            slow_said_at: None,
        }
    }

    /// Notes that `phase` begins after the one before took `took`; returns how long the step took if a new one begins. An
    /// evaluation is no part of a step: it ends early when it is asked to.
    fn enter(&mut self, step: u64, phase: Phase, took: Duration, now: Instant) -> Option<Duration> {
        if matches!(self.phase, Phase::Eval | Phase::EvalSums) {
            self.step_since += took;
        }
        if matches!(self.phase, Phase::Data | Phase::ForwardBackward) {
            self.own_time += took;
            self.n_micro_batches += u32::from(self.phase == Phase::ForwardBackward);
        }
        if phase == Phase::AllReduce && self.n_micro_batches > 0 {
            keep(&mut self.speed, self.own_time / self.n_micro_batches, N_COMPARED);
        }
        if !self.seen.contains(&self.phase) {
            self.seen.push(self.phase);
        }
        let is_next = step != self.step;
        let step_took = now.saturating_duration_since(self.step_since);
        if is_next {
            (self.own_time, self.n_micro_batches, self.step_since) = (Duration::ZERO, 0, now);
        }
        (self.step, self.phase, self.since) = (step, phase, now);
        is_next.then_some(step_took)
    }

    /// The median of what a micro-batch took lately.
    fn speed(&self) -> Option<Duration> {
        if self.speed.len() < N_COMPARED {
            return None;
        }
        let mut times: Vec<Duration> = self.speed.iter().copied().collect();
        times.sort();
        Some(times[times.len() / 2])
    }
}

/// Appends, and forgets the oldest beyond `n`.
fn keep(times: &mut VecDeque<Duration>, time: Duration, n: usize) {
    times.push_back(time);
    if times.len() > n {
        times.pop_front();
    }
}

#[cfg(test)]
mod tests;
