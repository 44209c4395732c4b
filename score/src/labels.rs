//! Metrics of answers that are sets of labels, one row a pair of bit sets: what is true, and what was said.
//! Rows have weights, so that a resample of the rows is the same computation.

/// One row: labels as bits, in the order of the classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Row {
    pub gold: u32,
    pub said: u32,
}

/// How often a class was true, said, and both; weighted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub support: u64,
    pub said: u64,
    pub both: u64,
}

/// What is counted of weighted rows.
pub(crate) struct Counts {
    pub n_rows: u64,
    pub classes: Vec<Count>,
}

impl Counts {
    pub(crate) fn new(rows: &[Row], weights: &[u32], n_classes: usize) -> Self {
        let mut classes = vec![Count::default(); n_classes];
        for (row, &weight) in rows.iter().zip(weights) {
            let weight = u64::from(weight);
            for (i, class) in classes.iter_mut().enumerate() {
                let (gold, said) = (u64::from(row.gold >> i & 1), u64::from(row.said >> i & 1));
                class.support += weight * gold;
                class.said += weight * said;
                class.both += weight * gold * said;
            }
        }
        Self { n_rows: weights.iter().map(|&w| u64::from(w)).sum(), classes }
    }

    /// Mean F1 of the classes that are there.
    pub(crate) fn macro_f1(&self) -> Option<f64> {
        mean(self.classes.iter().filter_map(Count::f1))
    }

    /// Mean, over the classes that some rows have and some have not, of the area under the two lines that a yes or no
    /// makes of a ROC curve. That is the mean of sensitivity and specificity: no area of a real curve.
    pub(crate) fn macro_auc_of_binary(&self) -> Option<f64> {
        mean(self.classes.iter().filter_map(|class| class.auc_of_binary(self.n_rows)))
    }

    /// Share of wrong bits.
    pub(crate) fn hamming(&self) -> Option<f64> {
        let wrong: u64 = self.classes.iter().map(|c| c.support + c.said - 2 * c.both).sum();
        let all = self.n_rows * self.classes.len() as u64;
        (all > 0).then(|| wrong as f64 / all as f64)
    }
}

impl Count {
    pub(crate) fn precision(&self) -> Option<f64> {
        (self.said > 0).then(|| self.both as f64 / self.said as f64)
    }

    pub(crate) fn recall(&self) -> Option<f64> {
        (self.support > 0).then(|| self.both as f64 / self.support as f64)
    }

    /// `2 TP / (true + said)`; none for a class that is neither true nor said anywhere.
    pub(crate) fn f1(&self) -> Option<f64> {
        let all = self.support + self.said;
        (all > 0).then(|| 2.0 * self.both as f64 / all as f64)
    }

    pub(crate) fn auc_of_binary(&self, n_rows: u64) -> Option<f64> {
        let negatives = n_rows - self.support;
        if self.support == 0 || negatives == 0 {
            return None;
        }
        let tpr = self.both as f64 / self.support as f64;
        let fpr = (self.said - self.both) as f64 / negatives as f64;
        Some(fpr * tpr / 2.0 + (1.0 - fpr) * (1.0 + tpr) / 2.0)
    }
}

/// The mean as NumPy adds it up: from eight numbers on in eight sums, which then are added in pairs.
pub(crate) fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let values: Vec<f64> = values.collect();
    let (eights, rest) = values.split_at(values.len() / 8 * 8);
    let mut sums = [0.0; 8];
    for (i, value) in eights.iter().enumerate() {
        sums[i % 8] += value;
    }
    let [a, b, c, d, e, f, g, h] = sums;
    let sum = ((a + b) + (c + d)) + ((e + f) + (g + h));
    (!values.is_empty()).then(|| rest.iter().fold(sum, |sum, value| sum + value) / values.len() as f64)
}
