use std::num::NonZeroUsize;

use super::*;

fn scores(after: f64, best_constant: f64, blank_page: f64, wrong_page: f64) -> Scores {
    Scores { question: Question::Rate, before: 0.0, after, best_constant, blank_page, wrong_page }
}

#[test]
fn each_control_can_refuse_a_question() {
    assert!(scores(0.96, 0.37, 0.40, 0.33).pass());
    assert!(!scores(0.56, 0.37, 0.36, 0.33).pass());
    assert!(!scores(0.60, 0.37, 0.45, 0.33).pass());
    assert!(!scores(0.60, 0.37, 0.40, 0.45).pass());
}

fn write(file: &Path, answers: &[(String, String)]) {
    let line = |(id, answer): &(String, String)| {
        let (id, answer) = (id.clone(), answer.clone());
        serde_json::to_string(&Answer { id, question: String::new(), answer, ended: true, expected: String::new() })
            .unwrap()
            + "\n"
    };
    storage::publish_file(file, answers.iter().map(line).collect::<String>().as_bytes()).unwrap();
}

#[test]
fn the_table_shows_what_the_files_say() {
    let dir = tempfile::tempdir().unwrap();
    let spec = DemoSpec { n_test: 10, ..DemoSpec::small(3, NonZeroUsize::MIN) };
    let rows = synth::held_out(&spec);
    let [right, wrong] = ["right", "wrong"].map(|name| dir.path().join(name));
    write(&right, &rows.iter().rev().map(|row| (row.id.clone(), row.answer.to_owned())).collect::<Vec<_>>());
    write(&wrong, &rows.iter().map(|row| (row.id.clone(), format!("{} Or not.", row.answer))).collect::<Vec<_>>());

    let table = Table::new(&spec, [&wrong, &right, &wrong, &wrong]).unwrap();
    assert_eq!(table.failed(), Vec::<&str>::new(), "{table}");
    let shown = table.to_string();
    assert!(
        shown.lines().any(|line| line.starts_with("rate ") && line.contains("100.0") && line.ends_with("pass")),
        "{shown}"
    );
    assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");

    let table = Table::new(&spec, [&wrong, &right, &wrong, &right]).unwrap();
    assert_eq!(table.failed(), ["rate", "af", "axis"], "a page that does not matter was not read");
}

#[test]
fn a_missing_answer_is_an_error_not_a_zero() {
    let dir = tempfile::tempdir().unwrap();
    let spec = DemoSpec { n_test: 2, ..DemoSpec::small(3, NonZeroUsize::MIN) };
    let file = dir.path().join("answers");
    write(&file, &[("somebody else".to_owned(), String::new())]);
    let error = Table::new(&spec, [&file, &file, &file, &file]).unwrap_err();
    assert!(error.to_string().contains(&synth::held_out(&spec)[0].id), "{error}");
}
