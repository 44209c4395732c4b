//! Which token comes next: the most likely one, or one drawn as transformers' warpers draw it.
//! A draw is a pure function of seed, prompt, place and logits; there is no generator whose state could be lost.

use crate::engine::exp;
use crate::generate::GenerateRequest;
use crate::ops::mix;

/// How tokens are drawn. The names and the order (temperature, top-k, top-p) are those of transformers' generation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Logits are divided by it; above 0.
    pub temperature: f32,
    /// Only so many of the most likely tokens, and those as likely as the last of them; 0: all.
    pub top_k: usize,
    /// Only the most likely tokens that together reach this probability, at least one; 1: all.
    pub top_p: f64,
    /// Equal seeds give equal answers.
    pub seed: u64,
}

/// The first of the largest numbers.
pub(crate) fn argmax(logits: &[f32]) -> u32 {
    logits.iter().enumerate().fold(0, |best, (i, &l)| if l > logits[best] { i } else { best }) as u32
}

impl Sampling {
    /// Key of the draws of one prompt: another text or another pixel has others, the rest of a batch does not matter.
    pub(crate) fn key(&self, request: &GenerateRequest) -> u64 {
        let tokens = request.input_ids.iter().map(|&id| u64::from(id));
        let pixels = request.pages.iter().flat_map(|page| page.chunks(8)).map(|eight| {
            let mut bytes = [0; 8];
            bytes[..eight.len()].copy_from_slice(eight);
            u64::from_le_bytes(bytes)
        });
        tokens.chain(pixels).fold(mix(self.seed), |key, n| mix(key ^ n))
    }

    /// The `nth` token of an answer.
    pub(crate) fn draw(&self, logits: &[f32], key: u64, nth: usize) -> u32 {
        let mut tokens = self.candidates(logits);
        let probabilities = softmax(&tokens);
        tokens.truncate(self.nucleus(&probabilities));
        let kept: f64 = probabilities[..tokens.len()].iter().sum();
        // 53 bits of the hash, as far along the kept probability.
        let target = (mix(key ^ mix(nth as u64)) >> 11) as f64 / (1u64 << 53) as f64 * kept;
        let mut reached = 0.0;
        let drawn = probabilities[..tokens.len()].iter().position(|p| {
            reached += p;
            reached > target
        });
        tokens[drawn.unwrap_or(tokens.len() - 1)].0
    }

    /// Tokens that top-k leaves, with their logits over the temperature: the most likely first, of equals the lower id.
    fn candidates(&self, logits: &[f32]) -> Vec<(u32, f32)> {
        let mut tokens: Vec<(u32, f32)> = (0..).zip(logits).map(|(id, l)| (id, l / self.temperature)).collect();
        let descending = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        if (1..tokens.len()).contains(&self.top_k) {
            let (_, &mut (_, least), _) = tokens.select_nth_unstable_by(self.top_k - 1, descending);
            tokens.retain(|&(_, l)| l >= least);
        }
        tokens.sort_unstable_by(descending);
        tokens
    }

    /// How many of the most likely tokens top-p leaves: a token stays as long as those before it do not reach `top_p`.
    fn nucleus(&self, probabilities: &[f64]) -> usize {
        if self.top_p >= 1.0 {
            return probabilities.len();
        }
        let mut before = 0.0;
        let enough = probabilities.iter().position(|p| {
            let enough = before >= self.top_p;
            before += p;
            enough
        });
        enough.unwrap_or(probabilities.len()).max(1)
    }
}

/// Probabilities of tokens whose largest logit comes first.
fn softmax(tokens: &[(u32, f32)]) -> Vec<f64> {
    let max = tokens[0].1;
    let weights: Vec<f64> = tokens.iter().map(|&(_, l)| f64::from(exp(l - max))).collect();
    let total: f64 = weights.iter().sum();
    weights.into_iter().map(|w| w / total).collect()
}

#[cfg(test)]
mod tests;
