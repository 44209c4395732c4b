//! Asks the model about every row of a task, in windows of a few batches, and keeps what it says.
//! It decodes greedily: the published numbers are of temperature 0.

use std::path::Path;

use data::{Fault, Message, Part, Role, Row, Template};
use indicatif::{ProgressBar, ProgressStyle};
use model::Ops;
use model::generate::{GenerateRequest, Generator};

use super::answers::Answer;
use super::control::{self, Pages};
use super::rows::Rows;
use super::sheet::Sheet;
use crate::Error;
use crate::cli::EvalArgs;

/// Batches of a window: what a kill may cost.
const BATCHES: usize = 4;
/// The channels of blank paper.
const WHITE: u8 = 255;

/// A model and how it is asked.
pub(super) struct Asker<'a, O: Ops> {
    pub template: Template,
    pub generator: Generator<O>,
    pub args: &'a EvalArgs,
}

/// A row with the page that is shown and what was said so far.
pub(super) struct Dialogue {
    pub row: Row,
    page: Vec<u8>,
    said: Vec<(String, usize)>,
}

impl<O: Ops> Asker<'_, O> {
    /// The answers to all rows: those of the file in `folder`, and behind them the missing ones.
    pub(super) fn answers(&self, rows: &Rows, pages: Pages, folder: &Path) -> Result<Vec<Answer>, Error> {
        let mut sheet: Sheet<Answer> = Sheet::open(&folder.join(pages.file("answers")))?;
        let shown = self.shown(rows, pages)?;
        let bar = progress(rows, pages, "rows answered");
        let n_lines = |row: usize| match rows.is_dialogue() {
            true => Ok(rows.n_questions(&rows.dataset.row(row)?)),
            false => Ok(1),
        };
        sheet.fill(
            (&rows.dataset.ids()?, self.window()),
            &bar,
            n_lines,
            |line| &line.id,
            |window| {
                let dialogues = window.map(|row| self.dialogue(rows, row, pages, shown.as_deref()));
                self.ask(rows, dialogues.collect::<Result<_, _>>()?)
            },
        )?;
        bar.finish_and_clear();
        Ok(sheet.lines)
    }

    /// Rows that are asked, and kept, together.
    pub(super) fn window(&self) -> usize {
        self.args.batch_size as usize * BATCHES
    }

    /// The row whose page each row is shown; none for its own or no page.
    pub(super) fn shown(&self, rows: &Rows, pages: Pages) -> Result<Option<Vec<usize>>, Error> {
        match pages {
            Pages::Own | Pages::Blank => Ok(None),
            Pages::Shuffled => control::shuffled(&rows.dataset, self.args.seed).map(Some),
        }
    }

    /// `u8 [size, size, 3]` of what a row is shown.
    fn page(&self, row: &Row, rows: &Rows, other: Option<usize>, pages: Pages) -> Result<Vec<u8>, Error> {
        let size = self.generator.config().vision.image_size;
        let decode = |row: &Row| data::page(&row.image, size).map_err(|error| of_row(row, Fault::Page(error)));
        match (pages, other) {
            (Pages::Blank, _) => Ok(vec![WHITE; size * size * 3]),
            (_, Some(other)) => decode(&rows.dataset.row(other)?),
            (_, None) => decode(row),
        }
    }

    pub(super) fn dialogue(
        &self,
        rows: &Rows,
        at: usize,
        pages: Pages,
        shown: Option<&[usize]>,
    ) -> Result<Dialogue, Error> {
        let row = rows.dataset.row(at)?;
        let page = self.page(&row, rows, shown.map(|shown| shown[at]), pages)?;
        Ok(Dialogue { row, page, said: Vec::new() })
    }

    /// Question by question: later ones of a dialogue are asked with the model's own answers before them.
    fn ask(&self, rows: &Rows, mut dialogues: Vec<Dialogue>) -> Result<Vec<Answer>, Error> {
        let n_questions: Vec<usize> = dialogues.iter().map(|dialogue| rows.n_questions(&dialogue.row)).collect();
        for turn in 0..n_questions.iter().copied().max().unwrap_or_default() {
            let asked: Vec<usize> = (0..dialogues.len()).filter(|&i| turn < n_questions[i]).collect();
            for batch in asked.chunks(self.args.batch_size as usize) {
                let requests = batch.iter().map(|&i| self.request(&dialogues[i])).collect::<Result<Vec<_>, _>>()?;
                for (&i, tokens) in batch.iter().zip(self.generate(&requests)?) {
                    dialogues[i].said.push((self.template.decode(&tokens), tokens.len()));
                }
            }
        }
        let lines = |dialogue: Dialogue| {
            let Dialogue { row, said, .. } = dialogue;
            let of = |role| row.messages.iter().filter(move |m| m.role == role).map(Message::words);
            let turns: Vec<_> = of(Role::User).zip(of(Role::Assistant)).zip(said).enumerate().collect();
            turns.into_iter().map(move |(turn, ((question, gold), (answer, tokens)))| Answer {
                id: row.id.clone(),
                task: rows.task,
                turn,
                question,
                gold,
                answer,
                tokens,
            })
        };
        Ok(dialogues.into_iter().flat_map(lines).collect())
    }

    /// The next question of a dialogue.
    pub(super) fn request(&self, dialogue: &Dialogue) -> Result<GenerateRequest, Error> {
        let mut said = dialogue.said.iter();
        let mut messages = Vec::new();
        for message in &dialogue.row.messages {
            match message.role {
                Role::Assistant => match said.next() {
                    Some((text, _)) => {
                        messages.push(Message { role: Role::Assistant, parts: vec![Part::Text(text.clone())] });
                    }
                    None => break,
                },
                _ => messages.push(message.clone()),
            }
        }
        let input_ids = self.template.prompt(&messages).map_err(|fault| of_row(&dialogue.row, fault))?;
        Ok(GenerateRequest { input_ids, pages: vec![dialogue.page.clone()] })
    }

    fn generate(&self, requests: &[GenerateRequest]) -> Result<Vec<Vec<u32>>, Error> {
        Ok(self.generator.generate(requests, self.args.max_new_tokens as usize, &mut |_, _| {})?)
    }
}

fn of_row(row: &Row, fault: Fault) -> Error {
    Error::Data(row.error(fault))
}

pub(super) fn progress(rows: &Rows, pages: Pages, what: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix}: {pos}/{len} {msg}, {eta} left");
    let bar =
        ProgressBar::new(rows.dataset.len() as u64).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let control = pages.control().map(|control| format!(", {control}")).unwrap_or_default();
    bar.with_prefix(format!("{}{control}", rows.task)).with_message(what)
}
