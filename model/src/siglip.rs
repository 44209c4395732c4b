//! The SigLIP vision tower: patches, learned positions, pre-norm layers of attention and MLP, a last norm.
//! Forward and backward; the patches themselves are frozen, so the backward ends at the first layer.

use crate::lora_linear::{LoraLinear, backward_all, forward_all};
use crate::ops::{AttentionSaved, Ops, Place};
use crate::parts::Part;
use crate::sums::StepSums;

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
    normed1: T,
    attention: AttentionSaved<T>,
    middle: T,
    normed2: T,
    fc1_ti: T,
    gelu_ti: T,
}

impl<T: Clone> VisionLayer<T> {
    /// `x [t, d] -> y [t, d]`.
    pub fn forward<O: Ops<Tensor = T>>(
        &self,
        ops: &O,
        x: T,
        plan: &O::AttentionPlan,
        at: Place,
    ) -> (T, VisionLayerSaved<T>) {
        let normed1 = self.norm1.forward(ops, &x);
        let [q, k, v] = forward_all(ops, [&self.q_proj, &self.k_proj, &self.v_proj], &normed1, at);
        let inner = Part::VisionAttention.enter();
        let (out, lse) = ops.attention(&q, &k, &v, plan);
        drop(inner);
        let middle = ops.add(self.out_proj.forward(ops, &out, at), &x);
        let normed2 = self.norm2.forward(ops, &middle);
        let fc1_ti = self.fc1.forward(ops, &normed2, at);
        let gelu_ti = ops.gelu(&fc1_ti);
        let y = ops.add(self.fc2.forward(ops, &gelu_ti, at), &middle);
        let attention = AttentionSaved { q, k, v, out, lse };
        (y, VisionLayerSaved { x, normed1, attention, middle, normed2, fc1_ti, gelu_ti })
    }

    /// `dy [t, d] -> dx [t, d]`.
    pub fn backward<O: Ops<Tensor = T>>(
        &self,
        ops: &O,
        dy: T,
        saved: &VisionLayerSaved<T>,
        plan: &O::AttentionPlan,
        at: Place,
        grads: &mut StepSums,
    ) -> T {
        let dgelu_ti = self.fc2.backward(ops, &dy, &saved.gelu_ti, at, grads);
        let dfc1_ti = ops.gelu_backward(&dgelu_ti, &saved.fc1_ti);
        let dnormed2 = self.fc1.backward(ops, &dfc1_ti, &saved.normed2, at, grads);
        let dmiddle = ops.add(dy, &self.norm2.backward(ops, &dnormed2, &saved.middle));
        let dout = self.out_proj.backward(ops, &dmiddle, &saved.attention.out, at, grads);
        let inner = Part::VisionAttention.enter();
        let [dq, dk, dv] = ops.attention_backward(&dout, &saved.attention, plan);
        drop(inner);
        let linears = [&self.q_proj, &self.k_proj, &self.v_proj];
        let dnormed1 = backward_all(ops, linears, [&dq, &dk, &dv], &saved.normed1, at, grads);
        ops.add(dmiddle, &self.norm1.backward(ops, &dnormed1, &saved.x))
    }
}
