//! Answers of a model, base or adapted, to a batch of prompts, token by token. It never changes the model.

mod likelihood;

use std::path::Path;

use lora::Layout;
use lora::base::{Base, BaseHashes};

use crate::config::ModelConfig;
use crate::error::Error;
use crate::generation_config::GenerationConfig;
use crate::input::Input;
use crate::medgemma::MedGemma;
use crate::ops::Ops;
use crate::sample::{Sampling, argmax};

/// One prompt: its token ids (soft tokens expanded) and its pages, each `u8 [size, size, 3]`.
#[derive(Clone, Debug)]
pub struct GenerateRequest {
    pub input_ids: Vec<u32>,
    pub pages: Vec<Vec<u8>>,
}

/// What a model said to one prompt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Without the end token.
    pub tokens: Vec<u32>,
    /// Whether an end token came, and not the limit.
    pub ended: bool,
}

/// A model ready to answer.
pub struct Generator<O: Ops> {
    ops: O,
    model: MedGemma<O>,
    defaults: GenerationConfig,
}

impl<O: Ops> Generator<O> {
    /// Opens a model folder, and beside it the folder of a PEFT adapter.
    ///
    /// # Errors
    /// The folder is not a model this program computes exactly, or the adapter does not fit it or was trained on another.
    pub fn open(ops: O, model_dir: &Path, adapter: Option<&Path>) -> Result<Self, Error> {
        let config = ModelConfig::open(model_dir)?;
        let base = open_base(&config, model_dir, adapter)?;
        let mut model = MedGemma::load(&ops, &config, &base)?;
        if let Some(dir) = adapter {
            let adapter_config = lora::AdapterConfig::open(dir)?;
            let modules = adapter_config.target_modules.select(&config.modules())?;
            let layout = Layout::new(modules, adapter_config.r);
            let (flat, _) = lora::read_adapter(dir, &layout)?;
            model.adapt(&ops, &layout, &flat, adapter_config.scaling(), 0.0);
        }
        Ok(Self { ops, model, defaults: GenerationConfig::open(model_dir, &config)? })
    }

    /// Of a model that no folder holds, whose answers never end: for measurements.
    pub fn endless(ops: O, model: MedGemma<O>) -> Self {
        Self { ops, model, defaults: GenerationConfig { eos_token_ids: Vec::new(), top_k: 0, top_p: 1.0 } }
    }

    /// The model's configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.model.config
    }

    /// What the model's folder says about generation.
    pub fn defaults(&self) -> &GenerationConfig {
        &self.defaults
    }

    /// Logits of every position of one prompt, `[tokens, vocab]`.
    ///
    /// # Errors
    /// As [`Generator::answer`].
    pub fn logits(&self, request: &GenerateRequest) -> Result<Vec<f32>, Error> {
        let prompt = Prompts::new(std::slice::from_ref(request))?;
        Ok(self.ops.download(&self.model.logits(&self.ops, &prompt.input(), &mut |_, _| {})?))
    }

    /// The most likely tokens after each prompt, up to `max_new_tokens` or an end token (which is not returned).
    /// `on_token` hears of each token of each row as it comes.
    ///
    /// # Errors
    /// As [`Generator::answer`].
    pub fn generate(
        &self,
        requests: &[GenerateRequest],
        max_new_tokens: usize,
        on_token: &mut dyn FnMut(usize, u32),
    ) -> Result<Vec<Vec<u32>>, Error> {
        let answers = self.answer(requests, max_new_tokens, None, on_token)?;
        Ok(answers.into_iter().map(|answer| answer.tokens).collect())
    }

    /// Tokens after each prompt, drawn by `sampling` or, without, the most likely ones, up to `max_new_tokens` or an end
    /// token. Prompts form one batch, of any lengths and numbers of pages; a row that has ended is computed no further.
    ///
    /// # Errors
    /// An empty prompt, ids outside the vocabulary, pages that do not match the soft tokens, logits that are not numbers.
    pub fn answer(
        &self,
        requests: &[GenerateRequest],
        max_new_tokens: usize,
        sampling: Option<&Sampling>,
        on_token: &mut dyn FnMut(usize, u32),
    ) -> Result<Vec<Answer>, Error> {
        self.model.answer(&self.ops, requests, (max_new_tokens, &self.defaults.eos_token_ids), sampling, on_token)
    }
}

impl<O: Ops> MedGemma<O> {
    /// As [`Generator::answer`], of a model in other hands, with the ids that end an answer.
    ///
    /// # Errors
    /// As there.
    pub fn answer(
        &self,
        ops: &O,
        requests: &[GenerateRequest],
        (max_new_tokens, ends): (usize, &[u32]),
        sampling: Option<&Sampling>,
        on_token: &mut dyn FnMut(usize, u32),
    ) -> Result<Vec<Answer>, Error> {
        let mut answers = vec![Answer::default(); requests.len()];
        if requests.is_empty() || max_new_tokens == 0 {
            return Ok(answers);
        }
        let keys: Vec<u64> = requests.iter().map(|r| sampling.map_or(0, |sampling| sampling.key(r))).collect();
        let choose = |logits: &[f32], row: usize, nth: usize| {
            let best = argmax(logits);
            match sampling {
                _ if !logits[best as usize].is_finite() => Err(Error::NotFinite { row, nth }),
                None => Ok(best),
                Some(sampling) => Ok(sampling.draw(logits, keys[row], nth)),
            }
        };
        let (mut logits, mut cache) = self.prompt_logits(ops, &Prompts::new(requests)?.input())?;
        // Rows that have not ended.
        let mut rows: Vec<usize> = (0..requests.len()).collect();
        for nth in 0.. {
            let downloaded = ops.download(&logits);
            let logits_of = downloaded.chunks(downloaded.len() / rows.len());
            let mut newest = Vec::with_capacity(rows.len());
            for (&row, logits) in rows.iter().zip(logits_of) {
                let token = choose(logits, row, nth)?;
                answers[row].ended = ends.contains(&token);
                if !answers[row].ended {
                    answers[row].tokens.push(token);
                    on_token(row, token);
                }
                newest.push(token);
            }
            if nth + 1 == max_new_tokens {
                break;
            }
            let going: Vec<usize> = (0..rows.len()).filter(|&i| !answers[rows[i]].ended).collect();
            if going.is_empty() {
                break;
            }
            if going.len() < rows.len() {
                cache.retain(ops, &going);
                rows = going.iter().map(|&i| rows[i]).collect();
                newest = going.iter().map(|&i| newest[i]).collect();
            }
            logits = self.next_logits(ops, &newest, &mut cache);
        }
        Ok(answers)
    }
}

/// The base, every number of it compared with what the adapter says that it was trained on, if it says so.
fn open_base(config: &ModelConfig, model_dir: &Path, adapter: Option<&Path>) -> Result<Base, Error> {
    let Some(adapter) = adapter else { return config.open_base(model_dir) };
    let Some(trained_on) = BaseHashes::open(adapter)? else { return config.open_base(model_dir) };
    let (base, hashes) = config.open_base_read(model_dir)?;
    hashes.require(model_dir, adapter, &trained_on)?;
    Ok(base)
}

/// Prompts as one packed batch, in which a page that several show lies once.
struct Prompts {
    lengths: Vec<usize>,
    input_ids: Vec<u32>,
    pages: Vec<u8>,
    shown: Vec<u32>,
}

impl Prompts {
    fn new(requests: &[GenerateRequest]) -> Result<Self, Error> {
        if requests.iter().any(|r| r.input_ids.is_empty()) {
            return Err(Error::EmptyPrompt);
        }
        let mut distinct: Vec<&Vec<u8>> = Vec::new();
        let place = |page| {
            let known = distinct.iter().position(|known| *known == page);
            known.unwrap_or_else(|| {
                distinct.push(page);
                distinct.len() - 1
            }) as u32
        };
        let shown = requests.iter().flat_map(|r| &r.pages).map(place).collect();
        Ok(Self {
            lengths: requests.iter().map(|r| r.input_ids.len()).collect(),
            input_ids: requests.iter().flat_map(|r| r.input_ids.iter().copied()).collect(),
            pages: distinct.into_iter().flatten().copied().collect(),
            shown,
        })
    }

    /// What is supervised does not matter here.
    fn input(&self) -> Input<'_> {
        let Self { lengths, input_ids, pages, shown } = self;
        Input { lengths, input_ids, labels: &[], answers: &[], pages, shown }
    }
}

#[cfg(test)]
mod tests;
