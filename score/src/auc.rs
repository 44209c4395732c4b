//! The area under a ROC curve of real-valued scores: the probability that a positive row scores above a negative one, a
//! tie counting half (Mann-Whitney). It never sees an answer.

/// Rows of one class in the order of their scores, so that every resample is one pass over them.
pub(crate) struct Ranked {
    /// Places of equal scores lie together: row, and whether its score begins a new run.
    order: Vec<(usize, bool)>,
    positive: Vec<bool>,
}

impl Ranked {
    /// NaN scores lie above all others; a caller refuses them.
    pub(crate) fn new(scores: &[f64], positive: Vec<bool>) -> Self {
        let mut rows: Vec<usize> = (0..scores.len()).collect();
        rows.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
        // -0.0 and 0.0 are equal, though not in the total order.
        let begins = |i: usize| i == 0 || scores[rows[i]] != scores[rows[i - 1]];
        Self { order: (0..rows.len()).map(|i| (rows[i], begins(i))).collect(), positive }
    }

    /// None where all rows that weigh something are of one kind.
    pub(crate) fn auc(&self, weights: &[u32]) -> Option<f64> {
        // In halves of pairs, as integers: exact.
        let (mut below, mut halves) = (0_u64, 0_u64);
        let (mut negatives, mut positives, mut all_positives) = (0_u64, 0_u64, 0_u64);
        for &(row, begins) in &self.order {
            if begins {
                halves += positives * (2 * below + negatives);
                below += negatives;
                (negatives, positives) = (0, 0);
            }
            let weight = u64::from(weights[row]);
            if self.positive[row] {
                positives += weight;
                all_positives += weight;
            } else {
                negatives += weight;
            }
        }
        halves += positives * (2 * below + negatives);
        below += negatives;
        (all_positives > 0 && below > 0).then(|| halves as f64 / (2 * all_positives * below) as f64)
    }
}

/// Area under the ROC curve of `scores`, of rows that are positive or not; none where all are of one kind.
#[must_use]
pub fn roc_auc(scores: &[f64], positive: &[bool]) -> Option<f64> {
    Ranked::new(scores, positive.to_vec()).auc(&vec![1; scores.len()])
}

#[cfg(test)]
mod tests;
