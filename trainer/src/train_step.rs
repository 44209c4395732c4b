//! One optimizer step on one rank, as a straight line. It decides nothing about files, processes or restarts.

use std::mem;
use std::time::{Duration, Instant};

use data::Batch;
use lora::Layout;
use model::parts::Part;
use model::{Checkpointing, Input, LossNorm, MedGemma, Ops, Place, Stat, StepSums, Sums};

use crate::audit::Audit;
use crate::collective::Ranks;
use crate::error::Error;
use crate::faults::Faults;
use crate::journal::Line;
use crate::optimizer::{AdamW, clip_coefficient, grad_norm};
use crate::phase::Phase;
use crate::plan::Plan;
use crate::refused::{Refused, suspects};
use crate::schedule::Schedule;

/// Everything one rank trains with.
pub struct Trainer<O: Ops> {
    pub(crate) ops: O,
    pub(crate) model: MedGemma<O>,
    pub(crate) layout: Layout,
    pub(crate) optim: AdamW,
    pub(crate) ranks: Ranks,
    pub(crate) plan: Plan,
    pub(crate) schedule: Schedule,
    pub(crate) audit: Audit,
    pub(crate) recipe: Recipe,
    /// None but in tests of survival.
    pub(crate) faults: Faults,
    /// Optimizer steps already made.
    pub(crate) step: u64,
    /// Attended tokens since the beginning of the run, over all ranks.
    pub(crate) num_tokens: u64,
    /// Steps among those made that were not applied.
    pub(crate) skipped_steps: u64,
    /// Memory of the step before, used again.
    pub(crate) sums: StepSums,
    pub(crate) grads: Vec<f32>,
}

/// The numbers of a run that a step needs and that never change.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recipe {
    pub seed: u64,
    pub scaling: f32,
    pub dropout: f64,
    pub max_grad_norm: f64,
    /// Steps of the run that may be skipped because they are not finite.
    pub max_skipped_steps: u64,
    pub loss_norm: LossNorm,
    pub checkpointing: Checkpointing,
}

/// When a step began, and how long it has waited for rows.
#[derive(Clone, Copy)]
struct Clock {
    start: Instant,
    waited: Duration,
}

impl<O: Ops> Trainer<O> {
    /// One optimizer step: every rank ends with bit-identical adapters, or the run stops.
    /// `batches` are this rank's micro-batches of the step; `stop` asks all ranks to end after it; `at` hears how far it is.
    pub(crate) fn train_step(
        &mut self,
        mut batches: impl Iterator<Item = Result<Batch, Error>>,
        stop: bool,
        at: &mut dyn FnMut(Phase),
    ) -> Result<(Line, bool), Error> {
        let mut clock = Clock { start: Instant::now(), waited: Duration::ZERO };
        let mut sums = Sums::new(mem::take(&mut self.sums).zero_again(self.layout.len()));
        let mut refused = Refused::default();
        for micro_batch in self.my_micro_batches() {
            at(Phase::Data);
            let asked = Instant::now();
            let Some(batch) = batches.next() else { break };
            clock.waited += asked.elapsed();
            at(Phase::ForwardBackward);
            self.forward_backward(&batch?, micro_batch, &mut sums, &mut refused)?;
        }
        at(Phase::AllReduce);
        let part = Part::Sums.enter();
        let mut sums = self.ops.collect(sums);
        sums.count(Stat::Stop, i64::from(stop));
        self.ranks.all_reduce_i64(sums.as_mut_slice())?;
        drop(part);
        if sums.counted(Stat::NotFinite) > 0 {
            return self.refuse(&sums, &refused, clock); // Before the update: a NaN must never reach the weights.
        }
        at(Phase::Optimizer);
        let part = Part::Optimizer.enter();
        let mut grads = mem::take(&mut self.grads);
        sums.gradients_into(self.recipe.loss_norm.divisor(&sums), &mut grads);
        self.faults.in_memory("gradient", self.step + 1, &mut grads);
        self.audit.check(self.step + 1, &self.layout, self.optim.params(), &grads, sums.counted(Stat::Pages) > 0)?;
        let grad_norm = grad_norm(&grads);
        let learning_rate = self.schedule.lr(self.step);
        self.optim.update(&grads, learning_rate, clip_coefficient(grad_norm, self.recipe.max_grad_norm));
        self.faults.in_memory("weight", self.step + 1, self.optim.params_mut());
        self.adapt();
        drop(part);
        at(Phase::Comparison);
        let line = self.finish(&sums, grad_norm, learning_rate, clock)?;
        let stop = sums.counted(Stat::Stop) > 0;
        (self.sums, self.grads) = (sums, grads);
        Ok((line, stop))
    }

    /// A step with a loss or gradient that is not finite is applied on no rank. It ends the run, naming the rows; or, if the
    /// config says so, it is journalled as skipped: weights and moments stay, data and learning rate go on.
    fn refuse(&mut self, sums: &StepSums, mine: &Refused, clock: Clock) -> Result<(Line, bool), Error> {
        let rows = mine.of_all(&mut self.ranks)?;
        if self.skipped_steps >= self.recipe.max_skipped_steps {
            let (step, n) = (self.step + 1, sums.counted(Stat::NotFinite));
            return Err(Error::NotFinite { step, n, rows, skipped: self.skipped_steps });
        }
        self.skipped_steps += 1;
        let line = self.finish(sums, f64::NAN, self.schedule.lr(self.step), clock)?;
        let line = Line { loss: f64::NAN, entropy: f64::NAN, skipped_rows: rows, ..line };
        Ok((line, sums.counted(Stat::Stop) > 0))
    }

    /// The end of a step, applied or skipped: all ranks have the same weights and moments, or the run stops.
    fn finish(&mut self, sums: &StepSums, grad_norm: f64, learning_rate: f64, clock: Clock) -> Result<Line, Error> {
        let digest = self.require_same_digest()?;
        self.step += 1;
        self.num_tokens += sums.counted(Stat::Tokens).unsigned_abs();
        Ok(self.line(sums, grad_norm, learning_rate, digest, clock))
    }

    /// Forward and backward of one micro-batch; its rows are noted where its numbers are not finite.
    fn forward_backward(
        &self,
        batch: &Batch,
        micro_batch: u64,
        sums: &mut Sums<O::DeviceSums>,
        refused: &mut Refused,
    ) -> Result<(), Error> {
        self.faults.sleep_at("slow", self.step + 1);
        let before = sums.host.counted(Stat::NotFinite);
        let at = Place::Train { seed: self.recipe.seed, step: self.step, micro_batch };
        let how = (self.recipe.loss_norm, self.recipe.checkpointing);
        self.model.forward_backward(&self.ops, &input(batch), at, how, sums)?;
        self.faults.in_sums(self.step + 1, micro_batch, &mut sums.host);
        if sums.host.counted(Stat::NotFinite) > before {
            tracing::error!(step = self.step + 1, rows = ?batch.row_ids, "loss or gradient is not finite");
            refused.add(micro_batch, &batch.row_ids);
        }
        Ok(())
    }

    /// Indices within the step of the micro-batches this rank takes.
    fn my_micro_batches(&self) -> impl Iterator<Item = u64> + use<O> {
        let n = self.plan.step(self.step).micro_batches.len() as u64;
        (self.ranks.rank() as u64..n).step_by(self.ranks.world_size())
    }

    /// Gives the model the optimizer's newest adapters.
    pub(crate) fn adapt(&mut self) {
        let Recipe { scaling, dropout, .. } = self.recipe;
        self.model.adapt(&self.ops, &self.layout, self.optim.params(), scaling, dropout);
    }

    /// Digest of adapters and moments, equal on all ranks.
    fn require_same_digest(&mut self) -> Result<String, Error> {
        let _part = Part::Digest.enter();
        let mine = self.optim.digest();
        let all = self.ranks.all_gather_bytes(mine.as_bytes())?;
        match suspects(&all) {
            suspects if suspects.is_empty() => Ok(mine.to_hex().to_string()),
            ranks => {
                let hex = |digest: &Vec<u8>| digest.iter().map(|byte| format!("{byte:02x}")).collect();
                Err(Error::DigestsDiffer { step: self.step + 1, ranks, digests: all.iter().map(hex).collect() })
            }
        }
    }

    fn line(&self, sums: &StepSums, grad_norm: f64, learning_rate: f64, digest: String, clock: Clock) -> Line {
        let plan = self.plan.step(self.step - 1);
        let took = clock.start.elapsed().as_secs_f64();
        let accuracy = sums.token_accuracy();
        Line {
            step: self.step,
            epoch: self.step as f64 / self.plan.steps_per_epoch() as f64,
            loss: self.recipe.loss_norm.loss(sums),
            grad_norm,
            learning_rate,
            mean_token_accuracy: accuracy.all,
            answer_token_accuracy: accuracy.answers,
            prompt_token_accuracy: accuracy.prompts,
            entropy: sums.sum(Stat::Entropy) / sums.counted(Stat::Supervised).max(1) as f64,
            correct_tokens: sums.counted(Stat::Correct).unsigned_abs(),
            supervised_tokens: sums.counted(Stat::Supervised).unsigned_abs(),
            num_tokens: self.num_tokens,
            rows_per_second: sums.counted(Stat::Rows) as f64 / took,
            data_wait: clock.waited.as_secs_f64() / took,
            first_position: plan.first_position,
            last_position: plan.last_position,
            digest,
            skipped_rows: Vec::new(),
        }
    }
}

/// A batch as the model takes it.
pub(crate) fn input(batch: &Batch) -> Input<'_> {
    Input {
        lengths: &batch.lengths,
        input_ids: &batch.input_ids,
        labels: &batch.labels,
        answers: &batch.answers,
        pages: &batch.pages,
        shown: &batch.shown,
    }
}
