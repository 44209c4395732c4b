//! Attention of a decoder layer: grouped queries, q/k norm before the rotary embedding, window or global.
//! Forward and backward; it keeps inputs, outputs and the log-sum-exp, never a matrix of scores.

use crate::cache::KvCache;
use crate::config::LayerKind;
use crate::lora_linear::{LinearSaved, LoraLinear, backward_all, forward_all};
use crate::ops::{AttentionSaved, Ops, Place};
use crate::parts::Part;
use crate::rope::Rope;
use crate::sums::Sums;

/// `o(attention(rope(norm(q(x))), rope(norm(k(x))), v(x)))` (Gemma3Attention in transformers).
#[derive(Debug)]
pub struct Attention<T> {
    pub q_proj: LoraLinear<T>,
    pub k_proj: LoraLinear<T>,
    pub v_proj: LoraLinear<T>,
    pub o_proj: LoraLinear<T>,
    /// `1 + w` of the norms over each head, `[1, head_dim]`.
    pub q_gain: T,
    pub k_gain: T,
    pub eps: f32,
}

/// What every layer of a kind shares in one forward: who sees whom, and rotary tables of the batch's tokens.
pub(crate) struct Sight<O: Ops> {
    pub plan: O::AttentionPlan,
    pub rope: Rope<O::Tensor>,
    /// The tokens that see, where the others' outputs are not needed; all are seen.
    pub seeing: Option<Vec<u32>>,
}

/// The two kinds of [`Sight`], and that of the last layer, if it differs.
pub(crate) struct Sights<O: Ops> {
    pub sliding: Sight<O>,
    pub global: Sight<O>,
    pub last: Option<Sight<O>>,
}

impl<O: Ops> Sights<O> {
    pub fn of(&self, kind: LayerKind) -> &Sight<O> {
        match kind {
            LayerKind::Sliding => &self.sliding,
            LayerKind::Global => &self.global,
        }
    }
}

impl<O: Ops> Sight<O> {
    /// The rows of tokens that see: `x [t, n] -> [q, n]`.
    pub fn seeing(&self, ops: &O, x: &O::Tensor) -> O::Tensor {
        self.seeing.as_ref().map_or_else(|| x.clone(), |seeing| ops.gather_rows(x, seeing))
    }

    /// Backward of [`Sight::seeing`]: `dy [q, n] -> dx` of as many tokens as `like` has, 0 for those that do not see.
    pub fn seeing_backward(&self, ops: &O, dy: O::Tensor, like: &O::Tensor) -> O::Tensor {
        let Some(seeing) = &self.seeing else { return dy };
        let [t, n] = [ops.shape(like)[0], ops.shape(&dy)[1]];
        ops.replace_rows(ops.upload(vec![0.0; t * n], [t, n]), seeing, &dy)
    }
}

/// Kept for backward: the input `[t, d]`, queries and keys before their norms, what the attention itself keeps, and its
/// output as the input of the last linear.
#[derive(Debug)]
pub struct AttentionLayerSaved<T> {
    x: LinearSaved<T>,
    q_before: T,
    k_before: T,
    inner: AttentionSaved<T>,
    out: LinearSaved<T>,
}

impl<T: Clone> AttentionLayerSaved<T> {
    /// Keys and values as they were multiplied.
    pub(crate) fn into_cache(self) -> KvCache<T> {
        KvCache { k: self.inner.k, v: self.inner.v }
    }

    /// Output and log-sum-exp of the attention.
    pub(crate) fn into_out(self) -> (T, T) {
        (self.inner.out, self.inner.lse)
    }
}

impl<T: Clone> Attention<T> {
    /// `x [t, d] -> y [q, d]`, where `q` is how many tokens see. With a cache, `x` holds the newest position of each row; its
    /// keys and values go to the given places of the cache, and it sees what `sight` says of those.
    pub(crate) fn forward<O: Ops<Tensor = T>>(
        &self,
        ops: &O,
        x: T,
        sight: &Sight<O>,
        at: Place,
        cache: Option<(KvCache<T>, &[u32])>,
    ) -> (T, AttentionLayerSaved<T>) {
        let saved = self.saved(ops, x, sight, at, cache, None);
        let _part = Part::TextProjections.enter();
        (self.o_proj.output(ops, &saved.out, at), saved)
    }

    /// What [`Attention::forward`] keeps, from its input and the attention's output and log-sum-exp.
    pub(crate) fn again<O: Ops<Tensor = T>>(
        &self,
        ops: &O,
        x: T,
        out: (T, T),
        sight: &Sight<O>,
        at: Place,
    ) -> AttentionLayerSaved<T> {
        self.saved(ops, x, sight, at, None, Some(out))
    }

    fn saved<O: Ops<Tensor = T>>(
        &self,
        ops: &O,
        x: T,
        sight: &Sight<O>,
        at: Place,
        cache: Option<(KvCache<T>, &[u32])>,
        out: Option<(T, T)>,
    ) -> AttentionLayerSaved<T> {
        let _part = Part::TextProjections.enter();
        let ([q_before, k_before, mut v], x) = forward_all(ops, [&self.q_proj, &self.k_proj, &self.v_proj], x, at);
        let Rope { cos, sin, .. } = &sight.rope;
        let q = sight.seeing(ops, &ops.rope(&ops.rms_norm(&q_before, &self.q_gain, self.eps), cos, sin));
        let mut k = ops.rope(&ops.rms_norm(&k_before, &self.k_gain, self.eps), cos, sin);
        if let Some((cache, places)) = cache {
            KvCache { k, v } = cache.write(ops, places, &k, &v);
        }
        let inner = Part::TextAttention.enter();
        let (out, lse) = out.unwrap_or_else(|| ops.attention(&q, &k, &v, &sight.plan));
        drop(inner);
        let inner = AttentionSaved { q, k, v, out: out.clone(), lse };
        AttentionLayerSaved { x, q_before, k_before, inner, out: self.o_proj.again(ops, out, at) }
    }

    /// `dy [q, d] -> dx [t, d]`.
    pub(crate) fn backward<O: Ops<Tensor = T>>(
        &self,
        ops: &O,
        dy: &T,
        saved: &AttentionLayerSaved<T>,
        sight: &Sight<O>,
        at: Place,
        grads: &mut Sums<O::DeviceSums>,
    ) -> T {
        let _part = Part::TextProjections.enter();
        let dout = self.o_proj.backward(ops, dy, &saved.out, at, grads);
        let inner = Part::TextAttention.enter();
        let [dq, dk, dv] = ops.attention_backward(&dout, &saved.inner, &sight.plan);
        drop(inner);
        let Rope { cos, minus_sin, .. } = &sight.rope;
        let dq = sight.seeing_backward(ops, dq, &saved.q_before);
        let dq = ops.rms_norm_backward(&ops.rope(&dq, cos, minus_sin), &saved.q_before, &self.q_gain, self.eps);
        let dk = ops.rms_norm_backward(&ops.rope(&dk, cos, minus_sin), &saved.k_before, &self.k_gain, self.eps);
        backward_all(ops, [&self.q_proj, &self.k_proj, &self.v_proj], [&dq, &dk, &dv], &saved.x, at, grads)
    }
}
