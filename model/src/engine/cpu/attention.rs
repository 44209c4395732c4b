//! Attention on the CPU over packed rows, one row a task: scores of a block of queries at a time, only against the keys
//! that the block sees, never of a whole layer. Forward keeps the log-sum-exp; backward recomputes the scores from it
//! (Dao et al., "FlashAttention", 2022, section 3.1).

use std::ops::Range;

use rayon::prelude::*;

use super::buffer::Buffer;
use super::math::exp;
use super::matrix::{Into, Matrix, product};
use super::rows;
use super::view::View;
use crate::ops::{AttentionRow, AttentionSaved, AttentionShape};
use crate::vector::vectorised;

/// Queries whose scores exist at once.
const BLOCK: usize = 64;

/// One head and one block of queries within a row, and the run of keys they see.
struct Block<'a> {
    shape: &'a AttentionShape,
    row: &'a AttentionRow,
    head: usize,
    queries: Range<usize>,
    keys: Range<usize>,
}

/// Every head and block of queries of a row.
fn blocks<'a>(shape: &'a AttentionShape, row: &'a AttentionRow) -> impl Iterator<Item = Block<'a>> {
    let n = row.seen.len();
    (0..shape.heads).flat_map(move |head| {
        (0..n).step_by(BLOCK).map(move |first| {
            let queries = first..n.min(first + BLOCK);
            Block { shape, row, head, keys: row.run(queries.clone()), queries }
        })
    })
}

/// Scores that a block of a row needs at most.
fn room(row: &AttentionRow) -> usize {
    BLOCK.min(row.seen.len()) * row.n_keys
}

impl Block<'_> {
    fn q_width(&self) -> usize {
        self.shape.heads * self.shape.head_dim
    }

    fn kv_width(&self) -> usize {
        self.shape.kv_heads * self.shape.head_dim
    }

    /// Scores of this block: queries x keys.
    fn size(&self) -> usize {
        self.queries.len() * self.keys.len()
    }

    /// Where this block begins in a row's queries.
    fn q_start(&self) -> usize {
        self.queries.start * self.q_width() + self.head * self.shape.head_dim
    }

    /// Where the keys of this block begin in a row's keys.
    fn kv_start(&self) -> usize {
        let head = self.head / (self.shape.heads / self.shape.kv_heads);
        self.keys.start * self.kv_width() + head * self.shape.head_dim
    }

    fn queries<'x>(&self, row: &'x [f32]) -> View<'x> {
        View::new(&row[self.q_start()..], [self.queries.len(), self.shape.head_dim], [self.q_width(), 1])
    }

    fn keys<'x>(&self, row: &'x [f32]) -> View<'x> {
        View::new(&row[self.kv_start()..], [self.keys.len(), self.shape.head_dim], [self.kv_width(), 1])
    }

    fn square<'x>(&self, data: &'x [f32]) -> View<'x> {
        View::new(data, [self.queries.len(), self.keys.len()], [self.keys.len(), 1])
    }

    /// `scale q k^T` into `scores`; those that must not be seen, too.
    fn scores(&self, scores: &mut [f32], q: &[f32], k: &[f32]) {
        product(scores, self.keys.len(), Into::Replace, self.shape.scale, self.queries(q), self.keys(k).t());
    }

    /// What query `i` of the block sees, as a range of its row of scores.
    fn seen(&self, i: usize) -> Range<usize> {
        let [first, end] = self.row.seen[self.queries.start + i];
        first as usize - self.keys.start..end as usize - self.keys.start
    }

    /// Where the log-sum-exp of query `i` lies in a row's `[q, heads]`.
    fn lse(&self, i: usize) -> usize {
        (self.queries.start + i) * self.shape.heads + self.head
    }
}

/// Cuts packed rows of `width` numbers a token into one slice a row, of `len` tokens each.
fn cut(mut packed: &mut [f32], width: usize, lens: impl Iterator<Item = usize>) -> Vec<&mut [f32]> {
    lens.map(|len| packed.split_off_mut(..len * width).expect("the rows are as long as the shape says")).collect()
}

/// Where each row's queries and keys lie among the tokens.
fn places(shape: &AttentionShape) -> Vec<[Range<usize>; 2]> {
    let mut at = [0, 0];
    let next = |row: &AttentionRow| {
        let start = at;
        at = [at[0] + row.seen.len(), at[1] + row.n_keys];
        [start[0]..at[0], start[1]..at[1]]
    };
    shape.rows.iter().map(next).collect()
}

fn of<'x>(x: &'x Matrix, tokens: &Range<usize>) -> &'x [f32] {
    let width = x.shape()[1];
    &x.data()[tokens.start * width..tokens.end * width]
}

/// Output `[t, heads * n]` and log-sum-exp `[t, heads]`.
pub fn forward([q, k, v]: [&Matrix; 3], shape: &AttentionShape, round: impl Fn(&mut [f32]) + Sync) -> (Matrix, Matrix) {
    let [n_queries, q_width] = q.shape();
    let mut out = Buffer::stale(n_queries * q_width);
    let mut lse = Buffer::stale(n_queries * shape.heads);
    let lens = || shape.rows.iter().map(|row| row.seen.len());
    let made = cut(&mut out, q_width, lens()).into_par_iter().zip(cut(&mut lse, shape.heads, lens()));
    made.zip(&shape.rows).zip(places(shape)).for_each(|(((out, lse), row), [queries, keys])| {
        let [q, k, v] = [of(q, &queries), of(k, &keys), of(v, &keys)];
        let mut scores = Buffer::stale(room(row));
        for block in blocks(shape, row) {
            let scores = &mut scores[..block.size()];
            block.scores(scores, q, k);
            softmax(&block, scores, lse);
            round(scores);
            product(&mut out[block.q_start()..], q_width, Into::Replace, 1.0, block.square(scores), block.keys(v));
        }
    });
    (Matrix::new(out, [n_queries, q_width]), Matrix::new(lse, [n_queries, shape.heads]))
}

/// Softmax in place over what each query sees, 0 elsewhere, and its log-sum-exp.
fn softmax(block: &Block, scores: &mut [f32], lse: &mut [f32]) {
    vectorised(
        #[inline(always)]
        || {
            for (i, row) in scores.chunks_exact_mut(block.keys.len()).enumerate() {
                let seen = block.seen(i);
                row[..seen.start].fill(0.0);
                row[seen.end..].fill(0.0);
                let row = &mut row[seen];
                let max = rows::max(row);
                row.iter_mut().for_each(|s| *s = exp(*s - max));
                let total = rows::sum([row], |[p]| p);
                let inverse = 1.0 / total;
                row.iter_mut().for_each(|p| *p *= inverse);
                lse[block.lse(i)] = max + total.ln();
            }
        },
    );
}

/// Gradients by `q`, `k`, `v`: with `p = exp(scores - lse)`, `dv = p^T dout`,
/// `ds = scale * p * (dout v^T - rowsum(dout * out))`, `dq = ds k`, `dk = ds^T q`.
pub fn backward(
    dout: &Matrix,
    saved: &AttentionSaved<Matrix>,
    shape: &AttentionShape,
    round: impl Fn(&mut [f32]) + Sync,
) -> [Matrix; 3] {
    let mut dq = Buffer::stale(saved.q.data().len());
    let [mut dk, mut dv] = [&saved.k, &saved.v].map(|x| Buffer::zeros(x.data().len()));
    let (q_width, kv_width) = (saved.q.shape()[1], saved.k.shape()[1]);
    let dq_rows = cut(&mut dq, q_width, shape.rows.iter().map(|row| row.seen.len()));
    let [dk_rows, dv_rows] = [&mut dk, &mut dv].map(|x| cut(x, kv_width, shape.rows.iter().map(|row| row.n_keys)));
    let grads = dq_rows.into_par_iter().zip(dk_rows).zip(dv_rows);
    grads.zip(&shape.rows).zip(places(shape)).for_each(|((((dq, dk), dv), row), [queries, keys])| {
        let [q, out, dout, lse] = [&saved.q, &saved.out, dout, &saved.lse].map(|x| of(x, &queries));
        let [k, v] = [&saved.k, &saved.v].map(|x| of(x, &keys));
        let (mut p, mut ds) = (Buffer::stale(room(row)), Buffer::stale(room(row)));
        for block in blocks(shape, row) {
            let (p, ds) = (&mut p[..block.size()], &mut ds[..block.size()]);
            block.scores(p, q, k);
            product(ds, block.keys.len(), Into::Replace, 1.0, block.queries(dout), block.keys(v).t());
            score_gradients(&block, p, ds, lse, out, dout);
            round(p);
            let kv_start = block.kv_start();
            product(&mut dq[block.q_start()..], q_width, Into::Replace, 1.0, block.square(ds), block.keys(k));
            product(&mut dk[kv_start..], kv_width, Into::Add, 1.0, block.square(ds).t(), block.queries(q));
            product(&mut dv[kv_start..], kv_width, Into::Add, 1.0, block.square(p).t(), block.queries(dout));
        }
    });
    let like = |data, x: &Matrix| Matrix::new(data, x.shape());
    [like(dq, &saved.q), like(dk, &saved.k), like(dv, &saved.v)]
}

/// Turns scores into `p`, and `dout v^T` into the gradient of `q k^T`; both are 0 where nothing is seen.
fn score_gradients(block: &Block, p: &mut [f32], ds: &mut [f32], lse: &[f32], out: &[f32], dout: &[f32]) {
    let (width, scale) = (block.keys.len(), block.shape.scale);
    vectorised(
        #[inline(always)]
        || {
            for (i, (p, ds)) in p.chunks_exact_mut(width).zip(ds.chunks_exact_mut(width)).enumerate() {
                let at = block.q_start() + i * block.q_width();
                let [out, dout] = [out, dout].map(|x| &x[at..at + block.shape.head_dim]);
                let delta = rows::sum([out, dout], |[o, d]| o * d);
                let (seen, lse) = (block.seen(i), lse[block.lse(i)]);
                for x in [&mut *p, &mut *ds] {
                    x[..seen.start].fill(0.0);
                    x[seen.end..].fill(0.0);
                }
                for (p, ds) in p[seen.clone()].iter_mut().zip(&mut ds[seen]) {
                    *p = exp(*p - lse);
                    *ds = scale * *p * (*ds - delta);
                }
            }
        },
    );
}
