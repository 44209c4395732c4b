//! Cross-entropy over supervised positions only, its statistics and its gradient in one pass. The logits exist a chunk
//! of rows at a time, and never for a position that teaches nothing.

use crate::input::Input;
use crate::ops::Ops;
use crate::parts::Part;
use crate::sums::{Stat, StepSums};

/// Numbers of one chunk of logits (16 MB as f32), but never fewer rows than a pass over the head is worth.
const CHUNK_NUMBERS: usize = 1 << 22;
const CHUNK_ROWS: usize = 128;

/// How the losses of a step's tokens become one loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LossNorm {
    /// Mean over all supervised tokens of the optimizer step (transformers 5).
    GlobalTokens,
    /// Mean over micro-batches of each one's token mean (transformers 4.57).
    MicroMean,
}

impl LossNorm {
    /// Factor of one micro-batch's summed token losses before steps add up.
    fn scale(self, n_supervised: usize) -> f32 {
        match self {
            LossNorm::GlobalTokens => 1.0,
            LossNorm::MicroMean => 1.0 / n_supervised.max(1) as f32,
        }
    }

    /// What the step's summed gradients are divided by, at the very end.
    #[must_use]
    pub fn divisor(self, sums: &StepSums) -> f64 {
        let stat = match self {
            LossNorm::GlobalTokens => Stat::Supervised,
            LossNorm::MicroMean => Stat::MicroBatches,
        };
        sums.counted(stat).max(1) as f64
    }

    /// The step's loss as logged, in nats.
    #[must_use]
    pub fn loss(self, sums: &StepSums) -> f64 {
        let stat = match self {
            LossNorm::GlobalTokens => Stat::Loss,
            LossNorm::MicroMean => Stat::MeanLoss,
        };
        sums.sum(stat) / self.divisor(sums)
    }
}

/// What a micro-batch teaches: positions that predict a supervised token, in their order, and that token; position `i`
/// predicts the label at `i + 1` of its row.
pub(crate) struct Targets {
    pub positions: Vec<u32>,
    ids: Vec<u32>,
    answers: Vec<bool>,
}

impl Targets {
    pub fn of(input: &Input) -> Self {
        let (mut positions, mut ids, mut answers) = (Vec::new(), Vec::new(), Vec::new());
        for row in input.rows() {
            for at in row.start..row.end.saturating_sub(1) {
                if let Ok(id) = u32::try_from(input.labels[at + 1]) {
                    positions.push(at as u32);
                    ids.push(id);
                    answers.push(input.answers[at + 1]);
                }
            }
        }
        Self { positions, ids, answers }
    }

    pub fn is_empty(&self) -> bool {
        self.positions.is_empty()
    }

    /// Adds to `sums` what there is, whatever the model says.
    pub fn count(&self, input: &Input, sums: &mut StepSums) {
        sums.count(Stat::Supervised, self.positions.len() as i64);
        sums.count(Stat::Answer, self.answers.iter().filter(|&&answer| answer).count() as i64);
        sums.count(Stat::Tokens, input.lengths.iter().sum::<usize>() as i64);
        sums.count(Stat::Rows, input.n_rows() as i64);
        sums.count(Stat::MicroBatches, 1);
    }
}

/// Rows whose logits over a vocabulary exist at once.
pub(crate) fn chunk_rows(vocab_size: usize) -> usize {
    (CHUNK_NUMBERS / vocab_size).max(CHUNK_ROWS)
}

/// Adds what the model makes of the targets to `sums` and returns the gradient of their loss by `hidden [n, d]` (their rows
/// after the last norm); `head [v, d]` is the tied embedding.
pub(crate) fn loss_backward<O: Ops>(
    ops: &O,
    hidden: &O::Tensor,
    head: &O::Tensor,
    targets: &Targets,
    norm: LossNorm,
    sums: &mut StepSums,
) -> O::Tensor {
    statistics(ops, hidden, head, targets, (norm, Some(hidden.clone())), sums).expect("it is filled, not taken")
}

/// As [`loss_backward`], without a gradient.
pub(crate) fn loss<O: Ops>(ops: &O, hidden: &O::Tensor, head: &O::Tensor, targets: &Targets, sums: &mut StepSums) {
    statistics(ops, hidden, head, targets, (LossNorm::GlobalTokens, None), sums);
}

/// The statistics; the gradient by `hidden` is filled in where there is a place for it.
fn statistics<O: Ops>(
    ops: &O,
    hidden: &O::Tensor,
    head: &O::Tensor,
    targets: &Targets,
    (norm, mut dhidden): (LossNorm, Option<O::Tensor>),
    sums: &mut StepSums,
) -> Option<O::Tensor> {
    let _part = Part::Loss.enter();
    let n = targets.positions.len();
    let rows: Vec<u32> = (0..n as u32).collect();
    let chunk = chunk_rows(ops.shape(head)[0]);
    let mut loss_sum = 0.0;
    for ((index, ids), answers) in rows.chunks(chunk).zip(targets.ids.chunks(chunk)).zip(targets.answers.chunks(chunk))
    {
        let logits = ops.matmul_nt(&ops.gather_rows(hidden, index), head);
        let ce = ops.cross_entropy(logits, ids, norm.scale(n));
        dhidden = dhidden.map(|dhidden| ops.replace_rows(dhidden, index, &ops.matmul(&ce.dlogits, head)));
        loss_sum += ce.loss.iter().map(|&l| f64::from(l)).sum::<f64>();
        sums.add(Stat::Entropy, ce.entropy.iter().map(|&e| f64::from(e)).sum());
        for ((&id, &predicted), &answer) in ids.iter().zip(&ce.predicted).zip(answers) {
            let correct = i64::from(id == predicted);
            sums.count(Stat::Correct, correct);
            sums.count(Stat::AnswerCorrect, correct * i64::from(answer));
        }
    }
    sums.add(Stat::Loss, loss_sum);
    sums.add(Stat::MeanLoss, loss_sum / n.max(1) as f64);
    dhidden
}
