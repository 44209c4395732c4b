//! `tensorboard/` in the run folder: the journal's numbers as TensorBoard shows them, under the tags that transformers
//! writes. Nothing depends on it: it can be made again from the journal, and a disk that does not take it stops no run.

mod event;
mod frame;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

pub use event::Event;

use crate::evaluation::Evaluation;
use crate::journal::Line;

/// Names of event files: TensorBoard knows them by the beginning, this program its own by the end.
const BEGINNING: &str = "events.out.tfevents.";
const END: &str = ".ecg-train";

/// The event file of a run under way. Each point stands in it once, whatever was interrupted and repeated.
#[derive(Debug)]
pub struct EventFile {
    file: File,
    path: PathBuf,
    /// The last step of each kind of points, `train` and `eval`.
    last: BTreeMap<String, u64>,
}

impl EventFile {
    /// Opens or begins the event file in `dir` and brings it up to `journalled`, all points that the run has so far.
    ///
    /// What is torn or damaged is cut off. A file that knows more than the journal is of another run, and removed.
    ///
    /// # Errors
    /// The folder or the file cannot be read or written.
    pub fn open(dir: &Path, journalled: &[Event]) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let found = ours(dir)?;
        let mut file = match found.as_slice() {
            [path] => Self::go_on(path)?.filter(|file| !file.is_beyond(journalled)),
            _ => None,
        };
        if file.is_none() {
            found.iter().try_for_each(fs::remove_file)?;
            file = Some(Self::begin(dir)?);
        }
        let mut file = file.expect("it was just begun");
        journalled.iter().try_for_each(|event| file.add(event))?;
        Ok(file)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends the points of a step, unless they are there already.
    ///
    /// # Errors
    /// They cannot be written; nothing may be added then, for the file may end in a torn record.
    pub fn add(&mut self, event: &Event) -> io::Result<()> {
        let last = self.last.entry(kind(event)).or_default();
        if event.step <= *last || event.scalars.is_empty() {
            return Ok(());
        }
        *last = event.step;
        self.file.write_all(&frame::frame(&event.encode()))
    }

    fn begin(dir: &Path) -> io::Result<Self> {
        let path = dir.join(format!("{BEGINNING}{:010}{END}", now() as u64));
        let mut file = OpenOptions::new().create_new(true).append(true).open(&path)?;
        file.write_all(&frame::frame(&Event { wall_time: now(), ..Event::default() }.encode()))?;
        Ok(Self { file, path, last: BTreeMap::new() })
    }

    /// A file that is there; `None` if it does not even begin.
    fn go_on(path: &Path) -> io::Result<Option<Self>> {
        let mut bytes = Vec::new();
        let mut file = OpenOptions::new().read(true).append(true).open(path)?;
        file.read_to_end(&mut bytes)?;
        let (events, whole) = events(&bytes);
        file.set_len(whole as u64)?;
        let last = last_steps(&events);
        Ok((!events.is_empty()).then(|| Self { file, path: path.to_owned(), last }))
    }

    fn is_beyond(&self, journalled: &[Event]) -> bool {
        let known = last_steps(journalled);
        self.last.iter().any(|(kind, last)| known.get(kind).copied().unwrap_or(0) < *last)
    }
}

impl Event {
    /// The points of a step. One that was not applied has no loss, gradient norm and entropy; one that learned answers
    /// only has no accuracy of prompts.
    #[must_use]
    pub fn train(line: &Line) -> Self {
        Self::of(
            "train",
            line.step,
            &[
                ("loss", line.loss),
                ("grad_norm", line.grad_norm),
                ("learning_rate", line.learning_rate),
                ("entropy", line.entropy),
                ("num_tokens", line.num_tokens as f64),
                ("mean_token_accuracy", line.mean_token_accuracy),
                ("answer_token_accuracy", line.answer_token_accuracy),
                ("prompt_token_accuracy", line.prompt_token_accuracy.unwrap_or(f64::NAN)),
                ("epoch", line.epoch),
                ("rows_per_second", line.rows_per_second),
                ("data_wait", line.data_wait),
            ],
        )
    }

    /// The points of an evaluation.
    #[must_use]
    pub fn eval(line: &Evaluation) -> Self {
        Self::of(
            "eval",
            line.step,
            &[
                ("loss", line.loss),
                ("entropy", line.entropy),
                ("mean_token_accuracy", line.mean_token_accuracy),
                ("answer_token_accuracy", line.answer_token_accuracy),
                ("prompt_token_accuracy", line.prompt_token_accuracy.unwrap_or(f64::NAN)),
                ("runtime", line.n_rows as f64 / line.rows_per_second),
                ("samples_per_second", line.rows_per_second),
            ],
        )
    }

    fn of(kind: &str, step: u64, scalars: &[(&str, f64)]) -> Self {
        let finite = scalars.iter().filter(|(_, value)| value.is_finite());
        let scalars = finite.map(|(name, value)| (format!("{kind}/{name}"), *value as f32)).collect();
        Self { wall_time: now(), step, scalars }
    }
}

/// The events of a file's bytes up to the first that is torn, damaged or none, and how many bytes those have.
fn events(bytes: &[u8]) -> (Vec<Event>, usize) {
    let (records, whole) = frame::records(bytes);
    match records.iter().map(|record| Event::decode(record)).collect::<Option<_>>() {
        Some(events) => (events, whole),
        None => (Vec::new(), 0),
    }
}

/// All events of an event file, whoever wrote it; those behind a torn or damaged one are left out.
///
/// # Errors
/// The file cannot be read.
pub fn read(path: &Path) -> io::Result<Vec<Event>> {
    Ok(events(&fs::read(path)?).0)
}

fn last_steps(events: &[Event]) -> BTreeMap<String, u64> {
    let mut last = BTreeMap::new();
    for event in events.iter().filter(|event| !event.scalars.is_empty()) {
        let step = last.entry(kind(event)).or_default();
        *step = event.step.max(*step);
    }
    last
}

/// What stands before the tags' slash.
fn kind(event: &Event) -> String {
    let tag = event.scalars.first().map_or("", |(tag, _)| tag);
    tag.split('/').next().unwrap_or_default().to_owned()
}

/// Event files of this program in a folder, by name.
fn ours(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(BEGINNING) && name.ends_with(END) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// Seconds since 1970: for people, never for order.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests;
