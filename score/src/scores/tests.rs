use serde_json::Value;

use super::*;

const FEW: Bootstrap = Bootstrap { resamples: 20, seed: 7 };

/// A question of ECG-QA with these options.
fn listing(options: &str) -> String {
    format!("Which of these? Options: {options}")
}

#[track_caller]
fn check(task: Task, answer: &str, parity: &[&str], strict: &[&str]) {
    check_listed(task, "", answer, parity, strict);
}

#[track_caller]
fn check_listed(task: Task, question: &str, answer: &str, parity: &[&str], strict: &[&str]) {
    let row = Answered { question, answer, gold: "A" };
    for (scoring, expected) in [(Scoring::Parity, parity), (Scoring::Strict, strict)] {
        let mut said = read(task, scoring, &row).unwrap().said;
        said.sort_unstable();
        assert_eq!(said, expected, "{task}, {scoring:?}: {answer}");
    }
}

/// Every answer is read as the reference reads it, and every number is scikit-learn's to the last digit.
#[test]
fn parity_is_the_published_scorer_to_the_last_digit() {
    let cases: Vec<Value> = include_str!("../../../tests/fixtures/eval_parity/cases.jsonl")
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let expected: Value =
        serde_json::from_str(include_str!("../../../tests/fixtures/eval_parity/expected.json")).unwrap();
    let words = |value: &Value| match value {
        Value::Array(words) => words.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "),
        word => word.as_str().unwrap_or_default().to_owned(),
    };
    let names = [
        ("macro_f1", "macro_f1"),
        ("macro_auc_of_binary_predictions", "macro_auc"),
        ("hamming_loss", "hamming"),
        ("accuracy", "accuracy_unreadable_is_wrong"),
        ("exact_set_accuracy", "exact_set_accuracy"),
    ];
    let mut n_numbers = 0;
    for task in ["ptb-test", "cpsc-test", "code15-test", "csn-test-no-cot", "ecgqa-test"] {
        let of_task = cases.iter().filter(|case| case["task"] == task);
        let rows: Vec<[String; 4]> = of_task
            .map(|case| {
                let [answer, gold, read_as] = ["answer", "gold", "read_as"].map(|key| words(&case[key]));
                [listing(&words(&case["options"])), answer, gold, read_as]
            })
            .collect();
        let task: Task = task.parse().unwrap();
        let answered: Vec<Answered> =
            rows.iter().map(|[question, answer, gold, _]| Answered { question, answer, gold }).collect();
        for (row, [.., read_as]) in answered.iter().zip(&rows) {
            let mut said = read(task, Scoring::Parity, row).unwrap().said;
            if task != Task::EcgqaTest {
                said.sort_unstable();
            }
            assert_eq!(said.join(", "), *read_as, "{task}: {}", row.answer);
        }
        let scores = score(task, Scoring::Parity, &answered, FEW).unwrap();
        let expected = &expected[task.name()];
        for (ours, theirs) in names {
            if let (Some(metric), Some(number)) = (scores.metric(ours), expected[theirs].as_f64()) {
                assert_eq!(metric.value, Some(number), "{task}: {ours}");
                n_numbers += 1;
            }
        }
        if let Some(classes) = expected["classes"].as_array() {
            assert_eq!(scores.classes.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), *classes);
        }
        if let Some(unreadable) = expected["unreadable"].as_u64() {
            assert_eq!(scores.unreadable as u64, unreadable);
        }
    }
    assert_eq!(n_numbers, 11, "every expected number was compared");
}

#[test]
fn abnormal_is_not_norm() {
    check(Task::PtbTest, "The ECG is ABNORMAL: MI", &["MI", "NORM"], &["MI"]);
    check(Task::Code15Test, "ABNORMAL", &["ABNORMAL"], &["ABNORMAL"]);
}

#[test]
fn a_label_is_a_word_and_not_a_part_of_one() {
    check(Task::Code15Test, "RBBB, no STEMI", &["RBBB", "ST"], &["RBBB"]);
    check(Task::CpscTest, "non-AF rhythm, I-AVB", &["AF", "I-AVB"], &["I-AVB"]);
    check(Task::PtbTest, "MI/CD", &["CD", "MI"], &["CD", "MI"]);
    check(Task::Code15Test, "1dAVb.", &["1dAVb"], &["1dAVb"]);
}

#[test]
fn labels_that_reasoning_excludes_are_not_the_answer() {
    check(Task::PtbTest, "No sign of MI or HYP. Answer: NORM", &["HYP", "MI", "NORM"], &["NORM"]);
    check(Task::Code15Test, "Not AF. Answer: SB", &["SB"], &["SB"]);
}

#[test]
fn the_f_of_af_is_no_option() {
    check(Task::CsnTest, "The rhythm is AF. Answer: B", &["F"], &["B"]);
    check(Task::CsnTest, "Leads aVF. and V1 differ. (C)", &["F"], &["C"]);
}

#[test]
fn the_first_letter_of_the_alphabet_does_not_win() {
    check(Task::G12Test, "B. sinus rhythm, rather than A. fibrillation", &["A"], &[]);
    check(Task::G12Test, "Not A. fibrillation. The correct option is D", &["A"], &["D"]);
    check(Task::G12Test, "Answer: B, because of a DEFLECTION", &["B"], &["B"]);
    check(Task::G12Test, "Answer: sinus BRADYCARDIA", &["A"], &[]);
}

#[test]
fn an_article_is_no_option() {
    check(Task::CsnTest, "Answer: A normal ECG", &["A"], &[]);
    check(Task::CsnTest, "Answer: A", &["A"], &["A"]);
    check(Task::CsnTest, "The correct option is A because of the rate", &["A"], &["A"]);
}

#[test]
fn letters_are_read_as_people_write_them() {
    for answer in ["C", "C.", "(C)", "C. sinus rhythm", "**C**", "answer: c) or rather Answer: C)", "The answer is C."]
    {
        let row = Answered { question: "", answer, gold: "C. sinus rhythm" };
        let said = strict::letter(&['A', 'B', 'C', 'D'], row.answer);
        assert_eq!(said, if answer == "**C**" { None } else { Some('C') }, "{answer}");
    }
    check(Task::CsnTest, "option C fits", &[], &["C"]);
    check(Task::CsnTest, "Answer: A and B", &["A"], &[]);
    check(Task::MmmuEcg, "E.", &["E"], &[]);
}

#[test]
fn an_answer_without_a_letter_is_wrong_and_never_drawn() {
    let rows: Vec<Answered> = (0..8).map(|_| Answered { question: "", answer: "sinus rhythm", gold: "A. x" }).collect();
    let scores = score(Task::CsnTest, Scoring::Parity, &rows, FEW).unwrap();
    assert_eq!((scores.unreadable, scores.metric("accuracy").unwrap().value), (8, Some(0.0)));
    assert_eq!(scores.metric("accuracy_if_unreadable_were_guessed").unwrap().value, Some(0.125));
    // The order of the rows changes nothing.
    let mixed = [Answered { question: "", answer: "A", gold: "A" }, rows[0]];
    let reversed = [mixed[1], mixed[0]];
    let value = |rows: &[Answered]| score(Task::CsnTest, Scoring::Parity, rows, FEW).unwrap().metrics[0].value;
    assert_eq!(value(&mixed), value(&reversed));
}

#[test]
fn a_shorter_option_is_not_in_a_longer_one() {
    let question =
        listing("lead I, lead II, lead III, none. Only answer based on the given Options without any explanation.");
    check_listed(Task::EcgqaTest, &question, "lead III", &[], &["lead III"]);
    let question = listing("lead i, lead ii, none");
    check_listed(Task::EcgqaTest, &question, "lead II", &["lead i", "lead ii"], &["lead ii"]);
    check_listed(Task::EcgqaTest, &question, "Lead I, lead II", &["lead i", "lead ii"], &["lead i", "lead ii"]);
}

#[test]
fn sets_of_words_are_compared_and_not_sets_of_letters() {
    let question = listing("on, no");
    let row = Answered { question: &question, answer: "on", gold: "no" };
    for scoring in Scoring::ALL {
        assert!(!read(Task::EcgqaTest, scoring, &row).unwrap().right);
    }
}

#[test]
fn a_class_that_is_never_true_still_counts_when_it_is_said() {
    let rows = [
        Answered { question: "", answer: "MI, HYP", gold: "MI" },
        Answered { question: "", answer: "NORM, HYP", gold: "NORM" },
    ];
    let of = |scoring| score(Task::PtbTest, scoring, &rows, FEW).unwrap();
    let (parity, strict) = (of(Scoring::Parity), of(Scoring::Strict));
    assert_eq!(parity.metric("macro_f1").unwrap().value, Some(1.0));
    assert_eq!(parity.metric("hamming_loss").unwrap().value, Some(0.0));
    assert_eq!(strict.metric("macro_f1").unwrap().value, Some(2.0 / 3.0));
    assert_eq!(strict.metric("hamming_loss").unwrap().value, Some(0.2));
    assert_eq!(strict.classes.len(), 5);
}

#[test]
fn a_file_of_any_length_is_scored() {
    let row = Answered { question: "", answer: "A", gold: "A. x" };
    for n in [1, 1610, 1612] {
        assert_eq!(score(Task::CsnTest, Scoring::Parity, &vec![row; n], FEW).unwrap().n_rows, n);
    }
    assert_eq!(score(Task::CsnTest, Scoring::Parity, &[], FEW).unwrap().metrics[0].value, None);
}

#[test]
fn a_gold_answer_that_is_none_is_counted() {
    let row = Answered { question: "", answer: "MI", gold: "sinus rhythm" };
    assert_eq!(score(Task::PtbTest, Scoring::Strict, &[row], FEW).unwrap().gold_unreadable, 1);
    assert!(!read(Task::PtbTest, Scoring::Strict, &Answered { answer: "", ..row }).unwrap().right);
}
