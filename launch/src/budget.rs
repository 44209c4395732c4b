//! How often a run may begin again: as long as it gets on. It never restarts anything itself.

use std::time::Duration;

/// Restarts in a row that make no new step.
const MAX_BARREN: u32 = 3;
/// Before a restart that follows progress; each one without a new step waits four times as long.
const FIRST_DELAY: Duration = Duration::from_millis(250);

/// The attempts so far.
#[derive(Debug)]
pub struct Budget {
    /// `--max-restarts`; no number: progress alone decides.
    max_restarts: Option<u32>,
    attempts: Vec<Past>,
    barren: u32,
    newest_step: u64,
}

/// An attempt that failed.
#[derive(Debug)]
struct Past {
    first_step: u64,
    last_step: u64,
    what: String,
}

/// What follows a failed attempt.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Begin again after a pause.
    Restart(Duration),
    /// The budget is spent, for this reason.
    GiveUp(String),
}

impl Budget {
    /// Of a run that begins.
    pub fn new(max_restarts: Option<u32>) -> Self {
        Self { max_restarts, attempts: Vec::new(), barren: 0, newest_step: 0 }
    }

    /// An attempt went from `first_step` to `last_step` (both made) and failed by `what`.
    pub fn judge(&mut self, first_step: u64, last_step: u64, what: &str) -> Next {
        let is_restart = !self.attempts.is_empty();
        let what = what.lines().next().unwrap_or_default().to_owned();
        self.attempts.push(Past { first_step, last_step, what });
        self.barren = if last_step > self.newest_step { 0 } else { self.barren + u32::from(is_restart) };
        self.newest_step = self.newest_step.max(last_step);
        let n_restarts = self.attempts.len() as u32 - 1;
        match self.max_restarts {
            Some(0) => Next::GiveUp("--max-restarts 0 forbids another attempt".to_owned()),
            Some(max) if n_restarts >= max => Next::GiveUp(format!("--max-restarts {max} is spent")),
            _ if self.barren >= MAX_BARREN => Next::GiveUp(format!("{MAX_BARREN} restarts made no new step")),
            _ => Next::Restart(FIRST_DELAY * 4_u32.pow(self.barren)),
        }
    }

    /// How often the run has begun again.
    pub fn n_restarts(&self) -> usize {
        self.attempts.len().saturating_sub(1)
    }

    /// What happened, an attempt a line.
    pub fn table(&self) -> String {
        let mut table = "  attempt      steps  ended because".to_owned();
        for (number, Past { first_step, last_step, what }) in self.attempts.iter().enumerate() {
            table.push_str(&format!("\n  {number:>7}  {:>9}  {what}", format!("{first_step}-{last_step}")));
        }
        table
    }
}

#[cfg(test)]
mod tests;
