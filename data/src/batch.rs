//! One micro-batch as the model takes it: rows packed one after the other, each distinct page once, as u8.
//! It never pads, and never normalises pages: that is the device's work.

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
    /// Which of the batch's pages it shows.
    pub page: u32,
}

/// One micro-batch: its rows one after the other, t tokens in all, and the distinct pages they show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Tokens of each row. [n_rows]
    pub lengths: Vec<usize>,
    /// \[t\]
    pub input_ids: Vec<u32>,
    /// \[t\]; [`IGNORE`] where there is no loss.
    pub labels: Vec<i64>,
    /// \[t\]; see [`Example::answers`].
    pub answers: Vec<bool>,
    /// [n_pages, S, S, 3], u8 HWC, resized; no page twice.
    pub pages: Vec<u8>,
    /// The page each row shows, in the order of the image blocks. [n_rows]
    pub shown: Vec<u32>,
    /// Ids for messages. [n_rows]
    pub row_ids: Vec<String>,
    /// Position of the first row in the run's global order.
    pub first_position: u64,
}

impl Batch {
    /// Packs rows and the pages they show.
    #[must_use]
    pub fn collate(samples: Vec<Sample>, pages: Vec<u8>, first_position: u64) -> Self {
        let lengths: Vec<usize> = samples.iter().map(|s| s.example.input_ids.len()).collect();
        let (n_rows, n_tokens) = (samples.len(), lengths.iter().sum());
        let mut batch = Self {
            lengths,
            input_ids: Vec::with_capacity(n_tokens),
            labels: Vec::with_capacity(n_tokens),
            answers: Vec::with_capacity(n_tokens),
            pages,
            shown: Vec::with_capacity(n_rows),
            row_ids: Vec::with_capacity(n_rows),
            first_position,
        };
        for Sample { id, example, page } in samples {
            batch.input_ids.extend(example.input_ids);
            batch.labels.extend(example.labels);
            batch.answers.extend(example.answers);
            batch.shown.push(page);
            batch.row_ids.push(id);
        }
        batch
    }
}

#[cfg(test)]
mod tests;
