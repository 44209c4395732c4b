//! The sections of training runs: curves of all of them over each other, then each one's facts, events and answers.
//! It reads run folders and changes nothing in them; pages of rows are shown only where that was asked for.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use data::{Dataset, Message};
use serde_json::Value;
use trainer::evaluation::{self, Evaluation};
use trainer::journal::{self, Line};
use trainer::{Config, checkpoint};

use super::chart::{Chart, Curve, Mark};
use super::page::{Html, Section};
use crate::{Error, counted, stores};

/// Colours that the style sheet has.
const N_COLOURS: usize = 6;
/// Events that a curve is marked with.
const MARKED: [&str; 6] = ["restart", "late", "lost", "failed", "stopped", "gave_up"];
/// Pixels of a page that is shown, a side.
const PAGE: usize = 560;

/// A run folder.
pub(super) struct Run {
    folder: PathBuf,
    name: String,
    lines: Vec<Line>,
    evaluations: Vec<Evaluation>,
    events: Vec<Value>,
    config: Option<(String, Config)>,
}

impl Run {
    /// Whether a folder is one.
    pub(super) fn is(folder: &Path) -> bool {
        folder.join("journal.jsonl").exists()
    }

    pub(super) fn open(folder: &Path) -> Result<Self, Error> {
        let whole = folder.canonicalize().ok();
        let last = folder.file_name().or_else(|| whole.as_ref()?.file_name());
        let name = last.map(|name| name.to_string_lossy().into_owned());
        let text = fs::read_to_string(folder.join("config.toml")).ok();
        let config = text.and_then(|text| Some((text.clone(), Config::parse("config.toml", &text, &[]).ok()?)));
        let events = fs::read_to_string(folder.join("events.jsonl")).unwrap_or_default();
        let evaluations = match folder.join("eval.jsonl") {
            file if file.exists() => evaluation::read(&file).map_err(trainer::Error::from)?,
            _ => Vec::new(),
        };
        Ok(Self {
            name: name.unwrap_or_else(|| folder.display().to_string()),
            lines: journal::read(&folder.join("journal.jsonl")).map_err(trainer::Error::from)?,
            evaluations,
            // A line that was torn by the end of a machine says nothing.
            events: events.lines().filter_map(|line| serde_json::from_str(line).ok()).collect(),
            config,
            folder: folder.to_owned(),
        })
    }

    /// Everything but the curves.
    pub(super) fn section(&self, with_pages: bool) -> Result<Section, Error> {
        let mut parts = vec![self.facts()?];
        parts.extend(self.events());
        parts.extend(self.answers(with_pages)?);
        if let Some((text, _)) = &self.config {
            parts.push(Html::details("config.toml, as run", &Html::verbatim(text)));
        }
        Ok(Section { title: self.name.clone(), parts })
    }

    /// Where it stands, what it was computed with, and the hashes by which that is known.
    fn facts(&self) -> Result<Html, Error> {
        let mut facts: Vec<(&str, String)> = Vec::new();
        if let Some(last) = self.lines.last() {
            facts.push(("steps", format!("{} ({:.2} epochs)", last.step, last.epoch)));
            facts.push(("loss", format!("{:.4}", last.loss)));
            facts.push(("tokens seen", last.num_tokens.to_string()));
            facts.push(("digest of the last step", last.digest.clone()));
        }
        if let Some(evaluation) = self.evaluations.last() {
            let Evaluation { step, loss, mean_token_accuracy, n_rows, .. } = evaluation;
            let held_out = format!(
                "loss {loss:.4}, accuracy {:.1} % over {n_rows} held-out rows after step {step}",
                100.0 * mean_token_accuracy
            );
            facts.push(("evaluation", held_out));
        }
        let starts = self.events.iter().filter(|event| event["event"] == "environment");
        for start in starts.filter_map(|event| event["text"].as_str()) {
            facts.push(("computed with", start.to_owned()));
        }
        facts.dedup();
        if let (Some(newest), _) = checkpoint::newest(&self.folder).map_err(trainer::Error::from)? {
            facts
                .push(("newest checkpoint", newest.dir.file_name().unwrap_or_default().to_string_lossy().into_owned()));
            facts.push(("rows, blake3", newest.state.rows.clone()));
            facts.push(("config, blake3", newest.state.fingerprint.clone()));
            if let Ok(Some(base)) = lora::base::BaseHashes::open(&newest.dir) {
                facts.push(("base, blake3", base.total().to_hex().to_string()));
            }
        }
        facts.extend(self.data());
        let rows: Vec<_> = facts.into_iter().map(|(name, said)| (false, vec![name.to_owned(), said])).collect();
        Ok(Html::table("words", &["", ""], &rows))
    }

    /// What the manifests of its rows say, where they are prepared and still there.
    fn data(&self) -> Vec<(&'static str, String)> {
        let Some((_, config)) = &self.config else { return Vec::new() };
        let files: Vec<PathBuf> = config.data.train.iter().map(PathBuf::from).filter(|path| path.exists()).collect();
        let Ok(rows) = Dataset::open(&trainer::sources(config, &files)) else { return Vec::new() };
        let mut said = vec![("rows", counted(rows.len(), "row"))];
        for manifest in rows.manifests() {
            let folders: Vec<String> = manifest
                .folders
                .iter()
                .map(|(name, n)| format!("{} {n}", if name.is_empty() { "-" } else { name }))
                .collect();
            let bad = counted(manifest.bad_rows.len(), "bad row");
            let revision =
                manifest.source.revision.as_ref().map_or_else(String::new, |commit| format!(", commit {commit}"));
            said.push((
                "manifest",
                format!(
                    "{} with {} pages, {bad} left out{revision}; by folder: {}",
                    counted(manifest.rows as usize, "row"),
                    manifest.distinct_pages,
                    folders.join(", ")
                ),
            ));
        }
        said
    }

    /// What happened beside the steps.
    fn events(&self) -> Option<Html> {
        let row = |event: &Value| {
            let said = |key: &str| match &event[key] {
                Value::Null => String::new(),
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            (
                MARKED.iter().any(|marked| event["event"] == *marked),
                ["event", "step", "rank", "phase", "text"].map(said).to_vec(),
            )
        };
        let told = self.events.iter().filter(|event| event["event"] != "checkpoint" && event["event"] != "environment");
        let rows: Vec<_> = told.map(row).collect();
        let title = format!("{} beside the steps", counted(rows.len(), "event"));
        (!rows.is_empty())
            .then(|| Html::details(&title, &Html::table("words", &["event", "step", "rank", "phase", ""], &rows)))
    }

    /// Events as marks on a curve; those of one step together.
    fn marks(&self, name_it: bool) -> Vec<Mark> {
        let mut at: BTreeMap<u64, Vec<String>> = BTreeMap::new();
        for event in self.events.iter().filter(|event| MARKED.iter().any(|marked| event["event"] == *marked)) {
            let (what, text) =
                (event["event"].as_str().unwrap_or_default(), event["text"].as_str().unwrap_or_default());
            let whose = if name_it { format!("{}: ", self.name) } else { String::new() };
            let step = event["step"].as_u64().unwrap_or_else(|| at.keys().next_back().copied().unwrap_or(0));
            at.entry(step).or_default().push(format!("{whose}{}: {text}", what.replace('_', " ")));
        }
        at.into_iter().map(|(step, texts)| Mark { step, text: texts.join("; ") }).collect()
    }

    /// What the model said about held-out rows after the last evaluation, with their pages where that was asked for.
    fn answers(&self, with_pages: bool) -> Result<Option<Html>, Error> {
        let Some(last) = self.evaluations.last().filter(|last| !last.answers.is_empty()) else { return Ok(None) };
        let mut parts = vec![Html::heading(format!("Answers on held-out pages after step {}", last.step))];
        if !with_pages {
            let rows: Vec<_> =
                last.answers.iter().map(|answer| (false, vec![answer.id.clone(), answer.answer.clone()])).collect();
            parts.push(Html::table("words", &["row", "the model said"], &rows));
            parts.push(Html::paragraph("soft", "--with-pages shows each row's page, question and answer beside it."));
            return Ok(Some(Html::joined(&parts)));
        }
        let Some((_, config)) = &self.config else { return Ok(Some(Html::joined(&parts))) };
        let files: Vec<PathBuf> = config.data.eval.iter().flatten().map(PathBuf::from).collect();
        let rows = stores::open(&trainer::sources(config, &files))?;
        let ids = rows.ids()?;
        for answer in &last.answers {
            let Some(index) = ids.iter().position(|id| *id == answer.id) else { continue };
            let row = rows.row(index)?;
            let fault = |error| row.error(data::Fault::Page(error));
            let png = data::decode(&row.image).and_then(|page| page.thumbnail(PAGE)).map_err(fault)?;
            let (asked, answers) = row.at_first_answer();
            let words = |message: Option<&Message>| message.map(Message::words).unwrap_or_default();
            let (question, expected) = (words(asked.last()), words(answers.first()));
            let words = [
                ("row", &row.id),
                ("asked", &question),
                ("the model said", &answer.answer),
                ("the row says", &expected),
            ];
            let words = words.map(|(name, text)| (name == "the model said", vec![name.to_owned(), text.clone()]));
            parts.push(Html::picture(
                &png,
                &format!("page of row {}", row.id),
                &Html::table("words", &["", ""], &words),
            ));
        }
        Ok(Some(Html::joined(&parts)))
    }
}

/// Runs of one name get the names of their folders, as they were given.
pub(super) fn tell_apart(runs: &mut [Run]) {
    let names: Vec<String> = runs.iter().map(|run| run.name.clone()).collect();
    for run in runs {
        if names.iter().filter(|name| **name == run.name).count() > 1 {
            run.name = run.folder.display().to_string();
        }
    }
}

/// A chart by its title: curves of the journal by name, and one of the evaluations.
type Plotted<'a> = (&'a str, &'a [(&'a str, fn(&Line) -> f64)], Option<fn(&Evaluation) -> f64>);

/// The curves of all runs, a chart for each number.
pub(super) fn curves(runs: &[Run]) -> Section {
    let charts: [Plotted; 6] = [
        ("loss", &[("training", |line| line.loss)], Some(|e| e.loss)),
        (
            "token accuracy",
            &[
                ("all that is learned", |line| line.mean_token_accuracy),
                ("prompts", |line| line.prompt_token_accuracy.unwrap_or(f64::NAN)),
                ("answers", |line| line.answer_token_accuracy),
            ],
            Some(|e| e.answer_token_accuracy),
        ),
        ("gradient norm, before clipping", &[("", |line| line.grad_norm)], None),
        ("learning rate", &[("", |line| line.learning_rate)], None),
        ("rows a second", &[("", |line| line.rows_per_second)], None),
        ("share of time waited for rows", &[("", |line| line.data_wait)], None),
    ];
    let several = runs.len() > 1;
    let named = |run: &Run, what: &str| match (several, what) {
        (false, what) => what.to_owned(),
        (true, "") => run.name.clone(),
        (true, what) => format!("{}, {what}", run.name),
    };
    let mut parts = Vec::new();
    for (title, of_lines, of_evaluations) in charts {
        let mut chart = Chart { title: title.to_owned(), ..Chart::default() };
        for run in runs {
            let mut add = |what: &str, dotted: bool, points: Vec<(u64, f64)>| {
                // A run that learns answers alone has no accuracy of prompts.
                if points.iter().any(|(_, value)| value.is_finite()) {
                    let colour = chart.lines.len() % N_COLOURS;
                    chart.lines.push(Curve { name: named(run, what), colour, points, dotted });
                }
            };
            for (what, of) in of_lines {
                add(what, false, run.lines.iter().map(|line| (line.step, of(line))).collect());
            }
            if let (Some(of), false) = (of_evaluations, run.evaluations.is_empty()) {
                let what = if title == "loss" { "held-out" } else { "held-out answers" };
                add(what, true, run.evaluations.iter().map(|e| (e.step, of(e))).collect());
            }
            chart.marks.extend(run.marks(several));
        }
        parts.extend(chart.html());
    }
    Section { title: "Curves".to_owned(), parts }
}
