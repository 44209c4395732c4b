//! Attention over a Burn backend, in blocks: neighbouring rows of equal length together, or some queries of one row with
//! the keys that they see. The scores of a layer never exist; the backward makes those of a block again from the kept
//! log-sum-exp (Dao et al., "FlashAttention", 2022, section 3.1).

use std::ops::Range;

use burn::tensor::{Tensor, backend::Backend};

use super::Burn;
use super::kernels::Kernels;
use crate::ops::{AttentionRow, AttentionSaved, AttentionShape};

/// Added to the score of a key that must not be seen: finite, so that a row of them is not NaN.
const HIDDEN: f32 = -1.0e30;

type Heads<B> = Tensor<B, 4>;

/// An attention cut into blocks, with the masks of each where the device needs them.
pub struct Plan<B: Backend> {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    scale: f32,
    blocks: Vec<Block<B>>,
}

/// Whole neighbouring rows of equal length, or some queries of one row.
struct Block<B: Backend> {
    cut: Cut,
    /// 0 where a query sees a key, [`HIDDEN`] elsewhere, `[rows, 1, q_len, kv_len]`; none where it sees every key.
    bias: Option<Heads<B>>,
}

/// Where a block lies.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Cut {
    /// Rows of the attention, by number.
    rows: Range<usize>,
    /// Tokens of its queries and keys.
    queries: Range<usize>,
    keys: Range<usize>,
}

/// Blocks of at most `max_scores` scores over all heads, but never less than a query. They are in the order of their
/// queries, and a query's keys are all in its block.
fn cuts(rows: &[AttentionRow], heads: usize, max_scores: usize) -> Vec<Cut> {
    let len = |row: &AttentionRow| [row.seen.len(), row.n_keys];
    let mut cuts = Vec::new();
    let (mut at, mut row) = ([0, 0], 0);
    for equal in rows.chunk_by(|a, b| len(a) == len(b)) {
        let [q_len, kv_len] = len(&equal[0]);
        let most = max_scores / (heads * q_len * kv_len).max(1);
        for rows in equal.chunks(most.max(1)) {
            let at_once = if rows.len() > 1 { q_len } else { (max_scores / (heads * kv_len).max(1)).min(q_len) }.max(1);
            for first in (0..q_len).step_by(at_once) {
                let within = first..(first + at_once).min(q_len);
                let (queries, keys) = match rows {
                    [one] => (within.clone(), one.run(within)),
                    _ => (0..rows.len() * q_len, 0..rows.len() * kv_len),
                };
                let moved = |range: Range<usize>, by| range.start + by..range.end + by;
                cuts.push(Cut {
                    rows: row..row + rows.len(),
                    queries: moved(queries, at[0]),
                    keys: moved(keys, at[1]),
                });
            }
            at = [at[0] + rows.len() * q_len, at[1] + rows.len() * kv_len];
            row += rows.len();
        }
    }
    cuts
}

/// The masks of a block; none where every query sees every key of it.
fn bias(rows: &[AttentionRow], cut: &Cut, first_of_row: [usize; 2]) -> Option<Vec<f32>> {
    let (queries, keys) = match rows {
        [_] => (
            cut.queries.start - first_of_row[0]..cut.queries.end - first_of_row[0],
            cut.keys.start - first_of_row[1]..cut.keys.end - first_of_row[1],
        ),
        _ => (0..rows[0].seen.len(), 0..rows[0].n_keys),
    };
    let seen = || rows.iter().flat_map(|row| &row.seen[queries.clone()]);
    if seen().all(|&[first, end]| first as usize <= keys.start && keys.end <= end as usize) {
        return None;
    }
    let of_query = |&[first, end]: &[u32; 2]| {
        keys.clone().map(move |key| if (first as usize..end as usize).contains(&key) { 0.0 } else { HIDDEN })
    };
    Some(seen().flat_map(of_query).collect())
}

impl<B: Backend> Plan<B> {
    pub(super) fn new<K: Kernels<B>>(engine: &Burn<B, K>, shape: &AttentionShape) -> Self {
        let &AttentionShape { heads, kv_heads, head_dim, scale, ref rows } = shape;
        let mut starts = vec![[0, 0]];
        for row in rows {
            let [queries, keys] = starts[starts.len() - 1];
            starts.push([queries + row.seen.len(), keys + row.n_keys]);
        }
        let block = |cut: Cut| {
            let n = cut.rows.len();
            let shape = [n, 1, cut.queries.len() / n, cut.keys.len() / n];
            let bias = bias(&rows[cut.rows.clone()], &cut, starts[cut.rows.start]);
            Block { bias: bias.map(|bias| engine.tensor(bias, shape)), cut }
        };
        let blocks = cuts(rows, heads, engine.max_scores).into_iter().map(block).collect();
        Self { heads, kv_heads, head_dim, scale, blocks }
    }

    /// Heads under the key head that they share: `[rows, heads, len, n]` to `[rows, kv_heads, group * len, n]`, as heads of
    /// a group are neighbours.
    fn grouped(&self, x: Heads<B>) -> Heads<B> {
        let [rows, heads, len, n] = x.dims();
        x.reshape([rows, self.kv_heads, heads / self.kv_heads * len, n])
    }

    /// The reverse of it.
    fn ungrouped(&self, x: Heads<B>) -> Heads<B> {
        let [rows, kv_heads, grouped, n] = x.dims();
        x.reshape([rows, self.heads, grouped / (self.heads / kv_heads), n])
    }

    /// Queries of a block, grouped.
    fn queries(&self, block: &Block<B>, x: &Tensor<B, 2>) -> Heads<B> {
        let n = x.dims()[1] / self.heads;
        self.grouped(split(x, &block.cut.queries, block.cut.rows.len(), n))
    }

    /// Keys or values of a block: `[rows, kv_heads, kv_len, n]`.
    fn keys(&self, block: &Block<B>, x: &Tensor<B, 2>) -> Heads<B> {
        split(x, &block.cut.keys, block.cut.rows.len(), self.head_dim)
    }

    /// `scale q k^T` where it is seen, `[rows, heads, q_len, kv_len]`.
    fn scores<K: Kernels<B>>(&self, engine: &Burn<B, K>, block: &Block<B>, q: Heads<B>, k: Heads<B>) -> Heads<B> {
        let scores = self.ungrouped(engine.product(q, k.swap_dims(2, 3))).mul_scalar(self.scale);
        match &block.bias {
            Some(bias) => scores + bias.clone(),
            None => scores,
        }
    }
}

/// Some rows of a matrix `[t, heads * n]` as `[rows, heads, len, n]`.
fn split<B: Backend>(x: &Tensor<B, 2>, tokens: &Range<usize>, rows: usize, n: usize) -> Heads<B> {
    let (heads, len) = (x.dims()[1] / n, tokens.len() / rows);
    x.clone().narrow(0, tokens.start, tokens.len()).reshape([rows, len, heads, n]).swap_dims(1, 2)
}

/// The reverse of [`split`].
fn join<B: Backend>(x: Heads<B>) -> Tensor<B, 2> {
    let [rows, heads, len, n] = x.dims();
    x.swap_dims(1, 2).reshape([rows * len, heads * n])
}

/// Output `[t, heads * n]` and log-sum-exp `[t, heads]`.
pub(super) fn forward<B: Backend, K: Kernels<B>>(
    engine: &Burn<B, K>,
    q: &Tensor<B, 2>,
    k: &Tensor<B, 2>,
    v: &Tensor<B, 2>,
    plan: &Plan<B>,
) -> (Tensor<B, 2>, Tensor<B, 2>) {
    let (mut outs, mut lses) = (Vec::new(), Vec::new());
    for block in &plan.blocks {
        let scores = plan.scores(engine, block, plan.queries(block, q), plan.keys(block, k));
        let max = scores.clone().max_dim(3);
        let p = (scores - max.clone()).exp();
        let sum = p.clone().sum_dim(3);
        lses.push(join(sum.clone().log() + max));
        let out = engine.product(plan.grouped(p / sum), plan.keys(block, v));
        outs.push(join(plan.ungrouped(out)));
    }
    (engine.round(Tensor::cat(outs, 0)), Tensor::cat(lses, 0))
}

/// Gradients by `q`, `k`, `v`: with `p = exp(scores - lse)`, `dv = p^T dout`,
/// `ds = p * (dout v^T - rowsum(dout * out))`, `dq = scale ds k`, `dk = scale ds^T q`. Those by keys and values are added
/// over the blocks that see them, in the order of the blocks.
pub(super) fn backward<B: Backend, K: Kernels<B>>(
    engine: &Burn<B, K>,
    dout: &Tensor<B, 2>,
    saved: &AttentionSaved<Tensor<B, 2>>,
    plan: &Plan<B>,
) -> [Tensor<B, 2>; 3] {
    let mut dqs = Vec::new();
    let (mut dk, mut dv) = (saved.k.zeros_like(), saved.v.zeros_like());
    for block in &plan.blocks {
        let [k, v] = [&saved.k, &saved.v].map(|x| plan.keys(block, x));
        let [q, out, dout] = [&saved.q, &saved.out, dout].map(|x| plan.queries(block, x));
        let lse = plan.ungrouped(plan.queries(block, &saved.lse));
        let delta = plan.ungrouped((dout.clone() * out).sum_dim(3));
        let p = (plan.scores(engine, block, q.clone(), k.clone()) - lse).exp();
        let dp = plan.ungrouped(engine.product(dout.clone(), v.swap_dims(2, 3)));
        let ds = plan.grouped(p.clone() * (dp - delta)).mul_scalar(plan.scale);
        let p = plan.grouped(p).swap_dims(2, 3);
        dv = add_to(dv, &block.cut.keys, join(engine.product(p, dout)));
        dqs.push(join(plan.ungrouped(engine.product(ds.clone(), k))));
        dk = add_to(dk, &block.cut.keys, join(engine.product(ds.swap_dims(2, 3), q)));
    }
    [Tensor::cat(dqs, 0), dk, dv].map(|x| engine.round(x))
}

/// `sum` with `part` added to some of its rows.
fn add_to<B: Backend>(sum: Tensor<B, 2>, tokens: &Range<usize>, part: Tensor<B, 2>) -> Tensor<B, 2> {
    let width = sum.dims()[1];
    let more = sum.clone().narrow(0, tokens.start, tokens.len()) + part;
    sum.slice_assign([tokens.clone(), 0..width], more)
}

#[cfg(test)]
mod tests;
