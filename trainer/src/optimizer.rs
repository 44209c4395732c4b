//! AdamW over one flat buffer: weights and both moments in f32, updated in one pass.
//! It never sums across elements in an order that depends on threads: equal inputs give equal bits on any machine.

use model::vectorised;
use rayon::prelude::*;

/// Elements that one task updates, hashes, or whose squares it sums. Part of the numbers: another size rounds the norm
/// differently and gives another digest.
const CHUNK: usize = 1 << 16;

/// What AdamW needs to know beside the learning rate (`torch.optim.AdamW`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWSettings {
    /// Decay rates of the first and the second moment.
    pub betas: [f64; 2],
    /// Added to the denominator.
    pub eps: f64,
    /// Decoupled decay: weights are multiplied by `1 - lr * weight_decay`.
    pub weight_decay: f64,
}

/// Weights with their first and second moments, all of the same length, and the number of steps made.
#[derive(Debug, Clone, PartialEq)]
pub struct AdamW {
    settings: AdamWSettings,
    step: u64,
    params: Vec<f32>,
    exp_avg: Vec<f32>,
    exp_avg_sq: Vec<f32>,
}

/// The moments of a checkpoint are of another number of weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "optimizer state of {exp_avg} and {exp_avg_sq} moments does not fit {params} weights; the checkpoint is of another adapter"
)]
pub struct UnequalLengths {
    params: usize,
    exp_avg: usize,
    exp_avg_sq: usize,
}

impl AdamW {
    /// An optimizer that has made no step: the moments are zero.
    #[must_use]
    pub fn new(params: Vec<f32>, settings: AdamWSettings) -> Self {
        let zeros = vec![0.0; params.len()];
        Self { settings, step: 0, params, exp_avg: zeros.clone(), exp_avg_sq: zeros }
    }

    /// An optimizer as it was after `step` steps.
    ///
    /// # Errors
    /// The three buffers differ in length.
    pub fn resume(
        params: Vec<f32>,
        exp_avg: Vec<f32>,
        exp_avg_sq: Vec<f32>,
        step: u64,
        settings: AdamWSettings,
    ) -> Result<Self, UnequalLengths> {
        if exp_avg.len() != params.len() || exp_avg_sq.len() != params.len() {
            return Err(UnequalLengths { params: params.len(), exp_avg: exp_avg.len(), exp_avg_sq: exp_avg_sq.len() });
        }
        Ok(Self { settings, step, params, exp_avg, exp_avg_sq })
    }

    /// Steps made so far.
    #[must_use]
    pub fn step(&self) -> u64 {
        self.step
    }

    /// The weights.
    #[must_use]
    pub fn params(&self) -> &[f32] {
        &self.params
    }

    /// The weights, for a memory fault on demand.
    pub(crate) fn params_mut(&mut self) -> &mut [f32] {
        &mut self.params
    }

    /// The first moments.
    #[must_use]
    pub fn exp_avg(&self) -> &[f32] {
        &self.exp_avg
    }

    /// The second moments.
    #[must_use]
    pub fn exp_avg_sq(&self) -> &[f32] {
        &self.exp_avg_sq
    }

    /// One step with `grads`, each multiplied by `clip` first ([`clip_coefficient`]), as `torch.optim.AdamW`:
    /// `p *= 1 - lr wd; m += (1 - b1)(g - m); v = b2 v + (1 - b2) g g; p -= lr / (1 - b1^t) m / (sqrt(v) / sqrt(1 - b2^t) + eps)`.
    ///
    /// # Panics
    /// `grads` has another length than the weights.
    pub fn update(&mut self, grads: &[f32], lr: f64, clip: f64) {
        assert_eq!(grads.len(), self.params.len(), "one gradient for each weight");
        self.step += 1;
        let pass = Pass::new(&self.settings, self.step, lr, clip);
        // Each element is on its own, so the bits do not depend on the number of threads.
        let moments = self.exp_avg.par_chunks_mut(CHUNK).zip(self.exp_avg_sq.par_chunks_mut(CHUNK));
        let weights = self.params.par_chunks_mut(CHUNK).zip(grads.par_chunks(CHUNK));
        weights.zip(moments).for_each(|((params, grads), (exp_avg, exp_avg_sq))| {
            vectorised(
                #[inline(always)]
                || pass.run(params, grads, exp_avg, exp_avg_sq),
            );
        });
    }

    /// blake3 of weights, first and second moments, as it is of the hashes of their chunks in order: equal on all ranks
    /// after every step, or the run stops. It reads the memory again, so that what does not hold its bits is found.
    #[must_use]
    pub fn digest(&self) -> blake3::Hash {
        let buffers = [&self.params, &self.exp_avg, &self.exp_avg_sq];
        let chunks: Vec<&[f32]> = buffers.iter().flat_map(|buffer| buffer.chunks(CHUNK)).collect();
        let hash = |chunk: &&[f32]| *blake3::hash(bytemuck::cast_slice(chunk)).as_bytes();
        let hashes: Vec<[u8; blake3::OUT_LEN]> = chunks.par_iter().map(hash).collect();
        blake3::hash(hashes.as_flattened())
    }
}

/// The scalars of one step, computed in f64 and rounded once, as torch's kernels do.
#[derive(Clone, Copy)]
struct Pass {
    clip: f32,
    decay: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    step_size: f32,
    bias_correction2_sqrt: f32,
    eps: f32,
}

impl Pass {
    fn new(settings: &AdamWSettings, step: u64, lr: f64, clip: f64) -> Self {
        let [beta1, beta2] = settings.betas;
        let step = step as f64;
        Self {
            clip: clip as f32,
            decay: (1.0 - lr * settings.weight_decay) as f32,
            one_minus_beta1: (1.0 - beta1) as f32,
            beta2: beta2 as f32,
            one_minus_beta2: (1.0 - beta2) as f32,
            step_size: (lr / (1.0 - beta1.powf(step))) as f32,
            bias_correction2_sqrt: (1.0 - beta2.powf(step)).sqrt() as f32,
            eps: settings.eps as f32,
        }
    }

    #[inline(always)]
    fn run(self, params: &mut [f32], grads: &[f32], exp_avg: &mut [f32], exp_avg_sq: &mut [f32]) {
        for (((p, &g), m), v) in params.iter_mut().zip(grads).zip(exp_avg).zip(exp_avg_sq) {
            let g = g * self.clip;
            *m += self.one_minus_beta1 * (g - *m);
            *v = self.beta2 * *v + self.one_minus_beta2 * g * g;
            let denominator = v.sqrt() / self.bias_correction2_sqrt + self.eps;
            *p = *p * self.decay - self.step_size * *m / denominator;
        }
    }
}

/// L2 norm of all gradients, in f64; finite exactly if every gradient is.
///
/// Chunks of a fixed size are summed on their own and then in order, so the bits do not depend on threads.
#[must_use]
pub fn grad_norm(grads: &[f32]) -> f64 {
    let sums: Vec<f64> = grads.par_chunks(CHUNK).map(sum_of_squares).collect();
    sums.iter().sum::<f64>().sqrt()
}

/// Eight sums side by side, which a processor adds at once, then those in order.
fn sum_of_squares(values: &[f32]) -> f64 {
    let mut sums = [0.0; 8];
    for eight in values.chunks(sums.len()) {
        for (sum, &value) in sums.iter_mut().zip(eight) {
            *sum += f64::from(value) * f64::from(value);
        }
    }
    sums.iter().sum()
}

/// What gradients of this norm are multiplied by, `min(1, max_grad_norm / (norm + 1e-6))` (`torch.nn.utils.clip_grad_norm_`).
#[must_use]
pub fn clip_coefficient(norm: f64, max_grad_norm: f64) -> f64 {
    (max_grad_norm / (norm + 1e-6)).min(1.0)
}

#[cfg(test)]
mod tests;
