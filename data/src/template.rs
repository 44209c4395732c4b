//! The text side of a model folder: turns to token ids, labels and the places of answers, as transformers and TRL make them.
//! It never cuts an image block, and never lets a row's words act as control tokens.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, Value, context};

use crate::batch::{Example, IGNORE};
use crate::row::{Message, Part, Role};
use crate::text::{Piece, Text, strip};
use crate::{Error, Fault, Result};

const START_OF_TURN: &str = "<start_of_turn>";
const END_OF_TURN: &str = "<end_of_turn>";
/// What follows `<start_of_turn>` in a model turn, before its content.
const MODEL: &str = "model\n";
/// Instructions a template may take: far above any conversation, far below a hang.
const FUEL: u64 = 1_000_000;

/// What of a conversation is learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LossOn {
    /// Prompt and answer; masked are `<start_of_image>` and soft tokens (and padding), as in the MedGemma notebook.
    All,
    /// The content of each model turn with its `<end_of_turn>`.
    Assistant,
}

/// What the model's `config.json` says about text, and what the run asks for.
#[derive(Debug, Clone, Copy)]
pub struct TemplateOptions {
    /// Soft tokens of one page.
    pub mm_tokens_per_image: usize,
    /// Id of `<image_soft_token>`.
    pub image_token_index: u32,
    /// Id of `<start_of_image>`.
    pub boi_token_index: u32,
    /// One `<bos>` more than the template writes, as the card's script had.
    pub double_bos: bool,
}

/// Ids that generation and padding need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ids {
    /// Padding.
    pub pad: u32,
    /// Begin of text.
    pub bos: u32,
    /// End of text.
    pub eos: u32,
    /// End of a turn.
    pub end_of_turn: u32,
}

/// Tokenizer and chat template of a model folder.
pub struct Template {
    text: Text,
    jinja: Environment<'static>,
    /// The tokens named in `tokenizer_config.json` (`bos_token` ...), which templates use.
    named: Value,
    options: TemplateOptions,
    ids: Ids,
    start_of_turn: u32,
    end_of_image: u32,
    boi: String,
    /// What the processor puts in the place of `boi`.
    image_block: String,
}

impl Template {
    /// Opens `tokenizer.json`, `tokenizer_config.json` and the chat template of `model_dir`, whichever of
    /// `chat_template.jinja`, `chat_template.json` or the key in `tokenizer_config.json` there is.
    ///
    /// # Errors
    /// A file that is missing or damaged, or a token that the model needs and the tokenizer lacks.
    pub fn open(model_dir: &Path, options: TemplateOptions) -> Result<Self> {
        let file = model_dir.join("tokenizer_config.json");
        let config = read_json(&file)?;
        let text = Text::open(&model_dir.join("tokenizer.json"))?;
        let missing = |what: &str| Error::Model { file: file.clone(), reason: format!("{what} is no special token") };
        let name = |key: &str| token(&config, key);
        let id = |token: &str| text.control_id(token).ok_or_else(|| missing(token));
        let named_id = |key: &str| name(key).as_deref().ok_or_else(|| missing(key)).and_then(id);
        let letters = |id: u32| text.control_text(id).ok_or_else(|| missing(&format!("config.json's token {id}")));
        let ids = Ids {
            pad: named_id("pad_token")?,
            bos: named_id("bos_token")?,
            eos: named_id("eos_token")?,
            end_of_turn: id(END_OF_TURN)?,
        };
        let (boi, soft) = (letters(options.boi_token_index)?, letters(options.image_token_index)?);
        let eoi = name("eoi_token").unwrap_or_else(|| "<end_of_image>".into());
        let named = config.as_object().into_iter().flat_map(|c| c.keys()).filter(|key| key.ends_with("_token"));
        let named: BTreeMap<_, _> = named.filter_map(|key| Some((key.clone(), Value::from(name(key)?)))).collect();
        Ok(Self {
            jinja: environment(model_dir, &config)?,
            named: Value::from(named),
            options,
            ids,
            start_of_turn: id(START_OF_TURN)?,
            end_of_image: id(&eoi)?,
            image_block: format!("\n\n{boi}{}{eoi}\n\n", soft.repeat(options.mm_tokens_per_image)),
            boi,
            text,
        })
    }

    /// Ids that generation and padding need.
    #[must_use]
    pub fn ids(&self) -> Ids {
        self.ids
    }

    /// The highest token id and one: what the model's embedding must at least have.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.text.vocab_size()
    }

    /// A conversation for training: rendered, stripped, expanded, encoded, labelled, and its tail cut at `max_seq_len`.
    ///
    /// # Errors
    /// What the template or the tokenizer refuses; a cut that would reach an image block or leave nothing to learn.
    pub fn encode(
        &self,
        messages: &[Message],
        loss_on: LossOn,
        max_seq_len: usize,
    ) -> std::result::Result<Example, Fault> {
        let rendered = self.render(messages, false)?;
        let (mut input_ids, mut answers) = self.tokens(strip(&rendered))?;
        let len = input_ids.len();
        match input_ids.iter().rposition(|&id| id == self.end_of_image) {
            Some(last) if last >= max_seq_len => return Err(Fault::ImageCut { end: last + 1, max_seq_len }),
            _ => {}
        }
        input_ids.truncate(max_seq_len);
        answers.truncate(max_seq_len);
        let learned = |(&id, &answer): (&u32, &bool)| match loss_on {
            LossOn::All => id != self.options.boi_token_index && id != self.options.image_token_index,
            LossOn::Assistant => answer,
        };
        let label = |token: (&u32, &bool)| if learned(token) { i64::from(*token.0) } else { IGNORE };
        let labels: Vec<i64> = input_ids.iter().zip(&answers).map(label).collect();
        // The first token is nobody's target.
        if labels.iter().skip(1).all(|&label| label == IGNORE) {
            return Err(Fault::NothingSupervised { len, max_seq_len });
        }
        Ok(Example { input_ids, labels, answers })
    }

    /// Token ids of a conversation that the model is to go on with: rendered with the generation prompt, not stripped.
    ///
    /// # Errors
    /// What the template or the tokenizer refuses.
    pub fn prompt(&self, messages: &[Message]) -> std::result::Result<Vec<u32>, Fault> {
        Ok(self.tokens(&self.render(messages, true)?)?.0)
    }

    /// The words of token ids, without control tokens.
    #[must_use]
    pub fn decode(&self, ids: &[u32]) -> String {
        self.text.decode(ids)
    }

    /// Token ids as text in which control tokens are visible.
    #[must_use]
    pub fn spell(&self, ids: &[u32]) -> String {
        self.text.spell(ids)
    }

    /// The conversation as the template writes it, words escaped, one image marker a page.
    fn render(&self, messages: &[Message], add_generation_prompt: bool) -> std::result::Result<String, Fault> {
        let part = |part: &Part| match part {
            Part::Image => context!(type => "image"),
            Part::Text(words) => context!(type => "text", text => self.text.escape(words)),
        };
        let message = |message: &Message| {
            let role = match message.role {
                Role::System => "system",
                Role::User => "user",
                Role::Assistant => "assistant",
            };
            context!(role, content => message.parts.iter().map(part).collect::<Vec<_>>())
        };
        let messages_value: Vec<Value> = messages.iter().map(message).collect();
        let rendered = self
            .jinja
            .get_template("chat")
            .and_then(|t| t.render(context!(messages => messages_value, add_generation_prompt, ..self.named.clone())))
            .map_err(|e| Fault::Template(e.to_string()))?;
        let expected = messages.iter().flat_map(|m| &m.parts).filter(|part| **part == Part::Image).count();
        match rendered.matches(&self.boi).count() {
            n if n == expected => Ok(rendered),
            rendered => Err(Fault::ImageMarkers { rendered, expected }),
        }
    }

    /// Ids of rendered text, image markers expanded; and which of them are content or end of a model turn.
    fn tokens(&self, rendered: &str) -> std::result::Result<(Vec<u32>, Vec<bool>), Fault> {
        let expanded = rendered.replace(&self.boi, &self.image_block);
        let mut ids = if self.options.double_bos { vec![self.ids.bos] } else { Vec::new() };
        let mut answers = vec![false; ids.len()];
        let (mut turn_begins, mut answering) = (false, false);
        for piece in self.text.pieces(&expanded) {
            match piece {
                Piece::Control(id) => {
                    ids.push(id);
                    answers.push(answering);
                    turn_begins = id == self.start_of_turn;
                    answering &= id != self.ids.end_of_turn;
                }
                Piece::Words(words) => {
                    let content = if turn_begins && words.starts_with(MODEL) { MODEL.len() } else { 0 };
                    answering |= content > 0;
                    turn_begins = false;
                    for (id, start) in self.text.encode(words)? {
                        ids.push(id);
                        answers.push(answering && start >= content);
                    }
                }
            }
        }
        Ok((ids, answers))
    }
}

fn read_json(file: &Path) -> Result<serde_json::Value> {
    let wrong = |reason: String| Error::Model { file: file.to_owned(), reason };
    let bytes = fs::read(file).map_err(|e| wrong(e.to_string()))?;
    serde_json::from_slice(&bytes).map_err(|e| wrong(e.to_string()))
}

/// A token of `tokenizer_config.json`: a string, or an object with its `content`.
fn token(config: &serde_json::Value, key: &str) -> Option<String> {
    let value = config.get(key)?;
    value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
}

/// A Jinja environment as transformers sets it up, holding the folder's chat template.
fn environment(model_dir: &Path, config: &serde_json::Value) -> Result<Environment<'static>> {
    let file = model_dir.join("chat_template.jinja");
    let source = if file.exists() {
        fs::read_to_string(&file).map_err(|e| Error::Model { file: file.clone(), reason: e.to_string() })?
    } else {
        let beside = read_json(&model_dir.join("chat_template.json")).unwrap_or_default();
        let found = [&beside, config].into_iter().find_map(|json| json.get("chat_template")?.as_str());
        let reason = "not there, nor in chat_template.json or tokenizer_config.json".into();
        found.ok_or(Error::Model { file: file.clone(), reason })?.to_owned()
    };
    let wrong = |reason| Error::Model { file: file.clone(), reason };
    let mut jinja = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    jinja.set_syntax(syntax.map_err(|e| wrong(e.to_string()))?);
    jinja.set_fuel(Some(FUEL));
    jinja.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    jinja.add_filter("trim", |text: &str| strip(text).to_owned());
    jinja.add_function("raise_exception", |reason: String| -> std::result::Result<Value, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, reason))
    });
    jinja.add_template_owned("chat", source).map_err(|e| wrong(e.to_string()))?;
    Ok(jinja)
}

#[cfg(test)]
mod tests;
