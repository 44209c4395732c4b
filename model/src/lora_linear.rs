//! A frozen linear layer with a LoRA adapter beside it (`lora.Linear` in PEFT). It never changes its own weight.

use crate::ops::{Dropout, Ops, Place};
use crate::parts::Part;
use crate::sums::StepSums;

/// `y = x w^T + bias + scaling * dropout(x) a^T b^T`.
#[derive(Debug)]
pub struct LoraLinear<T> {
    /// `[out, in]`, frozen.
    pub w: T,
    /// `[1, out]`, frozen.
    pub bias: Option<T>,
    /// Which module of the adapter's layout this is.
    pub module: usize,
    pub adapter: Option<Adapter<T>>,
}

/// The trained pair of one module.
#[derive(Debug)]
pub struct Adapter<T> {
    /// `[r, in]`.
    pub lora_a: T,
    /// `[out, r]`.
    pub lora_b: T,
    /// Where the gradients of A and B lie in the flat buffer.
    pub ranges: [std::ops::Range<usize>; 2],
    /// `alpha / r`.
    pub scaling: f32,
    /// Drop probability of the input of A.
    pub dropout: f64,
}

impl<T: Clone> LoraLinear<T> {
    /// `x [t, in] -> y [t, out]`.
    pub fn forward<O: Ops<Tensor = T>>(&self, ops: &O, x: &T, at: Place) -> T {
        let mut y = ops.matmul_nt(x, &self.w);
        if let Some(bias) = &self.bias {
            y = ops.add(y, bias);
        }
        let Some(adapter) = &self.adapter else { return y };
        let _part = Part::Lora.enter();
        let h_tr = ops.matmul_nt(&dropped(ops, x, self.mask(at)), &adapter.lora_a);
        ops.add_matmul_nt(y, &h_tr, &adapter.lora_b, adapter.scaling)
    }

    /// `dy [t, out] -> dx [t, in]`; the gradients of A and B are added to `grads`.
    pub fn backward<O: Ops<Tensor = T>>(&self, ops: &O, dy: &T, x: &T, at: Place, grads: &mut StepSums) -> T {
        let dx = ops.matmul(dy, &self.w);
        let Some(adapter) = &self.adapter else { return dx };
        let _part = Part::Lora.enter();
        let mask = self.mask(at);
        let x_dropped = dropped(ops, x, mask);
        let h_tr = ops.scale(ops.matmul_nt(&x_dropped, &adapter.lora_a), adapter.scaling);
        let dh_tr = ops.scale(ops.matmul(dy, &adapter.lora_b), adapter.scaling);
        let [range_a, range_b] = adapter.ranges.clone();
        grads.add_gradient(range_a, &ops.download(&ops.matmul_tn(&dh_tr, &x_dropped)));
        grads.add_gradient(range_b, &ops.download(&ops.matmul_tn(dy, &h_tr)));
        match mask {
            None => ops.add_matmul(dx, &dh_tr, &adapter.lora_a),
            Some(mask) => ops.add(dx, &ops.dropout(&ops.matmul(&dh_tr, &adapter.lora_a), mask)),
        }
    }

    /// The mask of the input of A; `None` where nothing is dropped.
    fn mask(&self, at: Place) -> Option<Dropout> {
        let p = self.adapter.as_ref().map_or(0.0, |adapter| adapter.dropout);
        at.mask_key(self.module).filter(|_| p > 0.0).map(|key| Dropout::new(key, p))
    }
}

/// `x` as A sees it. Linear in `x`, hence its own backward.
fn dropped<O: Ops>(ops: &O, x: &O::Tensor, mask: Option<Dropout>) -> O::Tensor {
    mask.map_or_else(|| x.clone(), |mask| ops.dropout(x, mask))
}
