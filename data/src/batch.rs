//! One micro-batch as the model takes it: tokens right padded to the longest row, pages as u8.
//! It never pads to more than its own longest row, and never normalises pages: that is the device's work.

/// The label of a position that carries no loss (PyTorch's `ignore_index`).
pub const IGNORE: i64 = -100;

/// One row in tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// Token ids, image block expanded. [seq_len]
    pub input_ids: Vec<u32>,
    /// `labels[i]` is `input_ids[i]` or [`IGNORE`]; the model shifts by one. [seq_len]
    pub labels: Vec<i64>,
    /// Position holds a token of a model turn's content or its `<end_of_turn>`, whatever the loss is on. [seq_len]
    pub answers: Vec<bool>,
}

/// One row ready to be collated.
#[derive(Debug, Clone)]
pub struct Sample {
    /// The row's id.
    pub id: String,
    /// Its tokens.
    pub example: Example,
    /// Its page: S x S x 3, u8.
    pub page: Vec<u8>,
}

/// One micro-batch, right padded to its longest row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Rows in this micro-batch.
    pub n_rows: usize,
    /// Tokens of its longest row.
    pub seq_len: usize,
    /// [n_rows, seq_len]; padding is the tokenizer's pad id.
    pub input_ids: Vec<u32>,
    /// Tokens of each row before padding. [n_rows]
    pub lengths: Vec<usize>,
    /// [n_rows, seq_len]; [`IGNORE`] where there is no loss.
    pub labels: Vec<i64>,
    /// [n_rows, seq_len]; see [`Example::answers`].
    pub answers: Vec<bool>,
    /// [n_images, S, S, 3], u8 HWC, resized.
    pub pages: Vec<u8>,
    /// Pages in this micro-batch, in the order of their image blocks.
    pub n_images: usize,
    /// Ids for messages. [n_rows]
    pub row_ids: Vec<String>,
    /// Position of the first row in the run's global order.
    pub first_position: u64,
}

impl Batch {
    /// Pads on the right with `pad_id`, [`IGNORE`] and `false`.
    #[must_use]
    pub fn collate(samples: Vec<Sample>, pad_id: u32, first_position: u64) -> Self {
        let lengths: Vec<usize> = samples.iter().map(|s| s.example.input_ids.len()).collect();
        let (n_rows, seq_len) = (samples.len(), lengths.iter().copied().max().unwrap_or(0));
        let mut batch = Self {
            n_rows,
            seq_len,
            input_ids: Vec::with_capacity(n_rows * seq_len),
            lengths,
            labels: Vec::with_capacity(n_rows * seq_len),
            answers: Vec::with_capacity(n_rows * seq_len),
            pages: Vec::with_capacity(samples.iter().map(|s| s.page.len()).sum()),
            n_images: n_rows,
            row_ids: Vec::with_capacity(n_rows),
            first_position,
        };
        for (i, Sample { id, example, page }) in samples.into_iter().enumerate() {
            let end = (i + 1) * seq_len;
            batch.input_ids.extend(example.input_ids);
            batch.input_ids.resize(end, pad_id);
            batch.labels.extend(example.labels);
            batch.labels.resize(end, IGNORE);
            batch.answers.extend(example.answers);
            batch.answers.resize(end, false);
            batch.pages.extend(page);
            batch.row_ids.push(id);
        }
        batch
    }
}

#[cfg(test)]
mod tests;
