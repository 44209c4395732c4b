//! Attention over a Burn backend: scores of a few rows at a time, within a stated bound of memory, never of a whole
//! layer. The backward recomputes them from the kept log-sum-exp (Dao et al., "FlashAttention", 2022, section 3.1).

use burn::tensor::{Tensor, backend::Backend};

use super::Burn;
use crate::ops::{AttentionSaved, AttentionShape};

/// Scores held at once at most, in numbers (256 MB as f32), unless one row of a batch alone needs more.
const MAX_SCORES: usize = 1 << 26;

/// Added to the score of a key that must not be seen: finite, so that a row of them is not NaN.
const HIDDEN: f32 = -1.0e30;

type Blocks<B> = Tensor<B, 4>;

/// 0 where allowed, a large negative number elsewhere.
pub(super) fn bias(allowed: &[bool]) -> Vec<f32> {
    allowed.iter().map(|&ok| if ok { 0.0 } else { HIDDEN }).collect()
}

/// `[rows * len, heads * n]` as `[rows, heads, len, n]`.
fn split<B: Backend>(x: &Tensor<B, 2>, rows: usize, n: usize) -> Blocks<B> {
    let [tokens, width] = x.dims();
    x.clone().reshape([rows, tokens / rows, width / n, n]).swap_dims(1, 2)
}

/// The reverse of [`split`].
fn join<B: Backend>(x: Blocks<B>) -> Tensor<B, 2> {
    let [rows, heads, len, n] = x.dims();
    x.swap_dims(1, 2).reshape([rows * len, heads * n])
}

/// One range of batch rows, with its queries grouped under the key head they share: `[rows, kv_heads, group * q_len, n]`.
struct Part<'a, B: Backend> {
    start: usize,
    shape: AttentionShape,
    mask: Option<&'a Blocks<B>>,
}

impl<B: Backend> Part<'_, B> {
    fn take(&self, x: &Blocks<B>) -> Blocks<B> {
        x.clone().narrow(0, self.start, self.shape.rows)
    }

    /// Queries of one key head one after the other: a view, as heads of a group are neighbours.
    fn grouped(&self, x: &Blocks<B>) -> Blocks<B> {
        let AttentionShape { rows, heads, kv_heads, q_len, head_dim, .. } = self.shape;
        self.take(x).reshape([rows, kv_heads, heads / kv_heads * q_len, head_dim])
    }

    fn ungrouped(&self, x: Blocks<B>) -> Blocks<B> {
        let AttentionShape { rows, heads, q_len, .. } = self.shape;
        let width = x.dims()[3];
        x.reshape([rows, heads, q_len, width])
    }

    /// `scale q k^T + mask`, `[rows, heads, q_len, kv_len]`.
    fn scores(&self, q: Blocks<B>, k: &Blocks<B>) -> Blocks<B> {
        let scores = self.ungrouped(q.matmul(k.clone().swap_dims(2, 3))).mul_scalar(self.shape.scale);
        match self.mask {
            Some(mask) => scores + self.take(mask),
            None => scores,
        }
    }

    fn regrouped(&self, x: Blocks<B>) -> Blocks<B> {
        let AttentionShape { rows, heads, kv_heads, q_len, kv_len, .. } = self.shape;
        x.reshape([rows, kv_heads, heads / kv_heads * q_len, kv_len])
    }
}

fn parts<B: Backend>(shape: AttentionShape, mask: Option<&Blocks<B>>) -> impl Iterator<Item = Part<'_, B>> {
    let per_row = shape.heads * shape.q_len * shape.kv_len;
    let step = (MAX_SCORES / per_row.max(1)).clamp(1, shape.rows.max(1));
    (0..shape.rows).step_by(step).map(move |start| {
        let rows = step.min(shape.rows - start);
        Part { start, shape: AttentionShape { rows, ..shape }, mask }
    })
}

/// Output `[rows * q_len, heads * n]` and log-sum-exp `[rows * heads, q_len]`.
pub(super) fn forward<B: Backend>(
    engine: &Burn<B>,
    q: &Tensor<B, 2>,
    k: &Tensor<B, 2>,
    v: &Tensor<B, 2>,
    mask: Option<&Blocks<B>>,
    shape: AttentionShape,
) -> (Tensor<B, 2>, Tensor<B, 2>) {
    let [q, k, v] = [q, k, v].map(|x| split(x, shape.rows, shape.head_dim));
    let (mut outs, mut lses) = (Vec::new(), Vec::new());
    for part in parts(shape, mask) {
        let scores = part.scores(part.grouped(&q), &part.take(&k));
        let max = scores.clone().max_dim(3);
        let p = (scores - max.clone()).exp();
        let sum = p.clone().sum_dim(3);
        lses.push((sum.clone().log() + max).reshape([part.shape.rows * shape.heads, shape.q_len]));
        let p = engine.round(p / sum);
        outs.push(join(part.ungrouped(part.regrouped(p).matmul(part.take(&v)))));
    }
    (engine.round(Tensor::cat(outs, 0)), Tensor::cat(lses, 0))
}

/// Gradients by `q`, `k`, `v`: with `p = exp(scores - lse)`, `dv = p^T dout`,
/// `ds = p * (dout v^T - rowsum(dout * out))`, `dq = scale ds k`, `dk = scale ds^T q`.
pub(super) fn backward<B: Backend>(
    engine: &Burn<B>,
    dout: &Tensor<B, 2>,
    saved: &AttentionSaved<Tensor<B, 2>>,
    mask: Option<&Blocks<B>>,
    shape: AttentionShape,
) -> [Tensor<B, 2>; 3] {
    let AttentionShape { rows, heads, q_len, head_dim, scale, .. } = shape;
    let [q, k, v, out, dout] = [&saved.q, &saved.k, &saved.v, &saved.out, dout].map(|x| split(x, rows, head_dim));
    let lse = saved.lse.clone().reshape([rows, heads, q_len, 1]);
    let delta = (dout.clone() * out).sum_dim(3);
    let mut grads: [Vec<Tensor<B, 2>>; 3] = Default::default();
    for part in parts(shape, mask) {
        let (q, k, v, dout) = (part.grouped(&q), part.take(&k), part.take(&v), part.grouped(&dout));
        let p = (part.scores(q.clone(), &k) - part.take(&lse)).exp();
        let dp = part.ungrouped(dout.clone().matmul(v.swap_dims(2, 3)));
        let ds = part.regrouped(p.clone() * (dp - part.take(&delta))).mul_scalar(scale);
        let p = part.regrouped(engine.round(p));
        let dq = ds.clone().matmul(k);
        let found = [part.ungrouped(dq), ds.swap_dims(2, 3).matmul(q), p.swap_dims(2, 3).matmul(dout)];
        grads.iter_mut().zip(found).for_each(|(all, part)| all.push(join(part)));
    }
    grads.map(|parts| engine.round(Tensor::cat(parts, 0)))
}
