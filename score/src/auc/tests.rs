use proptest::prelude::*;

use super::*;

#[test]
fn known_curves() {
    let positive = [true, true, false, false];
    assert_eq!(roc_auc(&[4.0, 3.0, 2.0, 1.0], &positive), Some(1.0));
    assert_eq!(roc_auc(&[1.0, 2.0, 3.0, 4.0], &positive), Some(0.0));
    assert_eq!(roc_auc(&[1.0, 1.0, 1.0, 1.0], &positive), Some(0.5));
    assert_eq!(roc_auc(&[0.0, 2.0, -0.0, 1.0], &positive), Some(0.625));
    assert_eq!(roc_auc(&[1.0, 2.0], &[true, true]), None);
    assert_eq!(roc_auc(&[], &[]), None);
}

proptest! {
    /// Against the definition, pair by pair, with many ties; weights are copies of rows.
    #[test]
    fn it_is_the_share_of_pairs_in_order(rows in prop::collection::vec((0..6_i8, any::<bool>(), 0..4_u32), 0..40)) {
        let scores: Vec<f64> = rows.iter().map(|row| f64::from(row.0)).collect();
        let ranked = Ranked::new(&scores, rows.iter().map(|row| row.1).collect());
        let (mut won, mut pairs) = (0.0, 0.0);
        for a in rows.iter().filter(|row| row.1) {
            for b in rows.iter().filter(|row| !row.1) {
                let weight = f64::from(a.2 * b.2);
                pairs += weight;
                won += weight * match a.0.cmp(&b.0) {
                    std::cmp::Ordering::Greater => 1.0,
                    std::cmp::Ordering::Equal => 0.5,
                    std::cmp::Ordering::Less => 0.0,
                };
            }
        }
        let expected = (pairs > 0.0).then(|| won / pairs);
        let weights: Vec<u32> = rows.iter().map(|row| row.2).collect();
        prop_assert_eq!(ranked.auc(&weights), expected);
    }
}
