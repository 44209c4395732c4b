//! What the model is given: one micro-batch, borrowed. It never owns or changes data.

/// One micro-batch of `n_rows` rows, right padded to `seq_len`.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    pub n_rows: usize,
    pub seq_len: usize,
    /// `[n_rows * seq_len]`, padding included.
    pub input_ids: &'a [u32],
    /// Tokens of each row that are not padding.
    pub lengths: &'a [usize],
    /// `[n_rows * seq_len]`: the id at a position where it is to be predicted, -100 elsewhere.
    pub labels: &'a [i64],
    /// `[n_rows * seq_len]`: whether a position belongs to an answer.
    pub answers: &'a [bool],
    /// Pages `u8 [n, size, size, 3]`, in the order of their soft tokens in the rows.
    pub pages: &'a [u8],
}
