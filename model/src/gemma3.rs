//! The Gemma 3 text decoder: layers of attention and MLP with a norm before and after each. Forward and backward.
//! It knows nothing of pages: soft tokens arrive as rows of its input.

use crate::attention::{Attention, AttentionLayerSaved, Sight};
use crate::cache::KvCache;
use crate::config::LayerKind;
use crate::mlp::{Mlp, MlpSaved};
use crate::ops::{Ops, Place};
use crate::sums::Sums;

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

/// Kept for backward: the residual stream before each half, `x [t, d]` and `middle [q, d]`, and the halves' outputs before
/// their norms, `[q, d]`; `q` is how many tokens see.
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

/// What is left of it where the layer is recomputed: its input and its halves' outputs, `[t, d]`, and the attention's
/// output and log-sum-exp. From these neither the attention nor the last linear of a half is computed twice.
#[derive(Debug)]
pub struct DecoderLayerKept<T> {
    x: T,
    out: (T, T),
    attention_out: T,
    mlp_out: T,
}

impl<T: Clone> From<DecoderLayerSaved<T>> for DecoderLayerKept<T> {
    fn from(saved: DecoderLayerSaved<T>) -> Self {
        let DecoderLayerSaved { x, attention, attention_out, mlp_out, .. } = saved;
        Self { x, out: attention.into_out(), attention_out, mlp_out }
    }
}

impl<T: Clone> DecoderLayer<T> {
    /// `x [t, d] -> y [q, d]`; a cache as in [`Attention::forward`].
    pub(crate) fn forward<O: Ops<Tensor = T>>(
        &self,
        ops: &O,
        x: T,
        sight: &Sight<O>,
        at: Place,
        cache: Option<(KvCache<T>, &[u32])>,
    ) -> (T, DecoderLayerSaved<T>) {
        let normed = ops.rms_norm(&x, &self.input_gain, self.eps);
        let (attention_out, attention) = self.attention.forward(ops, normed, sight, at, cache);
        let middle = ops.add(ops.rms_norm(&attention_out, &self.post_attention_gain, self.eps), &sight.seeing(ops, &x));
        let normed = ops.rms_norm(&middle, &self.pre_feedforward_gain, self.eps);
        let (mlp_out, mlp) = self.mlp.forward(ops, normed, at);
        let y = ops.add(ops.rms_norm(&mlp_out, &self.post_feedforward_gain, self.eps), &middle);
        (y, DecoderLayerSaved { x, attention, attention_out, middle, mlp, mlp_out })
    }

    /// What [`DecoderLayer::forward`] keeps, from what is left of it.
    pub(crate) fn again<O: Ops<Tensor = T>>(
        &self,
        ops: &O,
        kept: DecoderLayerKept<T>,
        sight: &Sight<O>,
        at: Place,
    ) -> DecoderLayerSaved<T> {
        let DecoderLayerKept { x, out, attention_out, mlp_out } = kept;
        let normed = ops.rms_norm(&x, &self.input_gain, self.eps);
        let attention = self.attention.again(ops, normed, out, sight, at);
        let middle = ops.add(ops.rms_norm(&attention_out, &self.post_attention_gain, self.eps), &sight.seeing(ops, &x));
        let mlp = self.mlp.again(ops, ops.rms_norm(&middle, &self.pre_feedforward_gain, self.eps), at);
        DecoderLayerSaved { x, attention, attention_out, middle, mlp, mlp_out }
    }

    /// `dy [q, d] -> dx [t, d]`.
    pub(crate) fn backward<O: Ops<Tensor = T>>(
        &self,
        ops: &O,
        dy: T,
        saved: &DecoderLayerSaved<T>,
        sight: &Sight<O>,
        at: Place,
        grads: &mut Sums<O::DeviceSums>,
    ) -> T {
        let dmlp = ops.rms_norm_backward(&dy, &saved.mlp_out, &self.post_feedforward_gain, self.eps);
        let dnormed = self.mlp.backward(ops, &dmlp, &saved.mlp, at, grads);
        let dnormed = ops.rms_norm_backward(&dnormed, &saved.middle, &self.pre_feedforward_gain, self.eps);
        let dmiddle = ops.add(dy, &dnormed);
        let dattention = ops.rms_norm_backward(&dmiddle, &saved.attention_out, &self.post_attention_gain, self.eps);
        let dnormed = self.attention.backward(ops, &dattention, &saved.attention, sight, at, grads);
        let dnormed = ops.rms_norm_backward(&dnormed, &saved.x, &self.input_gain, self.eps);
        ops.add(dnormed, &sight.seeing_backward(ops, dmiddle, &saved.x))
    }
}
