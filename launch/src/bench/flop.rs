//! Useful arithmetic of a step, as PyTorch's side counts it: what the frozen base needs, forward and by its inputs.

use model::ModelConfig;

/// Floating-point operations of one step's base over `rows` rows of `seq_len` tokens with a page each: a multiply-add is
/// two. The backward counts as much as the forward (a frozen base has no weight gradient); recompute, adapters and
/// everything but products count nothing, and the head counts at every position.
pub fn useful(model: &ModelConfig, rows: usize, seq_len: usize) -> f64 {
    let (text, vision) = (&model.text, &model.vision);
    let q = text.n_heads * text.head_dim;
    let heads = 2 * q + 2 * text.n_kv_heads * text.head_dim;
    let layer = text.hidden_size * (heads + 3 * text.intermediate_size) + 2 * seq_len * q;
    let decoder = seq_len * (layer * text.layers.len() + text.vocab_size * text.hidden_size);
    let (d, patches) = (vision.hidden_size, vision.patches_per_side().pow(2));
    let layer = 4 * d * d + 2 * d * vision.intermediate_size + 2 * patches * d;
    let tower = patches * (layer * vision.n_layers + 3 * vision.patch_size.pow(2) * d);
    let forward = 2 * rows * (decoder + tower);
    2.0 * forward as f64
}

#[cfg(test)]
mod tests;
