//! Who may see whom in the decoder: causal, the soft tokens of one page both ways, the sliding window, no padding.
//! Computed on the host as booleans; engines choose how to hold them.

use crate::config::LayerKind;

/// Visibility within a batch whose rows have at most `kv_len` positions.
pub(crate) struct Visibility {
    kv_len: usize,
    /// Tokens of each row that are not padding.
    lengths: Vec<usize>,
    /// `[rows * kv_len]`: number of the page block a position belongs to within its row, 0 for text.
    blocks: Vec<u32>,
    window: usize,
}

impl Visibility {
    /// A page block is a maximal run of soft tokens (`token_type_ids` = 1 in transformers).
    pub fn new(input_ids: &[u32], lengths: &[usize], image_token: u32, window: usize) -> Self {
        let kv_len = input_ids.len() / lengths.len().max(1);
        let mut blocks = Vec::with_capacity(input_ids.len());
        for row in input_ids.chunks(kv_len.max(1)) {
            let (mut count, mut inside) = (0, false);
            for &id in row {
                let soft = id == image_token;
                count += u32::from(soft && !inside);
                inside = soft;
                blocks.push(if soft { count } else { 0 });
            }
        }
        Self { kv_len, lengths: lengths.to_vec(), blocks, window }
    }

    /// One more text token at the end of every row, none of them padded.
    pub fn push_text(&mut self) {
        let rows: Vec<u32> = self.blocks.chunks(self.kv_len).flat_map(|row| row.iter().copied().chain([0])).collect();
        self.blocks = rows;
        self.kv_len += 1;
        self.lengths.iter_mut().for_each(|length| *length += 1);
    }

    /// `[rows, q_len, kv_len]` for the last `q_len` positions. As in transformers 5 the window holds for page blocks,
    /// too: `kv > q - window and (kv <= q or same block)`. A padded query sees itself, so that no row is empty.
    pub fn allowed(&self, kind: LayerKind, q_len: usize) -> (Vec<bool>, [usize; 3]) {
        let first = self.kv_len - q_len;
        let mut allowed = Vec::with_capacity(self.lengths.len() * q_len * self.kv_len);
        for (row, &length) in self.lengths.iter().enumerate() {
            let blocks = &self.blocks[row * self.kv_len..][..self.kv_len];
            for q in first..self.kv_len {
                allowed.extend((0..self.kv_len).map(|kv| {
                    let same_block = blocks[q] != 0 && blocks[q] == blocks[kv];
                    let near = kind == LayerKind::Global || kv + self.window > q;
                    (kv < length && near && (kv <= q || same_block)) || kv == q
                }));
            }
        }
        (allowed, [self.lengths.len(), q_len, self.kv_len])
    }
}

#[cfg(test)]
mod tests;
