//! From patches to soft tokens: pooling, a norm and one matrix (Gemma3MultiModalProjector in transformers).
//! Frozen as a whole; only gradients by its input are computed.

use crate::ops::Ops;
use crate::parts::Part;

/// `rms_norm(avg_pool(layer_norm'd patches)) w`.
#[derive(Debug)]
pub struct Projector<T> {
    /// `1 + w` of the norm, `[1, vision d]`.
    pub gain: T,
    /// `[vision d, text d]`: multiplied from the right as it is, not transposed as a linear layer's.
    pub w: T,
    pub eps: f32,
    /// Patches along a page's side.
    pub grid: usize,
    /// Side of the pooled window.
    pub window: usize,
}

/// Kept for backward: the pooled patches, `[soft tokens, vision d]`.
#[derive(Debug)]
pub struct ProjectorSaved<T> {
    pub pooled: T,
}

impl<T: Clone> Projector<T> {
    /// `x [n * grid^2, vision d] -> soft tokens [n * (grid / window)^2, text d]`.
    pub fn forward<O: Ops<Tensor = T>>(&self, ops: &O, x: &T) -> (T, ProjectorSaved<T>) {
        let _part = Part::Projector.enter();
        let pooled = ops.avg_pool(x, self.grid, self.window);
        let y = ops.matmul(&ops.rms_norm(&pooled, &self.gain, self.eps), &self.w);
        (y, ProjectorSaved { pooled })
    }

    /// `dy [soft tokens, text d] -> dx [n * grid^2, vision d]`.
    pub fn backward<O: Ops<Tensor = T>>(&self, ops: &O, dy: &T, saved: &ProjectorSaved<T>) -> T {
        let _part = Part::Projector.enter();
        let dnormed = ops.matmul_nt(dy, &self.w);
        let dpooled = ops.rms_norm_backward(&dnormed, &saved.pooled, &self.gain, self.eps);
        ops.avg_pool_backward(&dpooled, self.grid, self.window)
    }
}
