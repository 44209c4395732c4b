//! What the model is given: one micro-batch, borrowed. It never owns or changes data.

/// One micro-batch: its rows one after the other, `t` tokens in all, without padding.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// Tokens of each row.
    pub lengths: &'a [usize],
    /// `[t]`.
    pub input_ids: &'a [u32],
    /// `[t]`: the id at a position where it is to be predicted, -100 elsewhere.
    pub labels: &'a [i64],
    /// `[t]`: whether a position belongs to an answer.
    pub answers: &'a [bool],
    /// Distinct pages `u8 [n, size, size, 3]`.
    pub pages: &'a [u8],
    /// The page that each block of soft tokens shows, in the order of the blocks in the rows; every page is shown.
    pub shown: &'a [u32],
}

impl Input<'_> {
    /// Rows.
    #[must_use]
    pub fn n_rows(&self) -> usize {
        self.lengths.len()
    }

    /// The text of one row, where `row` says.
    pub(crate) fn text<'a>(&'a self, row: std::ops::Range<usize>, lengths: &'a [usize]) -> Input<'a> {
        Input { lengths, input_ids: &self.input_ids[row], labels: &[], answers: &[], pages: &[], shown: &[] }
    }

    /// Where each row lies among the tokens.
    pub fn rows(&self) -> impl Iterator<Item = std::ops::Range<usize>> {
        self.lengths.iter().scan(0, |at, &length| {
            let start = *at;
            *at += length;
            Some(start..*at)
        })
    }
}
