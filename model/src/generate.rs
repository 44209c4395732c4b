//! Greedy answers of a model, base or adapted, with a cache of keys and values. It never changes the model.

use std::path::Path;

use lora::Layout;

use crate::attention::KvCache;
use crate::config::ModelConfig;
use crate::error::Error;
use crate::input::Input;
use crate::medgemma::MedGemma;
use crate::ops::Ops;

/// One prompt: its token ids (soft tokens expanded) and its pages, each `u8 [size, size, 3]`.
#[derive(Clone, Debug)]
pub struct GenerateRequest {
    pub input_ids: Vec<u32>,
    pub pages: Vec<Vec<u8>>,
}

/// A model ready to answer.
pub struct Generator<O: Ops> {
    ops: O,
    model: MedGemma<O>,
}

impl<O: Ops> Generator<O> {
    /// Opens a model folder, and beside it the folder of a PEFT adapter.
    ///
    /// # Errors
    /// The folder is not a model this program computes exactly, or the adapter does not fit it.
    pub fn open(ops: O, model_dir: &Path, adapter: Option<&Path>) -> Result<Self, Error> {
        let config = ModelConfig::open(model_dir)?;
        let mut model = MedGemma::load(&ops, &config, &config.open_base(model_dir)?)?;
        if let Some(dir) = adapter {
            let adapter_config = lora::AdapterConfig::open(dir)?;
            let modules = adapter_config.target_modules.select(&config.modules())?;
            let layout = Layout::new(modules, adapter_config.r);
            let (flat, _) = lora::read_adapter(dir, &layout)?;
            model.adapt(&ops, &layout, &flat, adapter_config.scaling(), 0.0);
        }
        Ok(Self { ops, model })
    }

    /// The model's configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.model.config
    }

    /// The most likely tokens after each prompt, up to `max_new_tokens` or an end token (which is not returned).
    /// All prompts form one batch, so they have one length and equally many pages; `on_token` hears of each token of
    /// each row as it comes.
    ///
    /// # Errors
    /// Uneven prompts, ids outside the vocabulary, or pages that do not match the soft tokens.
    pub fn generate(
        &self,
        requests: &[GenerateRequest],
        max_new_tokens: usize,
        on_token: &mut dyn FnMut(usize, u32),
    ) -> Result<Vec<Vec<u32>>, Error> {
        let Some(first) = requests.first() else { return Ok(Vec::new()) };
        let even =
            |r: &GenerateRequest| (r.input_ids.len(), r.pages.len()) == (first.input_ids.len(), first.pages.len());
        if first.input_ids.is_empty() || !requests.iter().all(even) {
            return Err(Error::UnevenPrompts);
        }
        let n_rows = requests.len();
        let mut newest: Vec<u32> = requests.iter().flat_map(|r| r.input_ids.iter().copied()).collect();
        let mut pages: Vec<u8> = requests.iter().flat_map(|r| r.pages.iter().flatten().copied()).collect();
        let mut shown: Vec<u32> = (0..requests.iter().map(|r| r.pages.len() as u32).sum()).collect();
        let mut lengths = vec![first.input_ids.len(); n_rows];
        let mut visibility = self.model.visibility(&input(&newest, &lengths, &pages, &shown));
        let mut cache: Vec<Option<KvCache<O::Tensor>>> = vec![None; self.model.layers.len()];
        let mut answers = vec![Vec::new(); n_rows];
        let mut ended = vec![false; n_rows];
        for _ in 0..max_new_tokens {
            let input = input(&newest, &lengths, &pages, &shown);
            let logits = self.model.next_logits(&self.ops, &input, &visibility, &mut cache)?;
            newest = argmax_rows(&self.ops.download(&logits), n_rows);
            pages.clear();
            shown.clear();
            lengths.fill(1);
            for (row, &token) in newest.iter().enumerate() {
                ended[row] |= self.config().eos_token_ids.contains(&token);
                if !ended[row] {
                    answers[row].push(token);
                    on_token(row, token);
                }
            }
            if ended.iter().all(|&done| done) {
                break;
            }
            visibility.push_text();
        }
        Ok(answers)
    }
}

/// A batch of the newest tokens only; what is supervised does not matter here.
fn input<'a>(newest: &'a [u32], lengths: &'a [usize], pages: &'a [u8], shown: &'a [u32]) -> Input<'a> {
    Input { lengths, input_ids: newest, labels: &[], answers: &[], pages, shown }
}

/// The first of the largest numbers of each row.
fn argmax_rows(logits: &[f32], n_rows: usize) -> Vec<u32> {
    logits
        .chunks(logits.len() / n_rows)
        .map(|row| row.iter().enumerate().fold(0, |best, (i, &l)| if l > row[best] { i } else { best }) as u32)
        .collect()
}
