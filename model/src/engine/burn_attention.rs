//! Attention over a Burn backend: neighbouring rows of equal length at a time, within a stated bound of memory, never the
//! scores of a whole layer. The backward recomputes them from the kept log-sum-exp (Dao et al., "FlashAttention", 2022,
//! section 3.1).

use std::ops::Range;

use burn::tensor::{Tensor, backend::Backend};

use super::Burn;
use crate::ops::{AttentionRow, AttentionSaved, AttentionShape};

/// Scores held at once at most, in numbers (256 MB as f32), unless one row of a batch alone needs more.
const MAX_SCORES: usize = 1 << 26;

/// Added to the score of a key that must not be seen: finite, so that a row of them is not NaN.
const HIDDEN: f32 = -1.0e30;

type Blocks<B> = Tensor<B, 4>;

/// An attention cut into parts, with the masks of each where the device needs them.
pub struct Plan<B: Backend> {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    scale: f32,
    parts: Vec<Part<B>>,
}

/// Some neighbouring rows of equal length.
struct Part<B: Backend> {
    rows: usize,
    /// Tokens of its queries and keys.
    queries: Range<usize>,
    keys: Range<usize>,
    /// 0 where a query sees a key, [`HIDDEN`] elsewhere, `[rows, 1, q_len, kv_len]`; none where it sees every key.
    bias: Option<Blocks<B>>,
}

impl<B: Backend> Plan<B> {
    pub(super) fn new(engine: &Burn<B>, shape: &AttentionShape) -> Self {
        let len = |row: &AttentionRow| [row.seen.len(), row.n_keys];
        let mut parts = Vec::new();
        let mut at = [0, 0];
        for equal in shape.rows.chunk_by(|a, b| len(a) == len(b)) {
            let [q_len, kv_len] = len(&equal[0]);
            let most = (MAX_SCORES / (shape.heads * q_len * kv_len).max(1)).max(1);
            for rows in equal.chunks(most) {
                let end = [at[0] + rows.len() * q_len, at[1] + rows.len() * kv_len];
                let bias = bias(rows).map(|bias| engine.tensor(bias, [rows.len(), 1, q_len, kv_len]));
                parts.push(Part { rows: rows.len(), queries: at[0]..end[0], keys: at[1]..end[1], bias });
                at = end;
            }
        }
        let &AttentionShape { heads, kv_heads, head_dim, scale, .. } = shape;
        Self { heads, kv_heads, head_dim, scale, parts }
    }

    /// Queries of a part under the key head they share: `[rows, kv_heads, group * q_len, n]`, as heads of a group are
    /// neighbours.
    fn grouped(&self, part: &Part<B>, x: &Tensor<B, 2>) -> Blocks<B> {
        let x = split(part.queries(x), part.rows, x.dims()[1] / self.heads);
        let [rows, heads, q_len, n] = x.dims();
        x.reshape([rows, self.kv_heads, heads / self.kv_heads * q_len, n])
    }

    /// The reverse of the grouping: `[rows, heads, q_len, n]`.
    fn ungrouped(&self, x: Blocks<B>) -> Blocks<B> {
        let [rows, kv_heads, grouped, n] = x.dims();
        let q_len = grouped / (self.heads / kv_heads);
        x.reshape([rows, self.heads, q_len, n])
    }

    /// Grouped again: `[rows, kv_heads, group * q_len, n]`.
    fn regrouped(&self, x: Blocks<B>) -> Blocks<B> {
        let [rows, heads, q_len, n] = x.dims();
        x.reshape([rows, self.kv_heads, heads / self.kv_heads * q_len, n])
    }

    /// Keys or values of a part: `[rows, kv_heads, kv_len, n]`.
    fn keyed(&self, part: &Part<B>, x: &Tensor<B, 2>) -> Blocks<B> {
        split(rows_of(x, &part.keys), part.rows, self.head_dim)
    }

    /// `scale q k^T` where it is seen, `[rows, heads, q_len, kv_len]`.
    fn scores(&self, part: &Part<B>, q: Blocks<B>, k: &Blocks<B>) -> Blocks<B> {
        let scores = self.ungrouped(q.matmul(k.clone().swap_dims(2, 3))).mul_scalar(self.scale);
        match &part.bias {
            Some(bias) => scores + bias.clone(),
            None => scores,
        }
    }
}

impl<B: Backend> Part<B> {
    fn queries(&self, x: &Tensor<B, 2>) -> Tensor<B, 2> {
        rows_of(x, &self.queries)
    }
}

/// The masks of rows of equal length; none where every query sees every key.
fn bias(rows: &[AttentionRow]) -> Option<Vec<f32>> {
    let all = |row: &AttentionRow| row.seen.iter().all(|run| *run == [0, row.n_keys as u32]);
    if rows.iter().all(all) {
        return None;
    }
    let queries = rows.iter().flat_map(|row| row.seen.iter().map(|run| (run, row.n_keys as u32)));
    let bias = |([first, end], n): (&[u32; 2], u32)| {
        let (first, end) = (*first, *end);
        (0..n).map(move |key| if (first..end).contains(&key) { 0.0 } else { HIDDEN })
    };
    Some(queries.flat_map(bias).collect())
}

fn rows_of<B: Backend>(x: &Tensor<B, 2>, tokens: &Range<usize>) -> Tensor<B, 2> {
    x.clone().narrow(0, tokens.start, tokens.len())
}

/// `[rows * len, heads * n]` as `[rows, heads, len, n]`.
fn split<B: Backend>(x: Tensor<B, 2>, rows: usize, n: usize) -> Blocks<B> {
    let [tokens, width] = x.dims();
    x.reshape([rows, tokens / rows, width / n, n]).swap_dims(1, 2)
}

/// The reverse of [`split`].
fn join<B: Backend>(x: Blocks<B>) -> Tensor<B, 2> {
    let [rows, heads, len, n] = x.dims();
    x.swap_dims(1, 2).reshape([rows * len, heads * n])
}

/// Output `[t, heads * n]` and log-sum-exp `[t, heads]`.
pub(super) fn forward<B: Backend>(
    engine: &Burn<B>,
    q: &Tensor<B, 2>,
    k: &Tensor<B, 2>,
    v: &Tensor<B, 2>,
    plan: &Plan<B>,
) -> (Tensor<B, 2>, Tensor<B, 2>) {
    let (mut outs, mut lses) = (Vec::new(), Vec::new());
    for part in plan.parts.iter().filter(|part| !part.queries.is_empty()) {
        let scores = plan.scores(part, plan.grouped(part, q), &plan.keyed(part, k));
        let max = scores.clone().max_dim(3);
        let p = (scores - max.clone()).exp();
        let sum = p.clone().sum_dim(3);
        lses.push(join(sum.clone().log() + max));
        let p = engine.round(p / sum);
        outs.push(join(plan.ungrouped(plan.regrouped(p).matmul(plan.keyed(part, v)))));
    }
    (engine.round(Tensor::cat(outs, 0)), Tensor::cat(lses, 0))
}

/// Gradients by `q`, `k`, `v`: with `p = exp(scores - lse)`, `dv = p^T dout`,
/// `ds = p * (dout v^T - rowsum(dout * out))`, `dq = scale ds k`, `dk = scale ds^T q`.
pub(super) fn backward<B: Backend>(
    engine: &Burn<B>,
    dout: &Tensor<B, 2>,
    saved: &AttentionSaved<Tensor<B, 2>>,
    plan: &Plan<B>,
) -> [Tensor<B, 2>; 3] {
    let mut grads: [Vec<Tensor<B, 2>>; 3] = Default::default();
    for part in &plan.parts {
        if part.queries.is_empty() {
            let shape = [part.keys.len(), plan.kv_heads * plan.head_dim];
            grads[1..].iter_mut().for_each(|all| all.push(engine.tensor(vec![0.0; shape[0] * shape[1]], shape)));
            continue;
        }
        let [k, v] = [&saved.k, &saved.v].map(|x| plan.keyed(part, x));
        let [q, out, dout] = [&saved.q, &saved.out, dout].map(|x| plan.grouped(part, x));
        let lse = split(part.queries(&saved.lse), part.rows, 1);
        let delta = plan.ungrouped((dout.clone() * out).sum_dim(3));
        let p = (plan.scores(part, q.clone(), &k) - lse).exp();
        let dp = plan.ungrouped(dout.clone().matmul(v.swap_dims(2, 3)));
        let ds = plan.regrouped(p.clone() * (dp - delta)).mul_scalar(plan.scale);
        let p = plan.regrouped(engine.round(p));
        let dq = ds.clone().matmul(k);
        let found = [plan.ungrouped(dq), ds.swap_dims(2, 3).matmul(q), p.swap_dims(2, 3).matmul(dout)];
        grads.iter_mut().zip(found).for_each(|(all, part)| all.push(join(part)));
    }
    grads.map(|parts| engine.round(Tensor::cat(parts, 0)))
}
