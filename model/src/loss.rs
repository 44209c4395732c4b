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

/// Positions that predict a supervised token, and that token: position `i` predicts the label at `i + 1` of its row.
fn supervised(input: &Input) -> (Vec<u32>, Vec<u32>, Vec<bool>) {
    let (mut positions, mut targets, mut answers) = (Vec::new(), Vec::new(), Vec::new());
    for row in input.rows() {
        for at in row.start..row.end.saturating_sub(1) {
            if let Ok(target) = u32::try_from(input.labels[at + 1]) {
                positions.push(at as u32);
                targets.push(target);
                answers.push(input.answers[at + 1]);
            }
        }
    }
    (positions, targets, answers)
}

/// Rows whose logits over a vocabulary exist at once.
pub(crate) fn chunk_rows(vocab_size: usize) -> usize {
    (CHUNK_NUMBERS / vocab_size).max(CHUNK_ROWS)
}

/// Adds the micro-batch's statistics to `sums` and returns the gradient by `hidden [t, d]` (after the last norm) of its
/// loss; `head [v, d]` is the tied embedding.
pub fn loss_backward<O: Ops>(
    ops: &O,
    hidden: &O::Tensor,
    head: &O::Tensor,
    input: &Input,
    norm: LossNorm,
    sums: &mut StepSums,
) -> O::Tensor {
    let [n_tokens, width] = ops.shape(hidden);
    let dhidden = ops.upload(vec![0.0; n_tokens * width], [n_tokens, width]);
    statistics(ops, hidden, head, input, (norm, Some(dhidden)), sums).expect("it is filled, not taken")
}

/// Adds the micro-batch's statistics to `sums`; see [`loss_backward`].
pub fn loss<O: Ops>(ops: &O, hidden: &O::Tensor, head: &O::Tensor, input: &Input, sums: &mut StepSums) {
    statistics(ops, hidden, head, input, (LossNorm::GlobalTokens, None), sums);
}

/// The statistics; the gradient by `hidden` is filled in where there is a place for it.
fn statistics<O: Ops>(
    ops: &O,
    hidden: &O::Tensor,
    head: &O::Tensor,
    input: &Input,
    (norm, mut dhidden): (LossNorm, Option<O::Tensor>),
    sums: &mut StepSums,
) -> Option<O::Tensor> {
    let _part = Part::Loss.enter();
    let (positions, targets, answers) = supervised(input);
    let chunk = chunk_rows(ops.shape(head)[0]);
    let mut loss_sum = 0.0;
    for (i, index) in positions.chunks(chunk).enumerate() {
        let (targets, answers) = (&targets[i * chunk..][..index.len()], &answers[i * chunk..][..index.len()]);
        let logits = ops.matmul_nt(&ops.gather_rows(hidden, index), head);
        let ce = ops.cross_entropy(logits, targets, norm.scale(positions.len()));
        dhidden = dhidden.map(|dhidden| ops.replace_rows(dhidden, index, &ops.matmul(&ce.dlogits, head)));
        loss_sum += ce.loss.iter().map(|&l| f64::from(l)).sum::<f64>();
        sums.add(Stat::Entropy, ce.entropy.iter().map(|&e| f64::from(e)).sum());
        for ((&target, &predicted), &answer) in targets.iter().zip(&ce.predicted).zip(answers) {
            let correct = i64::from(target == predicted);
            sums.count(Stat::Correct, correct);
            sums.count(Stat::Answer, i64::from(answer));
            sums.count(Stat::AnswerCorrect, correct * i64::from(answer));
        }
    }
    sums.add(Stat::Loss, loss_sum);
    sums.add(Stat::MeanLoss, loss_sum / positions.len().max(1) as f64);
    sums.count(Stat::Supervised, positions.len() as i64);
    sums.count(Stat::Tokens, input.lengths.iter().sum::<usize>() as i64);
    sums.count(Stat::Rows, input.n_rows() as i64);
    sums.count(Stat::MicroBatches, 1);
    dhidden
}
