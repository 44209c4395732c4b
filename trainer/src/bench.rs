//! The training step of a run on random weights and rows: the real one, for measurements. It reads and writes no file.

use data::{Batch, Example, IGNORE, Sample};
use lora::Layout;
use model::{MedGemma, ModelConfig, Ops, StepSums};

use crate::audit::Audit;
use crate::collective::Ranks;
use crate::config::Config;
use crate::error::Error;
use crate::faults::Faults;
use crate::journal::Line;

use crate::optimizer::{AdamW, AdamWSettings};
use crate::plan::Plan;
use crate::train_step::{Recipe, Trainer};

/// A rank of its own that repeats one global batch.
pub struct Bench<O: Ops> {
    trainer: Trainer<O>,
    batches: Vec<Batch>,
}

impl<O: Ops> Bench<O> {
    /// The steps of `config` on an engine and a random base of the shape `model`; rows have `lengths` tokens, in turn, and
    /// one page, which as many rows of its micro-batch show as `rows_per_page` says.
    ///
    /// # Errors
    /// `lora.target_modules` names no linear of the model.
    pub fn new(
        ops: O,
        config: &Config,
        model: &ModelConfig,
        rows_per_page: usize,
        lengths: &[usize],
    ) -> Result<Self, Error> {
        let layout = Layout::new(config.lora.targets().select(&model.modules())?, config.lora.r);
        let train = &config.train;
        let settings = AdamWSettings { betas: train.betas, eps: train.eps, weight_decay: train.weight_decay };
        let optim = AdamW::new(lora::init(&layout, config.seed), settings);
        let plan = Plan::new(config, train.global_batch_size);
        let mut random = Random(config.seed);
        let mut lengths = lengths.iter().cycle();
        let batches = (0..train.micro_batches()).map(|_| {
            let mut length = || lengths.next().map_or(config.data.max_seq_len, |&length| length);
            let row = |row| random.row(row / rows_per_page as u32, length(), model);
            let rows: Vec<Sample> = (0..train.micro_batch_size as u32).map(row).collect();
            Batch::collate(rows, random.pages(train.micro_batch_size.div_ceil(rows_per_page), model), 0)
        });
        let batches = batches.collect();
        let mut trainer = Trainer {
            model: MedGemma::random(&ops, model),
            ops,
            layout,
            optim,
            ranks: Ranks::alone(),
            schedule: train.schedule(plan.total_steps()),
            plan,
            audit: Audit::new(),
            faults: Faults::default(),
            recipe: Recipe::new(config),
            step: 0,
            num_tokens: 0,
            sums: StepSums::default(),
            grads: Vec::new(),
            skipped_steps: 0,
        };
        trainer.adapt();
        Ok(Self { trainer, batches })
    }

    /// One optimizer step, and its line of the journal.
    ///
    /// # Errors
    /// As those of a run.
    pub fn step(&mut self) -> Result<Line, Error> {
        let batches = self.batches.iter().cloned().map(Ok);
        Ok(self.trainer.train_step(batches, false, &mut |_| {})?.0)
    }

    /// The engine.
    #[must_use]
    pub fn ops(&self) -> &O {
        &self.trainer.ops
    }

    /// Threads a step runs on.
    #[must_use]
    pub fn threads(&self) -> usize {
        rayon::current_num_threads()
    }

    /// Adapter weights that are trained.
    #[must_use]
    pub fn n_trainable(&self) -> usize {
        self.trainer.layout.len()
    }
}

/// Numbers without a pattern (Knuth's MMIX generator), good enough for rows that nobody reads.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u32) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (((self.0 >> 32) * u64::from(n)) >> 32) as u32
    }

    /// Four tokens of text, a page between its marks, text: all of it is learned but the first mark and the page.
    fn row(&mut self, page: u32, seq_len: usize, model: &ModelConfig) -> Sample {
        let (image, begin) = (model.image_token_index, model.boi_token_index);
        let mut input_ids: Vec<u32> = (0..4).map(|_| self.below(begin.min(image))).collect();
        input_ids.push(begin);
        input_ids.extend(std::iter::repeat_n(image, model.mm_tokens_per_image));
        input_ids.resize_with(seq_len.max(input_ids.len() + 1), || self.below(begin.min(image)));
        let learned = |&id: &u32| if id == image || id == begin { IGNORE } else { i64::from(id) };
        let labels: Vec<i64> = input_ids.iter().map(learned).collect();
        let answers = labels.iter().map(|&label| label != IGNORE).collect();
        Sample { id: format!("random row of page {page}"), example: Example { input_ids, labels, answers }, page }
    }

    fn pages(&mut self, n: usize, model: &ModelConfig) -> Vec<u8> {
        (0..n * 3 * model.vision.image_size.pow(2)).map(|_| self.below(256) as u8).collect()
    }
}
