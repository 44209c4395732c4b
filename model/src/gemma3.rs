//! The Gemma 3 text decoder: layers of attention and MLP with a norm before and after each. Forward and backward.
//! It knows nothing of pages: soft tokens arrive as rows of its input.

use crate::attention::{Attention, AttentionLayerSaved, Sight, Sights};
use crate::cache::KvCache;
use crate::config::LayerKind;
use crate::mlp::{Mlp, MlpSaved};
use crate::ops::{Ops, Place};
use crate::sums::StepSums;

/// `h += norm(attn(norm(h))); h += norm(mlp(norm(h)))` (Gemma3DecoderLayer in transformers).
#[derive(Debug)]
pub struct DecoderLayer<T> {
    pub kind: LayerKind,
    pub attention: Attention<T>,
    pub mlp: Mlp<T>,
    /// `1 + w` of the four norms, `[1, d]`.
    pub input_gain: T,
    pub post_attention_gain: T,
    pub pre_feedforward_gain: T,
    pub post_feedforward_gain: T,
    pub eps: f32,
}

/// Kept for backward: the residual stream before each half, the halves' outputs before their norms, all `[t, d]`.
#[derive(Debug)]
pub struct DecoderLayerSaved<T> {
    x: T,
    attention: AttentionLayerSaved<T>,
    attention_out: T,
    middle: T,
    mlp: MlpSaved<T>,
    mlp_out: T,
}

impl<T: Clone> DecoderLayerSaved<T> {
    /// Keys and values of the attention.
    pub(crate) fn into_cache(self) -> KvCache<T> {
        self.attention.into_cache()
    }
}

impl<T: Clone> DecoderLayer<T> {
    /// `x [t, d] -> y [t, d]`; a cache as in [`Attention::forward`].
    pub(crate) fn forward<O: Ops<Tensor = T>>(
        &self,
        ops: &O,
        x: T,
        sights: &Sights<O>,
        at: Place,
        cache: Option<(KvCache<T>, &[u32])>,
    ) -> (T, DecoderLayerSaved<T>) {
        let sight: &Sight<O> = sights.of(self.kind);
        let normed = ops.rms_norm(&x, &self.input_gain, self.eps);
        let (attention_out, attention) = self.attention.forward(ops, normed, sight, at, cache);
        let middle = ops.add(ops.rms_norm(&attention_out, &self.post_attention_gain, self.eps), &x);
        let normed = ops.rms_norm(&middle, &self.pre_feedforward_gain, self.eps);
        let (mlp_out, mlp) = self.mlp.forward(ops, normed, at);
        let y = ops.add(ops.rms_norm(&mlp_out, &self.post_feedforward_gain, self.eps), &middle);
        (y, DecoderLayerSaved { x, attention, attention_out, middle, mlp, mlp_out })
    }

    /// `dy [t, d] -> dx [t, d]`.
    pub(crate) fn backward<O: Ops<Tensor = T>>(
        &self,
        ops: &O,
        dy: T,
        saved: &DecoderLayerSaved<T>,
        sights: &Sights<O>,
        at: Place,
        grads: &mut StepSums,
    ) -> T {
        let dmlp = ops.rms_norm_backward(&dy, &saved.mlp_out, &self.post_feedforward_gain, self.eps);
        let dnormed = self.mlp.backward(ops, &dmlp, &saved.mlp, at, grads);
        let dnormed = ops.rms_norm_backward(&dnormed, &saved.middle, &self.pre_feedforward_gain, self.eps);
        let dmiddle = ops.add(dy, &dnormed);
        let dattention = ops.rms_norm_backward(&dmiddle, &saved.attention_out, &self.post_attention_gain, self.eps);
        let sight = sights.of(self.kind);
        let dnormed = self.attention.backward(ops, &dattention, &saved.attention, sight, at, grads);
        let dnormed = ops.rms_norm_backward(&dnormed, &saved.x, &self.input_gain, self.eps);
        ops.add(dmiddle, &dnormed)
    }
}
