//! Who may see whom in the decoder: causal, the soft tokens of one page both ways, the sliding window; no row another.
//! It never builds a matrix: what a position sees is one run of its row.

use crate::config::LayerKind;

/// Visibility within rows of tokens.
pub(crate) struct Visibility {
    /// Of each row and position, the end of the page block it belongs to; of a text token, its own.
    ends: Vec<Vec<u32>>,
    window: usize,
}

impl Visibility {
    /// Of packed rows; a page block is a maximal run of soft tokens (`token_type_ids` = 1 in transformers).
    pub fn new(input_ids: &[u32], lengths: &[usize], image_token: u32, window: usize) -> Self {
        let mut rest = input_ids;
        let ends = lengths.iter().map(|&length| {
            let (row, after) = rest.split_at(length);
            rest = after;
            let mut ends: Vec<u32> = (1..=length as u32).collect();
            for at in (1..length).rev() {
                if row[at] == image_token && row[at - 1] == image_token {
                    ends[at - 1] = ends[at];
                }
            }
            ends
        });
        Self { ends: ends.collect(), window }
    }

    /// The run that each position of `row` sees. As in transformers 5 the window holds for page blocks, too:
    /// `kv > q - window and (kv <= q or same block)`.
    pub fn seen(&self, kind: LayerKind, row: usize) -> Vec<[u32; 2]> {
        let first = |q: usize| match kind {
            LayerKind::Global => 0,
            LayerKind::Sliding => (q + 1).saturating_sub(self.window),
        };
        self.ends[row].iter().enumerate().map(|(q, &end)| [first(q) as u32, end]).collect()
    }
}

#[cfg(test)]
mod tests;
