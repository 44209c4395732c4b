use proptest::prelude::*;

use super::*;

fn sample() -> impl Strategy<Value = Sample> {
    (prop::collection::vec((1_u32..500, any::<bool>()), 1..40), any::<u8>()).prop_map(|(tokens, pixel)| Sample {
        id: format!("row-{pixel}"),
        example: Example {
            input_ids: tokens.iter().map(|t| t.0).collect(),
            labels: tokens.iter().map(|t| if t.1 { i64::from(t.0) } else { IGNORE }).collect(),
            answers: tokens.iter().map(|t| t.1).collect(),
        },
        page: vec![pixel; 2 * 2 * 3],
    })
}

proptest! {
    #[test]
    fn a_batch_holds_its_rows_and_nothing_else(samples in prop::collection::vec(sample(), 1..6), first: u64) {
        let batch = Batch::collate(samples.clone(), 0, first);
        prop_assert_eq!(batch.n_rows, samples.len());
        prop_assert_eq!(batch.n_images * 12, batch.pages.len());
        prop_assert_eq!(batch.first_position, first);
        prop_assert_eq!(batch.lengths.iter().max(), Some(&batch.seq_len));
        for (i, Sample { id, example, page }) in samples.iter().enumerate() {
            let (row, n) = (i * batch.seq_len..(i + 1) * batch.seq_len, batch.lengths[i]);
            prop_assert_eq!(&batch.row_ids[i], id);
            prop_assert_eq!(&batch.pages[i * 12..][..12], &page[..]);
            prop_assert_eq!(&batch.input_ids[row.clone()][..n], &example.input_ids[..]);
            prop_assert_eq!(&batch.labels[row.clone()][..n], &example.labels[..]);
            prop_assert_eq!(&batch.answers[row.clone()][..n], &example.answers[..]);
            prop_assert!(batch.input_ids[row.clone()][n..].iter().all(|&x| x == 0));
            prop_assert!(batch.labels[row.clone()][n..].iter().all(|&x| x == IGNORE));
            prop_assert!(batch.answers[row][n..].iter().all(|&x| !x));
        }
    }
}
