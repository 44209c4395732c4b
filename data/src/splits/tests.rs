use proptest::prelude::*;

use super::*;

#[track_caller]
fn check(id: &str, path: &str, patient: Option<&str>, record: Option<&str>) {
    let keys = RowKeys::new(id, Some(path).filter(|p| !p.is_empty()), None);
    assert_eq!((keys.patient.as_deref(), keys.record.as_deref()), (patient, record), "{id} {path}");
}

#[test]
fn patients_and_records_by_the_conventions_of_the_sources() {
    let (patient, record) = (Some("mimic/p11273115"), Some("mimic/44111511"));
    check("mimic-44111511", "mimic/p1127/p11273115/s44111511/44111511-0.png", patient, record);
    check("x", "mimic_v4/p1127/p11273115/s44111511/44111511-3.png", patient, record);
    check("mimic-44111511", "", None, record);
    check("x", "ptb-xl/records500/07000/07190_hr-0.png", None, Some("ptb-xl/7190"));
    check("x", "ptb-xl/records100/07000/07190_lr-1.png", None, Some("ptb-xl/7190"));
    check("ptb-xl-7190", "", None, Some("ptb-xl/7190"));
    check("x", "code15_v4/1234/1234567-0.png", None, Some("code15/1234567"));
    check("code15-1234567-2", "", None, Some("code15/1234567"));
    check("mini-train-E07507-101", "mini/E07507/E07507-101.png", None, Some("mini/E07507"));
    check("x", "csn_aug_all_layout_papersize/JS20005-68.jpg", None, Some("csn_aug_all_layout_papersize/JS20005"));
    check("row 7", "", None, None);
    check("x", "///", None, None);
    check("x", "p.png", None, Some("/p"));
}

fn row(id: usize, patient: Option<u8>, page: Option<u8>) -> RowKeys {
    let key = patient.map(|p| format!("m/{p}"));
    RowKeys { id: id.to_string(), patient: key.clone(), record: key, page: page.map(|p| [p; 16]) }
}

#[test]
fn what_two_splits_share_is_counted_and_named() {
    let train = [row(0, Some(1), Some(1)), row(1, Some(1), Some(2)), row(2, Some(2), None), row(3, None, Some(9))];
    let eval = [row(10, Some(3), Some(2)), row(11, Some(1), None), row(12, Some(1), None)];
    let leaks = Leaks::between(&train, &eval);
    let examples =
        |pairs: &[(&str, &str)]| pairs.iter().map(|(t, e)| (t.to_string(), e.to_string())).collect::<Vec<_>>();
    let patients = Shared { n_keys: 1, n_train_rows: 2, n_eval_rows: 2, examples: examples(&[("0", "11")]) };
    assert_eq!((&leaks.patients, leaks.without_patient), (&patients, 1));
    assert_eq!(leaks.pages, Shared { n_keys: 1, n_train_rows: 1, n_eval_rows: 1, examples: examples(&[("1", "10")]) });
    assert!(!leaks.is_empty() && Leaks::between(&train, &[row(10, Some(4), Some(7))]).is_empty());
}

proptest! {
    /// The counts are those of comparing every row with every other.
    #[test]
    fn counts_are_those_of_all_pairs(
        train in prop::collection::vec(prop::option::of(0..6_u8), 0..20),
        eval in prop::collection::vec(prop::option::of(0..6_u8), 0..20),
    ) {
        let rows = |keys: &[Option<u8>]| keys.iter().enumerate().map(|(i, k)| row(i, *k, None)).collect::<Vec<_>>();
        let shared = Leaks::between(&rows(&train), &rows(&eval)).patients;
        let hits = |of: &[Option<u8>], other: &[Option<u8>]| of.iter().flatten().filter(|k| other.contains(&Some(**k))).count();
        let keys = (0..6).filter(|k| train.contains(&Some(*k)) && eval.contains(&Some(*k))).count();
        prop_assert_eq!((shared.n_keys, shared.n_train_rows, shared.n_eval_rows), (keys, hits(&train, &eval), hits(&eval, &train)));
        prop_assert_eq!(shared.examples.len(), keys);
    }
}

/// Splits of a real data set share no recording; one that is cut by rows instead does.
#[test]
fn the_real_splits_are_clean_and_a_cut_by_rows_is_not() {
    let (Some(train), Some(test)) = (crate::fixtures::mini("train"), crate::fixtures::mini("test")) else { return };
    let keys = |folder: std::path::PathBuf| {
        let sources = crate::Sources {
            files: vec![folder],
            image_folder: None,
            include: String::new(),
            keep_image_marker: false,
        };
        Dataset::open(&sources).unwrap().row_keys().unwrap()
    };
    let (train, test) = (keys(train), keys(test));
    assert!(Leaks::between(&train, &test).is_empty());
    let (head, tail) = train.split_at(train.len() / 2);
    assert!(Leaks::between(head, tail).records.n_keys > 5);
}
