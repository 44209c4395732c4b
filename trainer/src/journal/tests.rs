use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;

use proptest::prelude::*;

use super::*;

fn line(step: u64) -> Line {
    let x = step as f64;
    Line {
        step,
        epoch: x / 30.0,
        loss: 1.0 / (x + 0.1),
        grad_norm: x.sqrt(),
        learning_rate: 1.2e-5 / x,
        mean_token_accuracy: 1.0 - 1.0 / (x + 3.0),
        answer_token_accuracy: 0.1 * x,
        prompt_token_accuracy: Some(0.2 * x),
        entropy: x.ln_1p(),
        correct_tokens: 7 * step,
        supervised_tokens: 9 * step,
        num_tokens: 100 * step,
        rows_per_second: 9.67,
        data_wait: 0.25,
        first_position: 6 * (step - 1),
        last_position: 6 * step - 1,
        digest: format!("digest-{step}"),
        skipped_rows: Vec::new(),
    }
}

/// A journal of `n` steps in a folder of its own.
fn written(n: u64) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.jsonl");
    let mut journal = Journal::open(&path, 0).unwrap();
    (1..=n).for_each(|step| journal.append(&line(step)).unwrap());
    journal.syncer().unwrap().sync().unwrap();
    (dir, path)
}

#[expect(clippy::disallowed_methods, reason = "damage is done in place")]
fn overwrite(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
}

#[track_caller]
fn check_says(error: Error, exit_code: u8, part: &str) {
    assert!(error.to_string().contains(part), "{part:?} is not in {error}");
    assert_eq!(error.exit_code(), exit_code);
}

#[test]
fn a_line_has_its_fields_in_the_documented_order() {
    let (_dir, path) = written(1);
    let expected = "{\"step\":1,\"epoch\":0.03333333333333333,\"loss\":0.9090909090909091,\"grad_norm\":1.0,\
        \"learning_rate\":0.000012,\"mean_token_accuracy\":0.75,\"answer_token_accuracy\":0.1,\"prompt_token_accuracy\":0.2,\
        \"entropy\":0.6931471805599453,\"correct_tokens\":7,\"supervised_tokens\":9,\"num_tokens\":100,\
        \"rows_per_second\":9.67,\"data_wait\":0.25,\"first_position\":0,\"last_position\":5,\
        \"digest\":\"digest-1\"}\n";
    let found = fs::read_to_string(path).unwrap();
    assert_eq!(found, expected);
}

#[test]
fn a_repeated_step_must_have_the_same_bits_and_is_written_once() {
    let (_dir, path) = written(10);
    let before = fs::read(&path).unwrap();
    let mut journal = Journal::open(&path, 6).unwrap();
    for step in 7..=10 {
        journal.append(&Line { rows_per_second: 1.0, data_wait: 0.5, ..line(step) }).unwrap();
    }
    assert_eq!(fs::read(&path).unwrap(), before, "the time a step took may differ");
    journal.append(&line(11)).unwrap();
    assert_eq!(read(&path).unwrap(), (1..=11).map(line).collect::<Vec<_>>());
}

#[test]
fn a_step_that_differs_in_one_bit_has_diverged() {
    fn up(value: f64) -> f64 {
        f64::from_bits(value.to_bits() + 1)
    }
    type Change = fn(&mut Line);
    let changes: [(&str, Change); 17] = [
        ("epoch", |line| line.epoch = up(line.epoch)),
        ("loss", |line| line.loss = up(line.loss)),
        ("grad_norm", |line| line.grad_norm = up(line.grad_norm)),
        ("learning_rate", |line| line.learning_rate = up(line.learning_rate)),
        ("mean_token_accuracy", |line| line.mean_token_accuracy = up(line.mean_token_accuracy)),
        ("answer_token_accuracy", |line| line.answer_token_accuracy = up(line.answer_token_accuracy)),
        ("prompt_token_accuracy", |line| line.prompt_token_accuracy = line.prompt_token_accuracy.map(up)),
        ("prompt_token_accuracy", |line| line.prompt_token_accuracy = None),
        ("entropy", |line| line.entropy = up(line.entropy)),
        ("correct_tokens", |line| line.correct_tokens += 1),
        ("supervised_tokens", |line| line.supervised_tokens += 1),
        ("num_tokens", |line| line.num_tokens += 1),
        ("first_position", |line| line.first_position += 1),
        ("last_position", |line| line.last_position += 1),
        ("digest", |line| line.digest.push('0')),
        ("loss", |line| line.loss = -line.loss),
        ("skipped_rows", |line| line.skipped_rows.push("row-1".to_owned())),
    ];
    for (field, change) in changes {
        let (_dir, path) = written(3);
        let mut journal = Journal::open(&path, 1).unwrap();
        let mut other = line(2);
        change(&mut other);
        check_says(journal.append(&other).unwrap_err(), 4, &format!("step 2 had {field} "));
    }
}

#[test]
fn every_field_that_differs_is_named() {
    let (_dir, path) = written(3);
    let mut journal = Journal::open(&path, 1).unwrap();
    let other = Line { correct_tokens: 1, supervised_tokens: 2, ..line(2) };
    let expected = "step 2 had correct_tokens 14, repeated it has 1; supervised_tokens 18, repeated it has 2";
    check_says(journal.append(&other).unwrap_err(), 4, expected);
}

#[test]
fn a_skipped_step_has_its_rows_and_no_loss() {
    let (_dir, path) = written(3);
    let nan = f64::NAN;
    let rows = vec!["row-1".to_owned(), "row-7".to_owned()];
    let skipped = Line { loss: nan, grad_norm: nan, entropy: nan, skipped_rows: rows.clone(), ..line(4) };
    Journal::open(&path, 3).unwrap().append(&skipped).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    assert!(
        text.contains(r#""loss":null,"grad_norm":null"#) && text.ends_with("\"skipped_rows\":[\"row-1\",\"row-7\"]}\n")
    );
    let found = read(&path).unwrap().remove(3);
    assert!(found.loss.is_nan() && found.grad_norm.is_nan() && found.entropy.is_nan());
    assert_eq!(found.skipped_rows, rows);
    // Repeated, it must be skipped again, for the same rows.
    Journal::open(&path, 3).unwrap().append(&skipped).unwrap();
    let other = Line { skipped_rows: vec!["row-1".to_owned()], ..skipped.clone() };
    check_says(Journal::open(&path, 3).unwrap().append(&other).unwrap_err(), 4, "step 4 had skipped_rows");
    check_says(
        Journal::open(&path, 3).unwrap().append(&line(4)).unwrap_err(),
        4,
        "step 4 had loss null, repeated it has",
    );
    // What is no number has no place elsewhere.
    let wrong = Line { epoch: nan, ..skipped };
    check_says(Journal::open(&path, 4).unwrap().append(&Line { step: 5, ..wrong }).unwrap_err(), 4, "epoch is not");
    overwrite(&path, text.replace(",\"skipped_rows\":[\"row-1\",\"row-7\"]", "").as_bytes());
    check_says(Journal::open(&path, 0).unwrap_err(), 6, "journal.jsonl:4: loss is no number");
}

#[test]
fn a_torn_last_line_is_dropped_and_a_damaged_one_before_is_not() {
    let (_dir, path) = written(3);
    let whole = fs::read(&path).unwrap();
    let third = whole[..whole.len() - 1].iter().rposition(|b| *b == b'\n').unwrap() + 1;
    for end in third..whole.len() {
        overwrite(&path, &whole[..end]);
        assert_eq!(read(&path).unwrap().len(), 2, "cut at {end}");
        let mut journal = Journal::open(&path, 2).unwrap();
        journal.append(&line(3)).unwrap();
        assert_eq!(fs::read(&path).unwrap(), whole, "cut at {end}");
    }
    overwrite(&path, &[&whole[..], &[0; 100]].concat());
    assert_eq!(read(&path).unwrap().len(), 3, "a power cut can leave zeros");
    let mut middle = whole.clone();
    middle[third - 5] = b'"';
    overwrite(&path, &middle);
    check_says(Journal::open(&path, 0).unwrap_err(), 6, "journal.jsonl:2: ");
    overwrite(&path, &whole[third..]);
    check_says(Journal::open(&path, 0).unwrap_err(), 6, "journal.jsonl:1: expected step 1, found step 3");
    overwrite(&path, &vec![b'x'; 1 << 20]);
    check_says(Journal::open(&path, 0).unwrap_err(), 6, "journal.jsonl:1: ");
}

#[test]
fn a_journal_behind_its_checkpoint_is_refused() {
    let (_dir, path) = written(3);
    check_says(Journal::open(&path, 4).unwrap_err(), 6, "ends at step 3, the run resumes at step 4");
    check_says(Journal::open(&path.with_file_name("none"), 1).unwrap_err(), 6, "ends at step 0");
}

#[test]
fn steps_come_in_order_and_with_numbers() {
    let (_dir, path) = written(3);
    let mut journal = Journal::open(&path, 3).unwrap();
    check_says(journal.append(&line(3)).unwrap_err(), 6, "step 3 cannot follow step 3");
    check_says(journal.append(&line(5)).unwrap_err(), 6, "step 5 cannot follow step 3");
    check_says(
        journal.append(&Line { loss: f64::NAN, ..line(4) }).unwrap_err(),
        4,
        "step 4: loss is not a finite number",
    );
    check_says(journal.append(&Line { entropy: f64::INFINITY, ..line(4) }).unwrap_err(), 4, "entropy is not a finite");
    journal.append(&line(4)).unwrap();
    assert_eq!(read(&path).unwrap().len(), 4);
}

#[test]
fn two_runs_cannot_write_one_journal() {
    let (_dir, path) = written(3);
    let first = Journal::open(&path, 3).unwrap();
    check_says(Journal::open(&path, 3).unwrap_err(), 6, "another process is writing it");
    drop(first);
    Journal::open(&path, 3).unwrap();
}

#[test]
fn a_line_that_could_not_be_written_is_not_there() {
    let (_dir, path) = written(3);
    let whole = fs::read(&path).unwrap();
    let mut journal = Journal::open(&path, 3).unwrap();
    let writable = std::mem::replace(&mut journal.file, File::open(&path).unwrap());
    check_says(journal.append(&line(4)).unwrap_err(), 6, "cannot append to it");
    assert_eq!(fs::read(&path).unwrap(), whole);
    journal.file = writable;
    journal.append(&line(4)).unwrap();
    assert_eq!(read(&path).unwrap().len(), 4, "the step can be recorded once there is room again");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_number_comes_back_to_the_bit(bits in proptest::array::uniform9(any::<u64>()), n in any::<u64>()) {
        let [epoch, loss, grad_norm, learning_rate, a, b, c, entropy, rows_per_second] = bits.map(f64::from_bits);
        let odd = Line {
            epoch, loss, grad_norm, learning_rate, entropy, rows_per_second, num_tokens: n,
            mean_token_accuracy: a, answer_token_accuracy: b, prompt_token_accuracy: Some(c), ..line(1)
        };
        prop_assume!(bits.iter().all(|bits| f64::from_bits(*bits).is_finite()));
        let (_dir, path) = written(0);
        Journal::open(&path, 0).unwrap().append(&odd).unwrap();
        let found = read(&path).unwrap().remove(0);
        let floats = [found.epoch, found.loss, found.grad_norm, found.learning_rate, found.mean_token_accuracy,
            found.answer_token_accuracy, found.prompt_token_accuracy.unwrap(), found.entropy, found.rows_per_second];
        prop_assert_eq!(floats.map(f64::to_bits), bits);
        prop_assert_eq!(found.num_tokens, n);
    }

    #[test]
    fn however_often_it_is_killed_the_journal_is_that_of_an_undisturbed_run(
        kills in proptest::collection::vec((0_u64..4, 0_u64..6, 0_usize..600), 0..6),
    ) {
        let (_dir, path) = written(0);
        for (every, more, torn) in kills {
            let recorded = read(&path).unwrap().len() as u64;
            let resume_step = recorded - recorded.min(every); // The newest checkpoint is up to `every` steps behind.
            let mut journal = Journal::open(&path, resume_step).unwrap();
            (resume_step + 1..=recorded + more).for_each(|step| journal.append(&line(step)).unwrap());
            let next = serde_json::to_vec(&line(recorded + more + 1)).unwrap();
            journal.file.write_all(&next[..torn.min(next.len())]).unwrap();
        }
        let recorded = read(&path).unwrap().len() as u64;
        let mut journal = Journal::open(&path, recorded).unwrap();
        (recorded + 1..=30).for_each(|step| journal.append(&line(step)).unwrap());
        let (_other, undisturbed) = written(30);
        prop_assert_eq!(fs::read(&path).unwrap(), fs::read(&undisturbed).unwrap());
    }
}
