use super::{HubId, Split};

#[track_caller]
fn check_dataset(source: &str, expected: Option<(&str, &str, Option<&str>)>) {
    let found = HubId::dataset(source, Split::Train);
    let found = found.as_ref().map(|id| (id.name.as_str(), id.revision.as_str(), id.files.as_deref()));
    assert_eq!(found, expected, "{source}");
}

#[test]
fn a_data_set_is_named_as_the_hub_and_its_file_system_do() {
    check_dataset("PULSE-ECG/ECGInstruct", Some(("PULSE-ECG/ECGInstruct", "main", None)));
    check_dataset("PULSE-ECG/ECGBench@v1.0", Some(("PULSE-ECG/ECGBench", "v1.0", None)));
    check_dataset("hf://datasets/a/b", Some(("a/b", "main", None)));
    check_dataset("hf://datasets/a/b@refs%2Fpr%2F1/x/*.parquet", Some(("a/b", "refs/pr/1", Some("x/*.parquet"))));
}

#[test]
fn paths_are_not_taken_for_ids() {
    for path in ["rows", "/data/rows", "./a/b", "../a", "a/b/c", "a/train-*.parquet", "a/b.parquet", "a/b.json", "a/"] {
        check_dataset(path, None);
    }
    for path in ["hf://a/b", "hf://datasets/../b", "hf://datasets/a", "a/..b", "a/--"] {
        check_dataset(path, None);
    }
}

#[test]
fn what_is_displayed_names_the_same_again() {
    for source in ["hf://datasets/a/b@main/x/*.parquet", "hf://datasets/a/b@refs%2Fpr%2F1"] {
        assert_eq!(HubId::dataset(source, Split::Train).unwrap().to_string(), source);
    }
    let model = HubId::model("google/medgemma-4b-it", Some("abc")).unwrap();
    assert_eq!((model.to_string().as_str(), model.revision.as_str()), ("google/medgemma-4b-it", "abc"));
}
