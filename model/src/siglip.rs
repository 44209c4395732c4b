//! The SigLIP vision tower: patches, learned positions, pre-norm layers of attention and MLP, a last norm.
//! Forward and backward; the patches themselves are frozen, so the backward ends at the first layer.

use crate::lora_linear::{LinearSaved, LoraLinear, backward_all, forward_all};
use crate::ops::{AttentionSaved, Ops, Place};
use crate::parts::Part;
use crate::sums::Sums;

/// Weight and bias of a layer norm, `[1, d]` each.
#[derive(Debug)]
pub struct LayerNorm<T> {
    pub w: T,
    pub b: T,
    pub eps: f32,
}

impl<T> LayerNorm<T> {
    fn forward<O: Ops<Tensor = T>>(&self, ops: &O, x: &T) -> T {
        ops.layer_norm(x, &self.w, &self.b, self.eps)
    }

    fn backward<O: Ops<Tensor = T>>(&self, ops: &O, dy: &T, x: &T) -> T {
        ops.layer_norm_backward(dy, x, &self.w, self.eps)
    }
}

/// What turns pages into rows: the patch convolution as a matrix and one learned position a patch.
#[derive(Debug)]
pub struct PatchEmbedding<T> {
    /// `[d, 3 * patch * patch]`.
    pub w: T,
    /// `[1, d]`.
    pub b: T,
    /// `[patches, d]`.
    pub positions: T,
    pub image_size: usize,
    pub patch_size: usize,
}

impl<T> PatchEmbedding<T> {
    /// Pages `u8 [n, size, size, 3] -> [n * patches, d]` (SiglipVisionEmbeddings in transformers).
    pub fn forward<O: Ops<Tensor = T>>(&self, ops: &O, pages: &[u8]) -> T {
        let patches = ops.patches(pages, self.image_size, self.patch_size);
        ops.add(ops.add(ops.matmul_nt(&patches, &self.w), &self.b), &self.positions)
    }
}

/// `x += out(attn(norm(x))); x += fc2(gelu(fc1(norm(x))))` (SiglipEncoderLayer in transformers).
#[derive(Debug)]
pub struct VisionLayer<T> {
    pub norm1: LayerNorm<T>,
    pub q_proj: LoraLinear<T>,
    pub k_proj: LoraLinear<T>,
    pub v_proj: LoraLinear<T>,
    pub out_proj: LoraLinear<T>,
    pub norm2: LayerNorm<T>,
    pub fc1: LoraLinear<T>,
    pub fc2: LoraLinear<T>,
}

/// Kept for backward: the residual stream before each half, the normed inputs of the linears, all `[t, d]`; the
/// attention's own; the MLP before and after its activation, `[t, i]`.
#[derive(Debug)]
pub struct VisionLayerSaved<T> {
    x: T,
    normed1: LinearSaved<T>,
    attention: AttentionSaved<T>,
    out: LinearSaved<T>,
    middle: T,
    normed2: LinearSaved<T>,
    fc1_ti: T,
    gelu: LinearSaved<T>,
}

/// What is left of it where the layer is recomputed: its input `[t, d]`, and the attention's output and log-sum-exp.
#[derive(Debug)]
pub struct VisionLayerKept<T> {
    x: T,
    out: (T, T),
}

impl<T> From<VisionLayerSaved<T>> for VisionLayerKept<T> {
    fn from(saved: VisionLayerSaved<T>) -> Self {
        Self { x: saved.x, out: (saved.attention.out, saved.attention.lse) }
    }
}

impl<T: Clone> VisionLayer<T> {
    /// Whether anything in it is trained.
    pub fn is_adapted(&self) -> bool {
        let Self { q_proj, k_proj, v_proj, out_proj, fc1, fc2, .. } = self;
        [q_proj, k_proj, v_proj, out_proj, fc1, fc2].iter().any(|linear| linear.adapter.is_some())
    }

    /// `x [t, d] -> y [t, d]`.
    pub fn forward<O: Ops<Tensor = T>>(
        &self,
        ops: &O,
        x: T,
        plan: &O::AttentionPlan,
        at: Place,
    ) -> (T, VisionLayerSaved<T>) {
        let saved = self.saved(ops, x, None, plan, at);
        (ops.add(self.fc2.output(ops, &saved.gelu, at), &saved.middle), saved)
    }

    /// What [`VisionLayer::forward`] keeps, from what is left of it.
    pub fn again<O: Ops<Tensor = T>>(
        &self,
        ops: &O,
        kept: VisionLayerKept<T>,
        plan: &O::AttentionPlan,
        at: Place,
    ) -> VisionLayerSaved<T> {
        self.saved(ops, kept.x, Some(kept.out), plan, at)
    }

    /// All but the layer's output, from its input and, where they are known, the attention's output and log-sum-exp.
    fn saved<O: Ops<Tensor = T>>(
        &self,
        ops: &O,
        x: T,
        out: Option<(T, T)>,
        plan: &O::AttentionPlan,
        at: Place,
    ) -> VisionLayerSaved<T> {
        let normed1 = self.norm1.forward(ops, &x);
        let ([q, k, v], normed1) = forward_all(ops, [&self.q_proj, &self.k_proj, &self.v_proj], normed1, at);
        let inner = Part::VisionAttention.enter();
        let (out, lse) = out.unwrap_or_else(|| ops.attention(&q, &k, &v, plan));
        drop(inner);
        let attention = AttentionSaved { q, k, v, out: out.clone(), lse };
        let (y, out) = self.out_proj.forward(ops, out, at);
        let middle = ops.add(y, &x);
        let (fc1_ti, normed2) = self.fc1.forward(ops, self.norm2.forward(ops, &middle), at);
        let gelu = self.fc2.again(ops, ops.gelu(&fc1_ti), at);
        VisionLayerSaved { x, normed1, attention, out, middle, normed2, fc1_ti, gelu }
    }

    /// `dy [t, d] -> dx [t, d]`.
    pub fn backward<O: Ops<Tensor = T>>(
        &self,
        ops: &O,
        dy: T,
        saved: &VisionLayerSaved<T>,
        plan: &O::AttentionPlan,
        at: Place,
        grads: &mut Sums<O::DeviceSums>,
    ) -> T {
        let dgelu_ti = self.fc2.backward(ops, &dy, &saved.gelu, at, grads);
        let dfc1_ti = ops.gelu_backward(&dgelu_ti, &saved.fc1_ti);
        let dnormed2 = self.fc1.backward(ops, &dfc1_ti, &saved.normed2, at, grads);
        let dmiddle = ops.add(dy, &self.norm2.backward(ops, &dnormed2, &saved.middle));
        let dout = self.out_proj.backward(ops, &dmiddle, &saved.out, at, grads);
        let inner = Part::VisionAttention.enter();
        let [dq, dk, dv] = ops.attention_backward(&dout, &saved.attention, plan);
        drop(inner);
        let linears = [&self.q_proj, &self.k_proj, &self.v_proj];
        let dnormed1 = backward_all(ops, linears, [&dq, &dk, &dv], &saved.normed1, at, grads);
        ops.add(dmiddle, &self.norm1.backward(ops, &dnormed1, &saved.x))
    }
}
