//! Rotary position tables (Su et al., "RoFormer", 2021; Gemma3RotaryEmbedding in transformers). It holds no state.

use crate::ops::Ops;

/// Cosines and sines of a batch's positions, `[t, head_dim / 2]` each.
#[derive(Clone, Debug)]
pub(crate) struct Rope<T> {
    pub cos: T,
    pub sin: T,
    /// `-sin`: the rotation back.
    pub minus_sin: T,
}

impl<T> Rope<T> {
    /// Tables at `positions`, one a token, for frequencies `theta^(-2i / head_dim) / factor`, computed in f32 as the
    /// reference does.
    pub fn new<O: Ops<Tensor = T>>(ops: &O, positions: &[u32], head_dim: usize, theta: f64, factor: f64) -> Self {
        let inv_freq: Vec<f32> = inverse_frequencies(head_dim, theta, factor);
        let table = |f: fn(f32) -> f32| -> Vec<f32> {
            positions.iter().flat_map(|&p| inv_freq.iter().map(move |&w| f(p as f32 * w))).collect()
        };
        let shape = [positions.len(), inv_freq.len()];
        Self {
            cos: ops.upload_weight(table(f32::cos), shape),
            sin: ops.upload_weight(table(f32::sin), shape),
            minus_sin: ops.upload_weight(table(|angle| -angle.sin()), shape),
        }
    }
}

/// `1 / theta^(2i / head_dim)`, divided by `factor` (linear scaling), in f32.
pub(crate) fn inverse_frequencies(head_dim: usize, theta: f64, factor: f64) -> Vec<f32> {
    let exponent = |i: usize| (2 * i) as f32 / head_dim as f32;
    (0..head_dim / 2).map(|i| 1.0 / (theta as f32).powf(exponent(i)) / factor as f32).collect()
}

#[cfg(test)]
mod tests;
