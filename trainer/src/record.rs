//! What rank 0 keeps of a run: a journal line for each step, its evaluations, and checkpoints, written beside the training;
//! and TensorBoard's view of them.
//! It never lets a failed save pass unsaid, and never lets training go on without any for long.

use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::checkpoint::{MAX_FAILED, Saved, Saver, Snapshot};
use crate::config::Config;
use crate::error::Error;
use crate::evaluation::{self, Evaluation, Evaluations};
use crate::event::Event;
use crate::held_out::HeldOut;
use crate::journal::{self, Journal, Line};
use crate::lines::Lines;
use crate::tensorboard::{self, EventFile};

const JOURNAL: &str = "journal.jsonl";
const EVALUATIONS: &str = "eval.jsonl";
/// How long the journal of a run that has just been killed may stay locked by its last worker.
const LOCKED_TIME: Duration = Duration::from_secs(5);
/// Bytes of a checkpoint for each trained number: the weight and both moments.
const BYTES_PER_NUMBER: u64 = 12;

/// Journal and checkpoints of a run under way.
pub(crate) struct Record {
    journal: Journal,
    /// None where nothing is held out.
    evaluations: Option<Evaluations>,
    /// None where nobody wants one or the disk did not take it.
    tensorboard: Option<EventFile>,
    saver: Saver,
    total_steps: u64,
}

impl Record {
    /// Of a run of `n_trainable` numbers that goes on after `step`. Removes what killed saves have left.
    pub fn open(
        config: &Config,
        step: u64,
        total_steps: u64,
        n_trainable: usize,
        held_out: Option<&HeldOut>,
        events: &mut dyn FnMut(Event),
    ) -> Result<Self, Error> {
        let dir = &config.output_dir;
        let journal = open_journal(&dir.join(JOURNAL), step)?;
        let evaluations =
            held_out.map(|held_out| open_evaluations(&dir.join(EVALUATIONS), step, held_out)).transpose()?;
        storage::sweep(dir)?; // The journal's lock says that no other run publishes here.
        let saver = Saver::new(dir.clone(), config.checkpoint.keep, journal.syncer()?);
        if step < total_steps
            && let Some(missing) = saver.missing_mb(n_trainable as u64 * BYTES_PER_NUMBER)?
        {
            events(Event::Warning(format!(
                "{}: {missing} MB are missing for the {} checkpoints that are kept and the one in the making; free them, or lower checkpoint.keep",
                dir.display(),
                config.checkpoint.keep
            )));
        }
        let tensorboard = config.log.tensorboard.then(|| open_tensorboard(dir, events)).transpose()?.flatten();
        Ok(Self { journal, evaluations, tensorboard, saver, total_steps })
    }

    /// Writes the line of the step just made, and tells what became of a save that has ended meanwhile.
    pub fn step(&mut self, line: Line, events: &mut dyn FnMut(Event)) -> Result<(), Error> {
        self.journal.append(&line)?;
        if !line.skipped_rows.is_empty() {
            events(Event::Warning(format!(
                "step {} is not applied: loss or gradient is not finite at rows {}",
                line.step,
                line.skipped_rows.join(", ")
            )));
        }
        self.show(&tensorboard::Event::train(&line), events);
        events(Event::Step { line, total_steps: self.total_steps });
        self.saver.ended().map_or(Ok(()), |saved| tell(saved, events))
    }

    /// The step of the newest evaluation; 0 where there is none.
    pub fn last_evaluation(&self) -> u64 {
        self.evaluations.as_ref().map_or(0, Lines::last)
    }

    /// Writes what the held-out rows say after the step just made, and syncs it: no later checkpoint may be there without.
    pub fn evaluation(&mut self, evaluation: &Evaluation, events: &mut dyn FnMut(Event)) -> Result<(), Error> {
        if let Some(evaluations) = &mut self.evaluations {
            evaluations.append(evaluation)?;
            evaluations.syncer()?.sync()?;
        }
        self.show(&tensorboard::Event::eval(evaluation), events);
        let &Evaluation { step, n_rows, loss, mean_token_accuracy, answer_token_accuracy, .. } = evaluation;
        if !loss.is_finite() {
            events(Event::Warning(format!("the evaluation after step {step} is not finite; the run goes on")));
        }
        events(Event::Evaluated { step, n_rows, loss, mean_token_accuracy, answer_token_accuracy });
        Ok(())
    }

    /// Adds points for TensorBoard; after a failure no further ones.
    fn show(&mut self, points: &tensorboard::Event, events: &mut dyn FnMut(Event)) {
        if let Some(file) = &mut self.tensorboard
            && let Err(error) = file.add(points)
        {
            events(no_tensorboard(file.path(), &error));
            self.tensorboard = None;
        }
    }

    /// Begins a checkpoint; one that is still under way is waited for.
    pub fn save(&mut self, snapshot: Snapshot, events: &mut dyn FnMut(Event)) -> Result<(), Error> {
        self.saver.begin(snapshot).map_or(Ok(()), |saved| tell(saved, events))
    }

    /// Returns when the last checkpoint is durable; here a failure is an error.
    pub fn close(&mut self, events: &mut dyn FnMut(Event)) -> Result<(), Error> {
        match self.saver.wait() {
            Some(Saved::Failed { step, in_a_row, error }) => Err(Error::NotSaved { step, in_a_row, source: error }),
            Some(saved) => tell(saved, events),
            None => Ok(()),
        }
    }
}

/// The journal, also where the last worker of a run that was just killed has not let go of it yet.
fn open_journal(path: &Path, resume_step: u64) -> Result<Journal, journal::Error> {
    let begin = Instant::now();
    loop {
        match Journal::open(path, resume_step) {
            Err(journal::Error::Locked(_)) if begin.elapsed() < LOCKED_TIME => thread::sleep(Duration::from_millis(50)),
            opened => return opened,
        }
    }
}

/// The evaluations of a run that goes on after `step`. Those of other rows or of other steps cannot be repeated.
fn open_evaluations(path: &Path, step: u64, held_out: &HeldOut) -> Result<Evaluations, journal::Error> {
    let mut evaluations = Evaluations::open(path, step)?;
    let id = held_out.id().to_hex();
    evaluations.expect_while(|line| *line.held_out == *id)?;
    Ok(evaluations)
}

/// TensorBoard's view of all that is journalled.
fn open_tensorboard(dir: &Path, events: &mut dyn FnMut(Event)) -> Result<Option<EventFile>, journal::Error> {
    let mut points: Vec<_> = journal::read(&dir.join(JOURNAL))?.iter().map(tensorboard::Event::train).collect();
    let evaluations = dir.join(EVALUATIONS);
    if evaluations.exists() {
        points.extend(evaluation::read(&evaluations)?.iter().map(tensorboard::Event::eval));
    }
    let folder = dir.join("tensorboard");
    let opened = EventFile::open(&folder, &points);
    Ok(opened.map_err(|error| events(no_tensorboard(&folder, &error))).ok())
}

fn no_tensorboard(path: &Path, error: &io::Error) -> Event {
    Event::Warning(format!(
        "{}: {error}; TensorBoard gets no further points in this run, the next one catches up from the journal",
        path.display()
    ))
}

fn tell(saved: Saved, events: &mut dyn FnMut(Event)) -> Result<(), Error> {
    match saved {
        Saved::Durable { step, not_pruned } => {
            events(Event::Checkpoint { step });
            if let Some(error) = not_pruned {
                events(Event::Warning(format!("older checkpoints were not removed: {error}")));
            }
            Ok(())
        }
        Saved::Failed { step, in_a_row, error } if in_a_row == MAX_FAILED || !error.may_pass() => {
            Err(Error::NotSaved { step, in_a_row, source: error })
        }
        Saved::Failed { step, in_a_row, error } => {
            events(Event::Warning(format!(
                "checkpoint-{step} was not saved ({in_a_row} in a row, the run ends at {MAX_FAILED}): {error}; training goes on, and older checkpoints are what they were"
            )));
            Ok(())
        }
    }
}
