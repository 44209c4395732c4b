use std::fs;

use super::*;

fn evaluation(step: u64, held_out: &str) -> Evaluation {
    Evaluation {
        step,
        epoch: step as f64 / 30.0,
        loss: 1.0 / step as f64,
        mean_token_accuracy: 0.5,
        answer_token_accuracy: 0.25,
        prompt_token_accuracy: None,
        entropy: 0.1,
        correct_tokens: 5,
        supervised_tokens: 10,
        n_rows: 2,
        rows_per_second: 9.0,
        held_out: held_out.to_owned(),
        answers: vec![Answer { id: "row-1".to_owned(), answer: "Yes, \"it\" is.\n".to_owned() }],
    }
}

/// A file of evaluations after steps 5, 10 and 15.
fn written(dir: &Path) -> std::path::PathBuf {
    let path = dir.join("eval.jsonl");
    let mut evaluations = Evaluations::open(&path, 0).unwrap();
    [5, 10, 15].iter().for_each(|&step| evaluations.append(&evaluation(step, "a")).unwrap());
    path
}

/// Steps and held-out rows of a file's lines.
fn lines(path: &Path) -> Vec<(u64, String)> {
    read(path).unwrap().into_iter().map(|line| (line.step, line.held_out)).collect()
}

#[test]
fn an_evaluation_has_its_fields_in_the_documented_order() {
    let dir = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(written(dir.path())).unwrap();
    let expected = "{\"step\":5,\"epoch\":0.16666666666666666,\"loss\":0.2,\"mean_token_accuracy\":0.5,\
        \"answer_token_accuracy\":0.25,\"entropy\":0.1,\"correct_tokens\":5,\"supervised_tokens\":10,\"n_rows\":2,\
        \"rows_per_second\":9.0,\"held_out\":\"a\",\"answers\":[{\"id\":\"row-1\",\
        \"answer\":\"Yes, \\\"it\\\" is.\\n\"}]}";
    assert_eq!(text.lines().next(), Some(expected));
}

#[test]
fn a_repeated_evaluation_must_have_the_same_bits_and_answers() {
    let dir = tempfile::tempdir().unwrap();
    let path = written(dir.path());
    let mut resumed = Evaluations::open(&path, 7).unwrap();
    assert_eq!(resumed.last(), 5);
    resumed.append(&Evaluation { rows_per_second: 1.0, ..evaluation(10, "a") }).unwrap();
    let other = Evaluation { answers: Vec::new(), ..evaluation(15, "a") };
    let error = resumed.append(&other).unwrap_err();
    assert_eq!(error.exit_code(), 4);
    assert!(error.to_string().contains("step 15 had answers"), "{error}");
    drop(resumed);
    assert_eq!(read(&path).unwrap(), [5, 10, 15].map(|step| evaluation(step, "a")));
}

#[test]
fn evaluations_of_other_rows_are_not_expected_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = written(dir.path());
    let mut resumed = Evaluations::open(&path, 7).unwrap();
    resumed.expect_while(|line| line.held_out == "b").unwrap();
    resumed.append(&evaluation(8, "b")).unwrap();
    drop(resumed);
    assert_eq!(lines(&path), [(5, "a".to_owned()), (8, "b".to_owned())]);
}

#[test]
fn an_evaluation_that_was_left_out_displaces_those_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = written(dir.path());
    Evaluations::open(&path, 5).unwrap().append(&evaluation(8, "a")).unwrap();
    assert_eq!(lines(&path), [(5, "a".to_owned()), (8, "a".to_owned())]);
}

#[test]
fn an_evaluation_that_is_not_finite_is_recorded_without_a_number() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("eval.jsonl");
    let nan = Evaluation { loss: f64::NAN, entropy: f64::NAN, ..evaluation(5, "a") };
    Evaluations::open(&path, 0).unwrap().append(&nan).unwrap();
    assert!(read(&path).unwrap()[0].loss.is_nan());
    Evaluations::open(&path, 0).unwrap().append(&nan).unwrap(); // The same again.
}
