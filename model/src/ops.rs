//! What an engine must offer: some three dozen operations on matrices, each backward beside its forward.
//! The model is written over this trait once; it never names a backend, and an engine never names a layer.

use std::fmt::Debug;
use std::ops::Range;

use rayon::prelude::*;

use crate::sums::{StepSums, Sums};

/// Where in a run a forward happens. Dropout masks are a pure function of it, so that a recomputed or resumed
/// forward gives the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// No dropout.
    Eval,
    /// Training: `micro_batch` counts within the optimizer step, over all ranks.
    Train { seed: u64, step: u64, micro_batch: u64 },
}

impl Place {
    /// Key of the dropout mask of one adapted module; `None` where nothing is dropped.
    #[must_use]
    pub fn mask_key(self, module: usize) -> Option<u64> {
        match self {
            Place::Eval => None,
            Place::Train { seed, step, micro_batch } => {
                Some([step, micro_batch, module as u64].iter().fold(mix(seed), |key, &n| mix(key ^ n)))
            }
        }
    }
}

/// Splitmix64's step and finaliser (Steele et al., "Fast splittable pseudorandom number generators", 2014).
pub(crate) fn mix(x: u64) -> u64 {
    let mut z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Dropout of one matrix: element `n` (row-major) is kept if its hash is at least `p * 2^32`.
#[derive(Clone, Copy, Debug)]
pub struct Dropout {
    pub(crate) key: [u32; 2],
    pub(crate) threshold: u32,
    /// What kept elements are multiplied by: `1 / (1 - p)`.
    pub scale: f32,
}

impl Dropout {
    /// The mask of `key` with drop probability `p` in `[0, 1)`.
    #[must_use]
    pub fn new(key: u64, p: f64) -> Self {
        Self {
            key: [key as u32, (key >> 32) as u32],
            threshold: (p * 4_294_967_296.0) as u32,
            scale: (1.0 / (1.0 - p)) as f32,
        }
    }

    /// `1 / (1 - p)` where element `n` is kept, 0 where it is dropped.
    #[inline]
    #[must_use]
    pub fn factor(self, n: u32) -> f32 {
        let hash = scramble(scramble(n ^ self.key[0]) ^ self.key[1]);
        if hash >= self.threshold { self.scale } else { 0.0 }
    }
}

/// Random weights of one matrix: element `n` (row-major) is a hash of it, spread over `[-bound, bound)`. Each is a number of
/// bf16, as MedGemma's are, so that an engine may hold it as one.
#[derive(Clone, Copy, Debug)]
pub struct Uniform {
    pub(crate) key: [u32; 2],
    pub(crate) bound: f32,
}

impl Uniform {
    /// The numbers of `key`, for a bound of about `1 / sqrt(columns)`: the power of two beside it.
    #[must_use]
    pub fn new(key: u64, columns: usize) -> Self {
        let bound = 0.5_f32.powi(columns.max(1).ilog2().div_ceil(2) as i32);
        Self { key: [key as u32, (key >> 32) as u32], bound }
    }

    /// Element `n`, of which 8 bits of its hash remain.
    #[inline]
    #[must_use]
    pub fn number(self, n: u32) -> f32 {
        let hash = scramble(scramble(n ^ self.key[0]) ^ self.key[1]);
        ((hash >> 24) as f32 / 128.0 - 1.0) * self.bound
    }

    /// All of a matrix.
    #[must_use]
    pub fn numbers(self, [rows, columns]: [usize; 2]) -> Vec<f32> {
        (0..(rows * columns) as u32).into_par_iter().map(|n| self.number(n)).collect()
    }
}

/// 32-bit integer hash without visible bias (C. Wellons, "lowbias32").
#[inline]
fn scramble(mut x: u32) -> u32 {
    x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
    x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}

/// Shape of an attention over rows that lie packed, one after the other: queries `[t, heads * head_dim]`, keys and values
/// `[t', kv_heads * head_dim]`; `heads` is a multiple of `kv_heads` (grouped queries).
#[derive(Clone, Debug)]
pub struct AttentionShape {
    pub rows: Vec<AttentionRow>,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Factor of `q k^T` before the softmax.
    pub scale: f32,
}

/// One row of a packed attention. What a query may see is one run of the keys of its own row: causal, window and the page
/// both ways leave no holes, so a mask is two numbers a query and never a matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttentionRow {
    /// Keys of the row.
    pub n_keys: usize,
    /// Of each query, the first key it sees and the one after the last, counted within the row.
    pub seen: Vec<[u32; 2]>,
}

impl AttentionRow {
    /// Every query sees every key.
    #[must_use]
    pub fn full(n_queries: usize, n_keys: usize) -> Self {
        Self { n_keys, seen: vec![[0, n_keys as u32]; n_queries] }
    }

    /// The run that all of `queries` together see.
    #[must_use]
    pub fn run(&self, queries: std::ops::Range<usize>) -> std::ops::Range<usize> {
        let seen = &self.seen[queries];
        let first = seen.iter().map(|run| run[0]).min().unwrap_or(0);
        first as usize..seen.iter().map(|run| run[1]).max().unwrap_or(first) as usize
    }
}

/// Cross-entropy of some rows of logits `[n, v]` against their targets.
pub struct CrossEntropy<T> {
    /// `-log softmax(logits)[target]` of each row, in nats.
    pub loss: Vec<f32>,
    /// Entropy of softmax(logits) of each row, in nats.
    pub entropy: Vec<f32>,
    /// The most likely token of each row.
    pub predicted: Vec<u32>,
    /// Gradient of the summed loss times `scale`: `(softmax - onehot) * scale`, `[n, v]`.
    pub dlogits: T,
}

/// The operations of an engine. A `Tensor` is a matrix of activations or weights; weights are frozen, so no operation
/// here computes the gradient of one except through [`Ops::matmul_tn`], which LoRA uses.
pub trait Ops {
    /// A matrix; cheap to clone (a handle).
    type Tensor: Clone + Debug + Send + Sync;
    /// What an engine makes of an [`AttentionShape`] once, for all layers that share it.
    type AttentionPlan;
    /// What an engine keeps of a step's gradients on its device; `()` where they are added up on the host.
    type DeviceSums: Default;

    /// A matrix from row-major numbers.
    fn upload(&self, data: Vec<f32>, shape: [usize; 2]) -> Self::Tensor;
    /// A frozen weight: rounded to the engine's precision once, here.
    fn upload_weight(&self, data: Vec<f32>, shape: [usize; 2]) -> Self::Tensor;
    /// As [`Ops::upload_weight`], of a matrix that is a factor of products or read row by row, and nothing else: it may lie
    /// in less memory.
    fn upload_factor(&self, data: Vec<f32>, shape: [usize; 2]) -> Self::Tensor {
        self.upload_weight(data, shape)
    }
    /// A factor of random numbers, for measurements.
    fn random_factor(&self, numbers: Uniform, shape: [usize; 2]) -> Self::Tensor {
        self.upload_factor(numbers.numbers(shape), shape)
    }
    /// The numbers of a matrix, row-major.
    fn download(&self, x: &Self::Tensor) -> Vec<f32>;
    /// What waits until everything so far is computed; none where operations return when they are done.
    fn waiter(&self) -> Option<Box<dyn Fn()>> {
        None
    }
    /// Bytes of the device's own memory that the program holds, in use or not.
    fn device_memory(&self) -> Option<u64> {
        None
    }
    /// A number as the engine's precision holds it.
    fn rounded(&self, x: f32) -> f32;
    /// `[rows, columns]`.
    fn shape(&self, x: &Self::Tensor) -> [usize; 2];

    /// `a + b`; `b` may be one row, or a block of rows that repeats.
    fn add(&self, a: Self::Tensor, b: &Self::Tensor) -> Self::Tensor;
    /// `a * factor`.
    fn scale(&self, a: Self::Tensor, factor: f32) -> Self::Tensor;

    /// `a b`, for `a [m, k]`, `b [k, n]`.
    fn matmul(&self, a: &Self::Tensor, b: &Self::Tensor) -> Self::Tensor;
    /// `a b^T`, for `a [m, k]`, `b [n, k]`: a linear layer's product with a weight of torch's layout.
    fn matmul_nt(&self, a: &Self::Tensor, b: &Self::Tensor) -> Self::Tensor;
    /// `x w^T + bias + factor * h b^T` for `Some((h, b, factor))`: a linear layer, and what its adapter adds; `bias` is one
    /// row.
    fn linear(
        &self,
        x: &Self::Tensor,
        w: &Self::Tensor,
        bias: Option<&Self::Tensor>,
        adapter: Option<(&Self::Tensor, &Self::Tensor, f32)>,
    ) -> Self::Tensor {
        let mut y = self.matmul_nt(x, w);
        if let Some(bias) = bias {
            y = self.add(y, bias);
        }
        match adapter {
            None => y,
            Some((h, b, factor)) => self.add(y, &self.scale(self.matmul_nt(h, b), factor)),
        }
    }
    /// Sum of the products `a b` of all pairs, at least one: the gradient of an input that linears and adapters share.
    fn sum_of_matmuls(&self, pairs: &[(&Self::Tensor, &Self::Tensor)]) -> Self::Tensor {
        let (first, rest) = pairs.split_first().expect("at least one product");
        rest.iter().fold(self.matmul(first.0, first.1), |sum, (a, b)| self.add(sum, &self.matmul(a, b)))
    }
    /// `a^T b`, for `a [k, m]`, `b [k, n]`: the gradient of a weight.
    fn matmul_tn(&self, a: &Self::Tensor, b: &Self::Tensor) -> Self::Tensor;

    /// `x` with dropped elements at 0 and kept ones scaled. It is its own backward.
    fn dropout(&self, x: &Self::Tensor, mask: Dropout) -> Self::Tensor;

    /// Root-mean-square norm of each run of `gain` columns: `x / sqrt(mean(x^2) + eps) * gain`; `gain [1, n]` is `1 + w`
    /// of Gemma3RMSNorm. Computed in f32.
    fn rms_norm(&self, x: &Self::Tensor, gain: &Self::Tensor, eps: f32) -> Self::Tensor;
    /// Gradient of [`Ops::rms_norm`] by `x`.
    fn rms_norm_backward(&self, dy: &Self::Tensor, x: &Self::Tensor, gain: &Self::Tensor, eps: f32) -> Self::Tensor;

    /// Layer norm of each row: `(x - mean) / sqrt(var + eps) * w + b` (torch.nn.LayerNorm). Computed in f32.
    fn layer_norm(&self, x: &Self::Tensor, w: &Self::Tensor, b: &Self::Tensor, eps: f32) -> Self::Tensor;
    /// Gradient of [`Ops::layer_norm`] by `x`.
    fn layer_norm_backward(&self, dy: &Self::Tensor, x: &Self::Tensor, w: &Self::Tensor, eps: f32) -> Self::Tensor;

    /// GELU in its tanh form (gelu_pytorch_tanh).
    fn gelu(&self, x: &Self::Tensor) -> Self::Tensor;
    /// Gradient of [`Ops::gelu`].
    fn gelu_backward(&self, dy: &Self::Tensor, x: &Self::Tensor) -> Self::Tensor;
    /// `gelu(gate) * up`.
    fn gelu_mul(&self, gate: &Self::Tensor, up: &Self::Tensor) -> Self::Tensor;
    /// Gradients of [`Ops::gelu_mul`] by `gate` and `up`.
    fn gelu_mul_backward(
        &self,
        dh: &Self::Tensor,
        gate: &Self::Tensor,
        up: &Self::Tensor,
    ) -> (Self::Tensor, Self::Tensor);

    /// Rotary embedding of each head of `x [t, heads * n]`, half-split: `(x1 cos - x2 sin, x2 cos + x1 sin)`, with
    /// `cos`, `sin` `[t, n / 2]`. Its backward is the rotation by `-sin`.
    fn rope(&self, x: &Self::Tensor, cos: &Self::Tensor, sin: &Self::Tensor) -> Self::Tensor;

    /// Prepares attentions of a shape.
    fn plan_attention(&self, shape: AttentionShape) -> Self::AttentionPlan;
    /// `softmax(scale q k^T) v` over the keys that each query sees, and the log-sum-exp of its scores, `[t, heads]`.
    fn attention(
        &self,
        q: &Self::Tensor,
        k: &Self::Tensor,
        v: &Self::Tensor,
        plan: &Self::AttentionPlan,
    ) -> (Self::Tensor, Self::Tensor);
    /// Gradients of [`Ops::attention`] by `q`, `k`, `v`.
    fn attention_backward(
        &self,
        dout: &Self::Tensor,
        saved: &AttentionSaved<Self::Tensor>,
        plan: &Self::AttentionPlan,
    ) -> [Self::Tensor; 3];
    /// Matrices of equal width, one below the other.
    fn stack_rows(&self, parts: &[&Self::Tensor]) -> Self::Tensor;
    /// Matrices of equally many rows, side by side.
    fn stack_columns(&self, parts: &[&Self::Tensor]) -> Self::Tensor;
    /// Some neighbouring columns of `x`.
    fn columns(&self, x: &Self::Tensor, columns: Range<usize>) -> Self::Tensor;
    /// Rows `index` of `x`.
    fn gather_rows(&self, x: &Self::Tensor, index: &[u32]) -> Self::Tensor;
    /// `x` with its rows `index` (each at most once) replaced by the rows of `values`.
    fn replace_rows(&self, x: Self::Tensor, index: &[u32], values: &Self::Tensor) -> Self::Tensor;

    /// Patches of pages `u8 [n, size, size, 3]` as rows `[n * (size / patch)^2, 3 * patch * patch]`, each value
    /// `(v / 255 - 0.5) / 0.5`, columns in the order of a convolution's filter (channel, y, x).
    fn patches(&self, pages: &[u8], size: usize, patch: usize) -> Self::Tensor;
    /// Mean of each `k x k` window of a `grid x grid` image of rows: `[n * grid^2, d] -> [n * (grid / k)^2, d]`.
    fn avg_pool(&self, x: &Self::Tensor, grid: usize, k: usize) -> Self::Tensor;
    /// Gradient of [`Ops::avg_pool`].
    fn avg_pool_backward(&self, dy: &Self::Tensor, grid: usize, k: usize) -> Self::Tensor;

    /// Loss, entropy, prediction and gradient of rows of logits in f32.
    fn cross_entropy(&self, logits: Self::Tensor, targets: &[u32], scale: f32) -> CrossEntropy<Self::Tensor>;

    /// Adds a gradient to its places among the step's, as [`StepSums::add_gradients`] does, bit for bit.
    fn add_gradient(&self, sums: &mut Sums<Self::DeviceSums>, ranges: &[Range<usize>], gradient: &Self::Tensor);
    /// Counts what was not finite so far, as [`crate::Stat::NotFinite`] on the host.
    fn count_not_finite(&self, sums: &mut Sums<Self::DeviceSums>);
    /// The sums with everything that was added to them.
    fn collect(&self, sums: Sums<Self::DeviceSums>) -> StepSums;
}

/// What attention keeps for its backward: its inputs, output and log-sum-exp, never the scores.
#[derive(Clone, Debug)]
pub struct AttentionSaved<T> {
    /// Queries as multiplied, `[t, heads * head_dim]`.
    pub q: T,
    /// Keys as multiplied, `[t, kv_heads * head_dim]`.
    pub k: T,
    /// Values, `[t, kv_heads * head_dim]`.
    pub v: T,
    /// Output, `[t, heads * head_dim]`.
    pub out: T,
    /// Log-sum-exp of the scores, `[t, heads]`.
    pub lse: T,
}
