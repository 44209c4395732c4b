//! Attention on the CPU, one batch row a task: scores of a block of queries at a time, never of a whole layer. Forward
//! keeps the log-sum-exp; backward recomputes the scores from it (Dao et al., "FlashAttention", 2022, section 3.1).

use rayon::prelude::*;

use super::math::exp;
use super::matrix::{Into, Matrix, View, product};
use super::rows;
use crate::ops::{AttentionSaved, AttentionShape};

/// Queries whose scores exist at once.
const BLOCK: usize = 256;

/// Added to the score of a key that must not be seen: finite, so that a row of them is not NaN.
const HIDDEN: f32 = -1.0e30;

/// 0 where allowed, [`HIDDEN`] elsewhere; `[rows, q_len, kv_len]`.
pub fn bias(allowed: &[bool]) -> Vec<f32> {
    allowed.iter().map(|&ok| if ok { 0.0 } else { HIDDEN }).collect()
}

/// Where one head and one block of queries lie within a batch row.
#[derive(Clone, Copy)]
struct Block {
    shape: AttentionShape,
    head: usize,
    first: usize,
    len: usize,
}

/// Every head and block of queries of a batch row.
fn blocks(shape: AttentionShape) -> impl Iterator<Item = Block> {
    (0..shape.heads).flat_map(move |head| {
        let starts = (0..shape.q_len).step_by(BLOCK);
        starts.map(move |first| Block { shape, head, first, len: BLOCK.min(shape.q_len - first) })
    })
}

impl Block {
    fn q_width(self) -> usize {
        self.shape.heads * self.shape.head_dim
    }

    fn kv_width(self) -> usize {
        self.shape.kv_heads * self.shape.head_dim
    }

    /// Where this block begins in a batch row of queries.
    fn q_start(self) -> usize {
        self.first * self.q_width() + self.head * self.shape.head_dim
    }

    /// Where the keys of this head begin in a batch row of keys.
    fn kv_start(self) -> usize {
        self.head / (self.shape.heads / self.shape.kv_heads) * self.shape.head_dim
    }

    fn queries(self, row: &[f32]) -> View<'_> {
        View::new(&row[self.q_start()..], [self.len, self.shape.head_dim], [self.q_width(), 1])
    }

    fn keys(self, row: &[f32]) -> View<'_> {
        View::new(&row[self.kv_start()..], [self.shape.kv_len, self.shape.head_dim], [self.kv_width(), 1])
    }

    fn square(self, data: &[f32]) -> View<'_> {
        View::new(data, [self.len, self.shape.kv_len], [self.shape.kv_len, 1])
    }

    /// `scale q k^T + bias` into `scores`.
    fn scores(self, scores: &mut [f32], q: &[f32], k: &[f32], bias: Option<&[f32]>) {
        let kv_len = self.shape.kv_len;
        product(scores, kv_len, Into::Replace, self.shape.scale, self.queries(q), self.keys(k).t());
        if let Some(bias) = bias {
            let bias = &bias[self.first * kv_len..][..scores.len()];
            scores.iter_mut().zip(bias).for_each(|(score, bias)| *score += bias);
        }
    }

    /// Indices of this block's queries in `[heads, q_len]`.
    fn lse(self) -> std::ops::Range<usize> {
        let start = self.head * self.shape.q_len + self.first;
        start..start + self.len
    }
}

/// The part of `x` that belongs to batch row `row`.
fn of_row(x: &[f32], rows: usize, row: usize) -> &[f32] {
    let len = x.len() / rows;
    &x[row * len..][..len]
}

/// Output `[rows * q_len, heads * n]` and log-sum-exp `[rows * heads, q_len]`.
pub fn forward(
    [q, k, v]: [&Matrix; 3],
    bias: Option<&[f32]>,
    shape: AttentionShape,
    round: impl Fn(&mut [f32]) + Sync,
) -> (Matrix, Matrix) {
    let rows = shape.rows;
    let mut out = vec![0.0; q.data().len()];
    let mut lse = vec![0.0; rows * shape.heads * shape.q_len];
    let per_row = out.par_chunks_mut(q.data().len() / rows).zip(lse.par_chunks_mut(shape.heads * shape.q_len));
    per_row.enumerate().for_each(|(row, (out, lse))| {
        let [q, k, v] = [q, k, v].map(|x| of_row(x.data(), rows, row));
        let bias = bias.map(|bias| of_row(bias, rows, row));
        let mut scores = vec![0.0; BLOCK.min(shape.q_len) * shape.kv_len];
        for block in blocks(shape) {
            let scores = &mut scores[..block.len * shape.kv_len];
            block.scores(scores, q, k, bias);
            softmax(scores, shape.kv_len, &mut lse[block.lse()]);
            round(scores);
            let out = &mut out[block.q_start()..];
            product(out, block.q_width(), Into::Replace, 1.0, block.square(scores), block.keys(v));
        }
    });
    (Matrix::new(out, q.shape()), Matrix::new(lse, [rows * shape.heads, shape.q_len]))
}

/// Softmax of each row in place, and its log-sum-exp.
fn softmax(scores: &mut [f32], width: usize, lse: &mut [f32]) {
    pulp::Arch::new().dispatch(|| {
        for (row, lse) in scores.chunks_exact_mut(width).zip(lse) {
            let max = rows::max(row);
            row.iter_mut().for_each(|s| *s = exp(*s - max));
            let total = rows::sum([row], |[p]| p);
            let inverse = 1.0 / total;
            row.iter_mut().for_each(|p| *p *= inverse);
            *lse = max + total.ln();
        }
    });
}

/// Gradients by `q`, `k`, `v`: with `p = exp(scores - lse)`, `dv = p^T dout`,
/// `ds = scale * p * (dout v^T - rowsum(dout * out))`, `dq = ds k`, `dk = ds^T q`.
pub fn backward(
    dout: &Matrix,
    saved: &AttentionSaved<Matrix>,
    bias: Option<&[f32]>,
    shape: AttentionShape,
    round: impl Fn(&mut [f32]) + Sync,
) -> [Matrix; 3] {
    let rows = shape.rows;
    let [mut dq, mut dk, mut dv] = [&saved.q, &saved.k, &saved.v].map(|x| vec![0.0; x.data().len()]);
    let (q_len, kv_len) = (dq.len() / rows, dk.len() / rows);
    let grads = dq.par_chunks_mut(q_len).zip(dk.par_chunks_mut(kv_len)).zip(dv.par_chunks_mut(kv_len));
    grads.enumerate().for_each(|(row, ((dq, dk), dv))| {
        let at = |x: &Matrix| -> usize { row * (x.data().len() / rows) };
        let [q, k, v, out, dout, lse] = [&saved.q, &saved.k, &saved.v, &saved.out, dout, &saved.lse]
            .map(|x| &x.data()[at(x)..at(x) + x.data().len() / rows]);
        let bias = bias.map(|bias| of_row(bias, rows, row));
        let size = BLOCK.min(shape.q_len) * shape.kv_len;
        let (mut p, mut ds) = (vec![0.0; size], vec![0.0; size]);
        for block in blocks(shape) {
            let (p, ds) = (&mut p[..block.len * shape.kv_len], &mut ds[..block.len * shape.kv_len]);
            block.scores(p, q, k, bias);
            product(ds, shape.kv_len, Into::Replace, 1.0, block.queries(dout), block.keys(v).t());
            score_gradients(block, p, ds, &lse[block.lse()], out, dout);
            round(p);
            let (q_width, kv_width, start) = (block.q_width(), block.kv_width(), block.kv_start());
            product(&mut dq[block.q_start()..], q_width, Into::Replace, 1.0, block.square(ds), block.keys(k));
            product(&mut dk[start..], kv_width, Into::Add, 1.0, block.square(ds).t(), block.queries(q));
            product(&mut dv[start..], kv_width, Into::Add, 1.0, block.square(p).t(), block.queries(dout));
        }
    });
    let like = |data, x: &Matrix| Matrix::new(data, x.shape());
    [like(dq, &saved.q), like(dk, &saved.k), like(dv, &saved.v)]
}

/// Turns scores into `p`, and `dout v^T` into the gradient of `q k^T`.
fn score_gradients(block: Block, p: &mut [f32], ds: &mut [f32], lse: &[f32], out: &[f32], dout: &[f32]) {
    let (width, scale) = (block.shape.kv_len, block.shape.scale);
    pulp::Arch::new().dispatch(|| {
        for (i, (p, ds)) in p.chunks_exact_mut(width).zip(ds.chunks_exact_mut(width)).enumerate() {
            let at = block.q_start() + i * block.q_width();
            let [out, dout] = [out, dout].map(|x| &x[at..at + block.shape.head_dim]);
            let delta = rows::sum([out, dout], |[o, d]| o * d);
            for (p, ds) in p.iter_mut().zip(ds) {
                *p = exp(*p - lse[i]);
                *ds = scale * *p * (*ds - delta);
            }
        }
    });
}
