//! How likely the model finds each label of a task as its answer, row by row: what a real AUC is made of.
//! It decodes nothing.

use std::path::Path;

use data::{LossOn, Message, Part, Role};
use model::Ops;
use score::{Likelihood, Task};
use serde::{Deserialize, Serialize};

use super::ask::{Asker, progress};
use super::control::Pages;
use super::rows::Rows;
use super::sheet::Sheet;
use super::{Entry, EvalError};
use crate::Error;

/// One line of `likelihood.jsonl`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    /// Row id.
    id: String,
    task: Task,
    /// What is right.
    gold: String,
    /// ln of the probability of each label, in the task's order.
    log_probs: Vec<f64>,
}

impl<O: Ops> Asker<'_, O> {
    /// The scores of a task's likelihoods; none for a task whose answers are from no list.
    pub(super) fn likelihood(&self, rows: &Rows, pages: Pages, folder: &Path) -> Result<Option<Entry>, Error> {
        let Some(candidates) = score::candidates(rows.task) else { return Ok(None) };
        let tokens = candidates.iter().map(|words| self.tokens(words)).collect::<Result<Vec<_>, _>>()?;
        let mut sheet: Sheet<Line> = Sheet::open(&folder.join(pages.file("likelihood")))?;
        let shown = self.shown(rows, pages)?;
        let bar = progress(rows, pages, "likelihoods");
        sheet.fill(
            (&rows.dataset.ids()?, self.window()),
            &bar,
            |_| Ok(1),
            |line| &line.id,
            |window| {
                let dialogues = window.map(|row| self.dialogue(rows, row, pages, shown.as_deref()));
                let dialogues = dialogues.collect::<Result<Vec<_>, _>>()?;
                let mut lines = Vec::with_capacity(dialogues.len());
                for batch in dialogues.chunks(self.args.batch_size as usize) {
                    let requests =
                        batch.iter().map(|dialogue| self.request(dialogue)).collect::<Result<Vec<_>, _>>()?;
                    for (dialogue, log_probs) in batch.iter().zip(self.generator.log_probs(&requests, &tokens)?) {
                        let gold = dialogue.row.messages.iter().find(|m| m.role == Role::Assistant).map(Message::words);
                        let (id, task) = (dialogue.row.id.clone(), rows.task);
                        lines.push(Line { id, task, gold: gold.unwrap_or_default(), log_probs });
                    }
                }
                Ok(lines)
            },
        )?;
        bar.finish_and_clear();
        let likelihoods: Vec<Likelihood> =
            sheet.lines.iter().map(|line| Likelihood { gold: &line.gold, log_probs: &line.log_probs }).collect();
        let bootstrap = self.args.bootstrap();
        let scores = score::score_likelihoods(rows.task, &likelihoods, bootstrap);
        Ok(scores.map(|scores| Entry { pages, bootstrap, scores }))
    }

    /// The tokens of words as the beginning of a model turn.
    fn tokens(&self, words: &str) -> Result<Vec<u32>, Error> {
        let message = |role, text: &str| Message { role, parts: vec![Part::Text(text.to_owned())] };
        let asked = [message(Role::User, "?"), message(Role::Assistant, words)];
        let prompt = self.template.prompt(&asked[..1]).map_err(Error::Prompt)?;
        let whole = self.template.encode(&asked, LossOn::Assistant, usize::MAX).map_err(Error::Prompt)?;
        let end = whole.answers.iter().rposition(|&answer| answer).unwrap_or_default();
        match whole.input_ids.strip_prefix(&*prompt) {
            Some(rest) if end > prompt.len() => Ok(rest[..end - prompt.len()].to_vec()),
            _ => Err(EvalError::NoTokens { label: words.to_owned() }.into()),
        }
    }
}
