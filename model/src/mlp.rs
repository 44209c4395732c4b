//! Gated MLP of a decoder layer: forward and backward. It keeps only what its backward needs.

use crate::lora_linear::{LinearSaved, LoraLinear, backward_all, forward_all};
use crate::ops::{Ops, Place};
use crate::parts::Part;
use crate::sums::Sums;

/// `down(gelu(gate(x)) * up(x))` (Gemma3MLP in transformers).
#[derive(Debug)]
pub struct Mlp<T> {
    pub gate: LoraLinear<T>,
    pub up: LoraLinear<T>,
    pub down: LoraLinear<T>,
}

/// Kept for backward: the input `x [t, d]`, gate and up before the product and the product `h`, each `[t, i]`.
#[derive(Debug)]
pub struct MlpSaved<T> {
    x: LinearSaved<T>,
    gate_ti: T,
    up_ti: T,
    h: LinearSaved<T>,
}

impl<T: Clone> Mlp<T> {
    /// `x [t, d] -> y [t, d]`.
    pub fn forward<O: Ops<Tensor = T>>(&self, ops: &O, x: T, at: Place) -> (T, MlpSaved<T>) {
        let saved = self.again(ops, x, at);
        let _part = Part::TextMlp.enter();
        (self.down.output(ops, &saved.h, at), saved)
    }

    /// What [`Mlp::forward`] keeps, without its output.
    pub fn again<O: Ops<Tensor = T>>(&self, ops: &O, x: T, at: Place) -> MlpSaved<T> {
        let _part = Part::TextMlp.enter();
        let ([gate_ti, up_ti], x) = forward_all(ops, [&self.gate, &self.up], x, at);
        let h = self.down.again(ops, ops.gelu_mul(&gate_ti, &up_ti), at);
        MlpSaved { x, gate_ti, up_ti, h }
    }

    /// `dy [t, d] -> dx [t, d]`.
    pub fn backward<O: Ops<Tensor = T>>(
        &self,
        ops: &O,
        dy: &T,
        saved: &MlpSaved<T>,
        at: Place,
        grads: &mut Sums<O::DeviceSums>,
    ) -> T {
        let _part = Part::TextMlp.enter();
        let dh_ti = self.down.backward(ops, dy, &saved.h, at, grads);
        let (dgate_ti, dup_ti) = ops.gelu_mul_backward(&dh_ti, &saved.gate_ti, &saved.up_ti);
        backward_all(ops, [&self.gate, &self.up], [&dgate_ti, &dup_ti], &saved.x, at, grads)
    }
}
