//! The text side of the base: its tokenizer and template, and whether the model has a row for every token.

use std::path::Path;
use std::sync::Arc;

use data::{Ids, Template};

use super::{Finding, Subject};
use crate::Error;

/// Opened as the run opens it, special tokens named.
pub(super) fn check(subject: &mut Subject) -> Vec<Finding> {
    let (Some(config), Some(model)) = (&subject.config, &subject.model) else { return Vec::new() };
    let options = trainer::template_options(model, config.data.double_bos);
    let template = match Template::open(Path::new(&config.model.path), options) {
        Ok(template) => template,
        Err(error) => return vec![Finding::error(error)],
    };
    let (tokens, rows) = (template.vocab_size(), model.text.vocab_size);
    if tokens > rows {
        return vec![Finding::error(Error::TooManyTokens { model: config.model.path.clone(), tokens, rows })];
    }
    let Ids { pad, bos, eos, end_of_turn } = template.ids();
    let named = [bos, eos, pad, end_of_turn, model.boi_token_index, model.image_token_index];
    let named: Vec<String> = named.iter().map(|&id| format!("{} {id}", template.spell(&[id]))).collect();
    let found = Finding::ok(format!("{tokens} tokens, an embedding of {rows}; {}", named.join(", ")));
    subject.template = Some(Arc::new(template));
    vec![found]
}
