//! Evaluation during training: loss, accuracy and a few answers on rows that are never trained on, the same bits on any
//! number of ranks. It never changes a weight, and draws nothing.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use data::{Dataset, Loader, LoaderOptions, MicroPlan, Order, Shuffle, Template};
use model::generate::GenerateRequest;
use model::{GenerationConfig, ModelConfig, Ops, Stat, StepSums};

use crate::config::Config;
use crate::error::Error;
use crate::evaluation::{Answer, Evaluation};
use crate::phase::Phase;
use crate::train_step::{Trainer, input};

/// Rows of which the model answers the first question, and the longest answer: enough to see what it says, not to score it.
const N_ANSWERS: usize = 4;
const MAX_NEW_TOKENS: usize = 64;

/// The rows, and when they are evaluated.
pub(crate) struct HeldOut {
    dataset: Arc<Dataset>,
    template: Arc<Template>,
    image_size: usize,
    options: LoaderOptions,
    /// All ranks' micro-batches, and how many rows they have.
    micro_batches: Vec<MicroPlan>,
    n_rows: usize,
    /// This rank's share of the questions, and ids of tokens that end an answer.
    questions: Vec<(String, GenerateRequest)>,
    ends: Vec<u32>,
    every: u64,
    rank: usize,
    world_size: usize,
    id: blake3::Hash,
}

/// What a rank needs to know to hold out rows.
pub(crate) struct HeldOutSpec<'a> {
    pub config: &'a Config,
    pub model: &'a ModelConfig,
    pub model_dir: &'a Path,
    pub template: Arc<Template>,
    pub rank: usize,
    pub world_size: usize,
    pub options: LoaderOptions,
}

impl HeldOut {
    /// Of the open rows of `data.eval`: the first `eval_rows` in the order that `seed` puts them in.
    ///
    /// # Errors
    /// A row that is to be answered cannot be asked about.
    pub fn new(dataset: Dataset, every: u64, spec: HeldOutSpec) -> Result<Self, Error> {
        let HeldOutSpec { config, model, model_dir, template, rank, world_size, options } = spec;
        let n_rows = config.data.eval_rows.map_or(dataset.len(), |n| dataset.len().min(n as usize));
        let order = Order::new(dataset.len(), config.seed, Shuffle::Own);
        let rows: Vec<usize> = (0..n_rows).map(|position| order.row(0, position)).collect();
        let size = config.train.micro_batch_size;
        let micro =
            |(nth, rows): (usize, &[usize])| MicroPlan { rows: rows.to_vec(), first_position: (nth * size) as u64 };
        let image_size = model.vision.image_size;
        let asked = rows.iter().take(N_ANSWERS).skip(rank).step_by(world_size);
        let id = format!("{} {n_rows} {every} {N_ANSWERS} {MAX_NEW_TOKENS}", dataset.fingerprint());
        Ok(Self {
            questions: asked.map(|&row| question(&dataset, row, &template, image_size)).collect::<Result<_, _>>()?,
            micro_batches: rows.chunks(size).enumerate().map(micro).collect(),
            options,
            ends: GenerationConfig::open(model_dir, model)?.eos_token_ids,
            id: blake3::hash(id.as_bytes()),
            dataset: Arc::new(dataset),
            template,
            image_size,
            n_rows,
            every,
            rank,
            world_size,
        })
    }

    /// What is evaluated and when.
    pub fn id(&self) -> blake3::Hash {
        self.id
    }

    /// Whether the rows are evaluated after this step.
    pub fn is_due(&self, step: u64, total_steps: u64) -> bool {
        step > 0 && (step.is_multiple_of(self.every) || step == total_steps)
    }

    /// Makes this rank's share of the batches and forgets them.
    ///
    /// # Errors
    /// The first row that cannot be evaluated.
    pub fn require_good_rows(&self) -> Result<(), Error> {
        Ok(self.batches().try_for_each(|batch| batch.map(drop))?)
    }

    /// This rank's share, decoded ahead.
    fn batches(&self) -> Loader {
        let share: Vec<_> = self.micro_batches.iter().skip(self.rank).step_by(self.world_size).cloned().collect();
        Loader::spawn(self.dataset.clone(), self.template.clone(), self.image_size, self.options, share.into_iter())
    }

    fn n_answers(&self) -> usize {
        self.n_rows.min(N_ANSWERS)
    }
}

/// The first question of a row, with its page.
fn question(
    dataset: &Dataset,
    row: usize,
    template: &Template,
    image_size: usize,
) -> Result<(String, GenerateRequest), data::Error> {
    let row = dataset.row(row)?;
    let made = template.prompt(row.at_first_answer().0).and_then(|input_ids| {
        Ok(GenerateRequest { input_ids, pages: vec![data::page(&row.image, image_size).map_err(data::Fault::from)?] })
    });
    match made {
        Ok(request) => Ok((row.id, request)),
        Err(fault) => Err(row.error(fault)),
    }
}

impl<O: Ops> Trainer<O> {
    /// Evaluates the held-out rows by the weights as they are; and says whether a stop was asked for. `None`: the stop
    /// came before all was computed. Both are the same on all ranks.
    pub(crate) fn evaluate(
        &mut self,
        held_out: &HeldOut,
        stop: &AtomicBool,
        at: &mut dyn FnMut(Phase),
    ) -> Result<(Option<Evaluation>, bool), Error> {
        let begun = Instant::now();
        let stop = || stop.load(Ordering::Relaxed);
        let mut sums = StepSums::zero(0);
        let mut batches = held_out.batches();
        at(Phase::Eval);
        while !stop()
            && let Some(batch) = batches.next()
        {
            self.faults.sleep_at("slow_eval", self.step);
            self.model.evaluate(&self.ops, &input(&batch?), &mut sums)?;
            at(Phase::Eval);
        }
        let mut answers = Vec::new();
        for (id, request) in held_out.questions.iter().take_while(|_| !stop()) {
            answers.push(Answer { id: id.clone(), answer: self.answer(held_out, request, at)? });
        }
        sums.count(Stat::Stop, i64::from(stop()));
        at(Phase::EvalSums);
        self.ranks.all_reduce_i64(sums.as_mut_slice())?;
        let answers = self.answers_of_all(&answers)?;
        let whole = sums.counted(Stat::Rows) == held_out.n_rows as i64 && answers.len() == held_out.n_answers();
        let seconds = begun.elapsed().as_secs_f64();
        let evaluation = whole.then(|| self.evaluation(held_out, &sums, answers, seconds));
        Ok((evaluation, sums.counted(Stat::Stop) > 0))
    }

    /// Whether it is so on any rank; the same on all.
    pub(crate) fn any_rank(&mut self, is_so: bool) -> Result<bool, Error> {
        let mut n_ranks = [i64::from(is_so)];
        self.ranks.all_reduce_i64(&mut n_ranks)?;
        Ok(n_ranks[0] > 0)
    }

    fn answer(&self, held_out: &HeldOut, asked: &GenerateRequest, at: &mut dyn FnMut(Phase)) -> Result<String, Error> {
        let limits = (MAX_NEW_TOKENS, held_out.ends.as_slice());
        let on_token = &mut |_, _| at(Phase::Eval);
        match self.model.answer(&self.ops, std::slice::from_ref(asked), limits, None, on_token) {
            Ok(answers) => Ok(answers.first().map_or(String::new(), |said| held_out.template.decode(&said.tokens))),
            Err(model::Error::NotFinite { .. }) => Ok(String::new()),
            Err(error) => Err(error.into()),
        }
    }

    /// Each rank has every `world_size`-th answer, beginning with its own.
    fn answers_of_all(&mut self, mine: &[Answer]) -> Result<Vec<Answer>, Error> {
        let mine = serde_json::to_vec(mine).expect("texts are JSON");
        let all = self.ranks.all_gather_bytes(&mine)?;
        // A rank that says what is no list of answers has none, and then not all are there.
        let all = all.iter().map(|bytes| serde_json::from_slice::<Vec<Answer>>(bytes).unwrap_or_default());
        let mut all: Vec<_> = all.map(Vec::into_iter).collect();
        let mut answers = Vec::new();
        for rank in (0..all.len()).cycle() {
            match all[rank].next() {
                Some(answer) => answers.push(answer),
                None => break,
            }
        }
        Ok(answers)
    }

    fn evaluation(&self, held_out: &HeldOut, sums: &StepSums, answers: Vec<Answer>, seconds: f64) -> Evaluation {
        let mean = |stat| match sums.counted(Stat::NotFinite) {
            0 => sums.sum(stat) / sums.counted(Stat::Supervised).max(1) as f64,
            _ => f64::NAN,
        };
        let accuracy = sums.token_accuracy();
        Evaluation {
            step: self.step,
            epoch: self.step as f64 / self.plan.steps_per_epoch() as f64,
            loss: mean(Stat::Loss),
            mean_token_accuracy: accuracy.all,
            answer_token_accuracy: accuracy.answers,
            prompt_token_accuracy: accuracy.prompts,
            entropy: mean(Stat::Entropy),
            correct_tokens: sums.counted(Stat::Correct).unsigned_abs(),
            supervised_tokens: sums.counted(Stat::Supervised).unsigned_abs(),
            n_rows: held_out.n_rows as u64,
            rows_per_second: held_out.n_rows as f64 / seconds,
            held_out: held_out.id.to_hex().to_string(),
            answers,
        }
    }
}
