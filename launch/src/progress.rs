//! What a person sees of a run: one live line on a terminal, plain lines elsewhere, and a summary with the next command.
//! It never prints text of a row, and nothing that it cannot print stops a run.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use trainer::journal::Line;
use trainer::{Config, Event};

use crate::{Outcome, say};

/// How much is said about a run that goes well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verbosity {
    /// Nothing: warnings, restarts, stops and errors alone.
    Quiet,
    /// Steps in 80 columns, evaluations, the end.
    Usual,
    /// Everything that is known of a step.
    Verbose,
}

/// The progress of one job, as rank 0 reports it.
pub struct Progress {
    verbosity: Verbosity,
    /// Absent where stderr is no terminal, or nothing is to be said.
    bar: Option<ProgressBar>,
    /// Optimizer steps between two plain lines.
    every_steps: u64,
    output_dir: PathBuf,
    base: String,
    /// What this run leaves beside what every run does, and what it is.
    more_files: Vec<(&'static str, &'static str)>,
    begun: Option<Instant>,
    first: Option<Line>,
    last: Option<Line>,
    /// Memory of the workers of this machine, in bytes.
    memory: Option<u64>,
    checkpoint: Option<u64>,
    /// A step at which ranks had different digests, and those: repeated, it tells whose was wrong.
    differed: Option<(u64, Vec<String>)>,
    /// All ranks see the same files: what one has said, the others need not repeat.
    warned: BTreeSet<String>,
}

impl Progress {
    /// Of a run that has not begun.
    pub fn new(config: &Config, verbosity: Verbosity) -> Self {
        let bar = ProgressBar::new(0)
            .with_style(ProgressStyle::with_template("{wide_msg}").unwrap_or_else(|_| ProgressStyle::default_bar()));
        // indicatif hides it where stderr is no terminal.
        let bar = Some(bar).filter(|bar| !bar.is_hidden() && verbosity != Verbosity::Quiet);
        Self {
            verbosity,
            bar,
            every_steps: config.log.every_steps,
            output_dir: config.output_dir.clone(),
            base: base(config),
            more_files: more_files(config),
            begun: None,
            first: None,
            last: None,
            memory: None,
            checkpoint: None,
            differed: None,
            warned: BTreeSet::new(),
        }
    }

    /// Shows an event. Steps are the same on every rank, so only rank 0's are shown; warnings are shown from all, once.
    pub fn on_event(&mut self, rank: u32, event: &Event) {
        match event {
            Event::Warning(text) if self.warned.insert(text.clone()) => {
                self.note(&format!("warning: rank {rank}: {text}"))
            }
            Event::DigestsDiffer { step, digests } => self.differed = Some((*step, digests.clone())),
            _ if rank > 0 => {}
            Event::Started { step, total_steps, n_rows, n_trainable, resumed_from } => {
                self.begun.get_or_insert_with(Instant::now); // Restarts are part of the time a run takes.
                match resumed_from {
                    Some(_) => self.tell(&format!(
                        "resumed from checkpoint-{step}: {} of {total_steps} steps to go",
                        total_steps - step
                    )),
                    None => self.tell(&format!("training {n_trainable} numbers on {n_rows} rows, {total_steps} steps")),
                }
            }
            Event::Step { line, total_steps } => self.on_step(line, *total_steps),
            Event::Evaluated { step, n_rows, loss, mean_token_accuracy, answer_token_accuracy } => self.tell(&format!(
                "eval after step {step}: loss {loss:.4} acc {:.1}% answers {:.1}% on {n_rows} rows",
                100.0 * mean_token_accuracy,
                100.0 * answer_token_accuracy
            )),
            Event::Checkpoint { step } => self.checkpoint = Some(*step),
            Event::At { .. }
            | Event::Warning(_)
            | Event::Listening(_)
            | Event::Finished { .. }
            | Event::Stopped { .. } => {}
        }
    }

    fn on_step(&mut self, line: &Line, total_steps: u64) {
        if let Some((step, digests)) = self.differed.take_if(|(step, _)| *step == line.step) {
            let wrong: Vec<usize> = (0..digests.len()).filter(|&rank| digests[rank] != line.digest).collect();
            self.note(&format!(
                "warning: step {step}, repeated, shows that ranks {wrong:?} were wrong; check the memory of their machines"
            ));
        }
        self.first.get_or_insert_with(|| line.clone());
        let left = self.time_left(line, total_steps);
        let text = describe_step(line, total_steps, left);
        let more = describe_more(line, self.last.as_ref(), self.memory);
        match &self.bar {
            Some(bar) => bar.set_message(format!("{text} | {more}")), // Cut at the terminal's width.
            None if line.step.is_multiple_of(self.every_steps) || line.step == total_steps => {
                self.tell(&if self.verbosity == Verbosity::Verbose { format!("{text} | {more}") } else { text });
            }
            None => {}
        }
        self.last = Some(line.clone());
    }

    /// From the time that this process needed for the steps it has seen.
    fn time_left(&self, line: &Line, total_steps: u64) -> Option<Duration> {
        let first = self.first.as_ref()?.step;
        let n_done = u32::try_from(line.step.checked_sub(first)? + 1).ok()?;
        let n_left = u32::try_from(total_steps.checked_sub(line.step)?).ok()?;
        Some(self.begun?.elapsed() / n_done * n_left)
    }

    /// What the workers of this machine hold in memory now, in bytes.
    pub fn on_memory(&mut self, bytes: Option<u64>) {
        self.memory = bytes;
    }

    /// A line above the live one about a run that goes well.
    fn tell(&self, text: &str) {
        if self.verbosity != Verbosity::Quiet {
            self.note(text);
        }
    }

    /// A line above the live one that everybody must see.
    pub fn note(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| say(text)),
            None => say(text),
        }
    }

    /// Takes the live line away, so that an error can be shown.
    pub fn close(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    /// What the run came to and what to type next.
    pub fn summary(&mut self, outcome: Outcome) {
        self.close();
        self.tell(&self.describe_run(outcome));
    }

    fn describe_run(&self, outcome: Outcome) -> String {
        let dir = self.output_dir.display();
        let mut text = match (outcome, &self.last) {
            (Outcome::Stopped, _) => "stopped; the same command goes on from the newest checkpoint".to_owned(),
            (Outcome::Done, None) => "nothing to do: this run had finished before".to_owned(),
            (Outcome::Done, Some(line)) => {
                let elapsed = self.begun.map_or(Duration::ZERO, |begun| begun.elapsed());
                let rows_per_second = self.rows_per_second(line, elapsed);
                let (n_steps, loss, time) = (line.step, line.loss, clock(elapsed));
                format!("finished {n_steps} steps: loss {loss:.4}, {rows_per_second:.1} rows/s, {time} in this session")
            }
        };
        if let Some(step) = self.checkpoint {
            text.push_str(&format!("\nfiles in {dir}:\n"));
            let checkpoint = format!("checkpoint-{step}/");
            let files = [
                (checkpoint.as_str(), "adapter (PEFT loads it) and optimizer state"),
                ("journal.jsonl", "one line a step"),
                ("config.toml", "the whole configuration, as run"),
                ("logs/", "one log a rank"),
            ];
            for (name, what) in files.into_iter().chain(self.more_files.iter().copied()) {
                text.push_str(&format!("  {name:<20} {what}\n"));
            }
            if outcome == Outcome::Done {
                text.push_str("next, one model from base and adapter:\n");
                text.push_str(&format!(
                    "  ecg-train merge --base {} --adapter {dir}/checkpoint-{step} --out {dir}/merged",
                    self.base
                ));
            }
        }
        text.trim_end().to_owned()
    }

    fn rows_per_second(&self, last: &Line, elapsed: Duration) -> f64 {
        let first = self.first.as_ref().map_or(last.first_position, |line| line.first_position);
        (last.last_position + 1 - first) as f64 / elapsed.as_secs_f64().max(1e-9)
    }
}

fn more_files(config: &Config) -> Vec<(&'static str, &'static str)> {
    let evaluates = config.data.eval.is_some();
    let files = [
        (evaluates, ("eval.jsonl", "one line an evaluation, with the model's answers")),
        (config.log.tensorboard, ("tensorboard/", "the numbers for TensorBoard")),
    ];
    files.into_iter().filter_map(|(is_there, file)| is_there.then_some(file)).collect()
}

/// The base as `merge --base` takes it.
fn base(config: &Config) -> String {
    let model = &config.model;
    match &model.revision {
        Some(revision) if !Path::new(&model.path).is_dir() => format!("{}@{revision}", model.path),
        _ => model.path.clone(),
    }
}

/// One step in at most 80 columns for runs of usual length.
fn describe_step(line: &Line, total_steps: u64, left: Option<Duration>) -> String {
    let left = left.map(|left| format!(", {} left", clock(left))).unwrap_or_default();
    if !line.skipped_rows.is_empty() {
        return format!("{}/{total_steps} ep {:.2} skipped: not finite{left}", line.step, line.epoch);
    }
    format!(
        "{}/{total_steps} ep {:.2} loss {:.4} grad {:.2} lr {:.1e} acc {:.1}% {:.1} rows/s{left}",
        line.step,
        line.epoch,
        line.loss,
        line.grad_norm,
        line.learning_rate,
        100.0 * line.mean_token_accuracy,
        line.rows_per_second
    )
}

/// What is worth knowing beside, in the order of its worth; `before` is the step before, from which a step's tokens count.
fn describe_more(line: &Line, before: Option<&Line>, memory: Option<u64>) -> String {
    let mut text = String::new();
    let n_rows = (line.last_position + 1).saturating_sub(line.first_position).max(1);
    if let Some(before) = before.filter(|before| before.step + 1 == line.step) {
        let per_row = line.num_tokens.saturating_sub(before.num_tokens) as f64 / n_rows as f64;
        let _ = write!(text, "{:.0} tokens/s, ", per_row * line.rows_per_second); // A String takes whatever is written.
    }
    let _ = write!(text, "data wait {:.0}%", 100.0 * line.data_wait);
    if let Some(bytes) = memory {
        let _ = write!(text, ", RSS {}", HumanBytes(bytes));
    }
    if let Some(prompts) = line.prompt_token_accuracy {
        let _ = write!(text, ", prompts {:.1}%", 100.0 * prompts);
    }
    let _ = write!(text, ", answers {:.1}%", 100.0 * line.answer_token_accuracy);
    if line.entropy.is_finite() {
        let _ = write!(text, ", entropy {:.3}", line.entropy);
    }
    text
}

/// `m:ss`, or `h:mm:ss`.
pub fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, minutes, seconds) => format!("{minutes}:{seconds:02}"),
        (hours, minutes, seconds) => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

#[cfg(test)]
mod tests;
