//! How likely a model finds given words as the beginning of its answer. Each prompt and its page are computed once,
//! whatever number of answers there is to it. It never chooses a token.

use super::{GenerateRequest, Generator, Prompts};
use crate::error::Error;
use crate::ops::Ops;

impl<O: Ops> Generator<O> {
    /// ln of the probability of all tokens of each candidate right after each prompt, `[requests][candidates]`: of a
    /// candidate without tokens 0.
    ///
    /// # Errors
    /// As [`Generator::answer`]; a candidate with a token outside the vocabulary.
    pub fn log_probs(&self, requests: &[GenerateRequest], candidates: &[Vec<u32>]) -> Result<Vec<Vec<f64>>, Error> {
        let vocab_size = self.config().text.vocab_size;
        if let Some(&id) = candidates.iter().flatten().find(|&&id| id as usize >= vocab_size) {
            return Err(Error::TokenId { id, vocab_size });
        }
        let mut sums = vec![vec![0.0; candidates.len()]; requests.len()];
        if requests.is_empty() {
            return Ok(sums);
        }
        let (logits, mut cache) = self.model.prompt_logits(&self.ops, &Prompts::new(requests)?.input())?;
        // Request and candidate of everything that has another token, and the row of the logits that says how likely it is.
        let pairs =
            (0..requests.len()).flat_map(|row| (0..candidates.len()).map(move |candidate| (row, candidate, row)));
        let mut open: Vec<(usize, usize, usize)> = pairs.filter(|&(_, c, _)| !candidates[c].is_empty()).collect();
        let mut logits = self.ops.download(&logits);
        let mut n_rows = requests.len();
        for nth in 0.. {
            let rows: Vec<&[f32]> = logits.chunks(logits.len() / n_rows).collect();
            let normalisers: Vec<f64> = rows.iter().map(|row| log_sum_exp(row)).collect();
            for &(request, candidate, row) in &open {
                let log_prob = f64::from(rows[row][candidates[candidate][nth] as usize]) - normalisers[row];
                if !log_prob.is_finite() {
                    return Err(Error::NotFinite { row: request, nth });
                }
                sums[request][candidate] += log_prob;
            }
            open.retain(|&(_, candidate, _)| candidates[candidate].len() > nth + 1);
            if open.is_empty() {
                break;
            }
            // From here on every pair has a row of its own.
            cache.retain(&self.ops, &open.iter().map(|&(_, _, row)| row).collect::<Vec<_>>());
            let newest: Vec<u32> = open.iter().map(|&(_, candidate, _)| candidates[candidate][nth]).collect();
            logits = self.ops.download(&self.model.next_logits(&self.ops, &newest, &mut cache));
            n_rows = open.len();
            open.iter_mut().enumerate().for_each(|(own, (_, _, row))| *row = own);
        }
        Ok(sums)
    }
}

/// ln of the sum of the exponentials, in f64.
fn log_sum_exp(logits: &[f32]) -> f64 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    f64::from(largest) + logits.iter().map(|&logit| f64::from(logit - largest).exp()).sum::<f64>().ln()
}
