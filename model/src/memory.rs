//! The memory of a training step, computed from shapes alone: what the layers' `Saved` structs keep, what one layer works
//! with, and what lies beside them. It allocates nothing and measures nothing.
//!
//! Every number is an f32, whatever `train.precision` rounds to, but for the matrices of the base: they are kept in bf16 on a
//! GPU that multiplies bf16, and on the CPU where each of their numbers is one. Of a GPU it is the device's memory: moments
//! and the optimizer's adapters lie in the machine's.

use crate::config::ModelConfig;
use crate::engine::MAX_SCORES;
use crate::loss::chunk_rows;
use crate::medgemma::Checkpointing;

/// Bytes of a number.
const F32: usize = 4;
const BF16: usize = 2;

/// What holds the numbers of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// This machine, for everything; it may keep the base's matrices in bf16.
    Cpu { bf16: bool },
    /// A GPU, for what the model computes with; so may it. `nccl`: several add up, which takes a buffer of its own.
    Gpu { bf16: bool, nccl: bool },
}

/// What a step is made of.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Tokens of the largest micro-batch, soft tokens included.
    pub tokens: usize,
    /// Its distinct pages.
    pub pages: usize,
    /// Trained numbers.
    pub n_trainable: usize,
    /// Rank of the adapters; those of all linears, as if each had one.
    pub rank: usize,
    /// Linears of the tower are adapted: without, it keeps nothing.
    pub trains_tower: bool,
    /// The input of an adapter is dropped in part.
    pub dropout: bool,
    pub checkpointing: Checkpointing,
    pub holder: Holder,
}

/// Bytes by part at the step's peak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// The frozen base.
    pub weights: usize,
    /// The adapters as the model holds them, and as the optimizer does.
    pub adapters: usize,
    /// Both moments.
    pub moments: usize,
    /// The fixed-point sums of gradients, 8 bytes each, and the gradients, both kept from step to step; on a GPU the
    /// sums alone, and NCCL's copy of them.
    pub sums: usize,
    /// What layers of the tower and of the decoder keep for their backward.
    pub kept: usize,
    /// What the layer that is computed needs beside that, or a chunk of logits.
    pub working: usize,
}

impl Memory {
    /// All parts.
    #[must_use]
    pub fn total(&self) -> usize {
        self.weights + self.adapters + self.moments + self.sums + self.kept + self.working
    }

    /// Each part with its name.
    #[must_use]
    pub fn parts(&self) -> [(&'static str, usize); 6] {
        [
            ("weights", self.weights),
            ("adapters", self.adapters),
            ("moments", self.moments),
            ("gradient sums", self.sums),
            ("kept activations", self.kept),
            ("working set", self.working),
        ]
    }
}

/// Numbers a token (the decoder's tokens, the tower's patches) of one layer. The last of the decoder keeps less, as only
/// supervised tokens go through all of it; that is not counted.
struct Layer {
    /// Its `Saved`, its input included.
    saved: usize,
    /// What a recomputed layer keeps of that.
    left: usize,
    /// Gradients that live at once within its backward.
    backward: usize,
}

/// Of a decoder layer: `DecoderLayerSaved` holds x, normed, attention_out, middle, normed, mlp_out; q, k before and after
/// their norms; v, out and the log-sum-exp; gate, up and their product; seven inputs times A. `DecoderLayerKept` holds x,
/// attention_out, mlp_out, out and the log-sum-exp.
fn text_layer(model: &ModelConfig, rank: usize, dropout: bool) -> Layer {
    let text = &model.text;
    let (d, i) = (text.hidden_size, text.intermediate_size);
    let (q, kv) = (text.n_heads * text.head_dim, text.n_kv_heads * text.head_dim);
    let mlp = 2 * d + 3 * i + linears(2, d, dropout);
    let attention = 5 * d + 3 * q + 3 * kv + linears(3, d, dropout);
    let (saved, left) = (6 * d + 3 * q + 3 * kv + text.n_heads + 3 * i + 7 * rank, 3 * d + q + text.n_heads);
    Layer { saved, left, backward: mlp.max(attention) }
}

/// Of a layer of the tower: `VisionLayerSaved` holds x, normed, q, k, v, out, middle, normed; the log-sum-exp; the MLP
/// before and after its activation; six inputs times A. `VisionLayerKept` holds x, out and the log-sum-exp.
fn vision_layer(model: &ModelConfig, rank: usize, dropout: bool) -> Layer {
    let vision = &model.vision;
    let (d, i) = (vision.hidden_size, vision.intermediate_size);
    let (saved, left) = (8 * d + vision.n_heads + 2 * i + 6 * rank, 2 * d + vision.n_heads);
    Layer { saved, left, backward: 2 * i + 6 * d + linears(3, d, dropout) }
}

/// The gradient of the input of `n` linears; under dropout also each one's own.
fn linears(n: usize, d: usize, dropout: bool) -> usize {
    if dropout { (n + 1) * d } else { d }
}

/// The memory of a step at its peak.
#[must_use]
pub fn predict(model: &ModelConfig, load: &Load) -> Memory {
    let (Holder::Cpu { bf16 } | Holder::Gpu { bf16, .. }) = load.holder;
    let bytes = |rows: usize| if bf16 && rows > 1 { BF16 } else { F32 };
    let weights = model.tensors().values().map(|[rows, columns]| bytes(*rows) * rows * columns).sum();
    let (kept, working) = activations(model, load);
    if let Holder::Gpu { nccl, .. } = load.holder {
        return Memory {
            weights,
            adapters: F32 * load.n_trainable,
            moments: 0,
            sums: if nccl { 16 } else { 8 } * load.n_trainable,
            kept: F32 * kept,
            working: F32 * (working + scores(model, load)),
        };
    }
    // After the last micro-batch nothing is kept, but new adapters exist beside the old.
    let update = load.n_trainable;
    let (kept, working) = if update > kept + working { (0, update) } else { (kept, working) };
    Memory {
        weights,
        adapters: F32 * 2 * load.n_trainable,
        moments: F32 * 2 * load.n_trainable,
        sums: (8 + F32) * load.n_trainable,
        kept: F32 * kept,
        working: F32 * working,
    }
}

/// Numbers kept and worked with where the two are largest together: at the end of the forward, in the backward of the last
/// decoder layer, or in that of the tower's last.
fn activations(model: &ModelConfig, load: &Load) -> (usize, usize) {
    let patches = load.pages * model.vision.patches_per_side().pow(2);
    let text = text_layer(model, load.rank, load.dropout);
    let vision = vision_layer(model, load.rank, load.dropout);
    let (n_text, n_vision) = (model.text.layers.len(), if load.trains_tower { model.vision.n_layers } else { 0 });
    let d = model.text.hidden_size;
    let (again_text, again_vision) = match load.checkpointing {
        Checkpointing::None => (false, false),
        Checkpointing::Block => (true, true),
        Checkpointing::Vision => (false, true),
    };
    let kept = |again: bool, layer: &Layer, n: usize| n * if again { layer.left } else { layer.saved };
    // Recomputed: one layer's own, beside what is left of all.
    let working = |again: bool, layer: &Layer| layer.backward + if again { layer.saved - layer.left } else { 0 };
    // The stream before the last norm of each tower, the pooled patches, rotary tables of both kinds of layers.
    let of_tower = patches * (kept(again_vision, &vision, n_vision) + model.vision.hidden_size);
    let of_decoder = load.tokens * (kept(again_text, &text, n_text) + 2 * d + 3 * model.text.head_dim);
    // The last norm's output, its gradient and the gradient that goes down live until the micro-batch ends.
    let logits = chunk_rows(model.text.vocab_size).min(load.tokens) * (model.text.vocab_size + 2 * d) + load.tokens * d;
    let text_backward = load.tokens * (working(again_text, &text) + d);
    // Without adapters the tower's layers go by, one at a time.
    let of_one = if load.trains_tower { working(again_vision, &vision) } else { vision.saved };
    let vision_backward = patches * of_one + load.tokens * 4 * d;
    let phases = [(of_tower + of_decoder, logits.max(text_backward)), (of_tower, vision_backward)];
    phases.into_iter().max_by_key(|(kept, working)| kept + working).unwrap_or_default()
}

/// Scores of a block and their gradients, of the tower or of a row of the decoder: three matrices at once.
fn scores(model: &ModelConfig, load: &Load) -> usize {
    let (text, vision) = (&model.text, &model.vision);
    let most = (text.n_heads * load.tokens.pow(2)).max(vision.n_heads * vision.patches_per_side().pow(4));
    3 * most.min(MAX_SCORES)
}

#[cfg(test)]
mod tests;
