use proptest::prelude::*;

use super::*;

fn sample() -> impl Strategy<Value = Sample> {
    (prop::collection::vec((1_u32..500, any::<bool>()), 1..40), 0_u32..3).prop_map(|(tokens, page)| Sample {
        id: format!("row-{page}"),
        example: Example {
            input_ids: tokens.iter().map(|t| t.0).collect(),
            labels: tokens.iter().map(|t| if t.1 { i64::from(t.0) } else { IGNORE }).collect(),
            answers: tokens.iter().map(|t| t.1).collect(),
        },
        page,
    })
}

proptest! {
    #[test]
    fn a_batch_holds_its_rows_and_nothing_else(samples in prop::collection::vec(sample(), 1..6), first: u64) {
        let batch = Batch::collate(samples.clone(), vec![7; 36], first);
        prop_assert_eq!((batch.first_position, batch.pages), (first, vec![7; 36]));
        let mut at = 0;
        for (i, Sample { id, example, page }) in samples.iter().enumerate() {
            let n = batch.lengths[i];
            prop_assert_eq!((&batch.row_ids[i], batch.shown[i]), (id, *page));
            prop_assert_eq!(&batch.input_ids[at..][..n], &example.input_ids[..]);
            prop_assert_eq!(&batch.labels[at..][..n], &example.labels[..]);
            prop_assert_eq!(&batch.answers[at..][..n], &example.answers[..]);
            at += n;
        }
        prop_assert_eq!([at; 3], [batch.input_ids.len(), batch.labels.len(), batch.answers.len()]);
    }
}
