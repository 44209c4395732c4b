//! Which parquet files of a data set belong to which split, by the words in their paths, as `datasets` tells them.
//! It never takes rows for training that are named as any others.

use super::listing::RemoteFile;
use crate::Split;

const TRAIN: [&str; 2] = ["train", "training"];
const VALIDATION: [&str; 4] = ["validation", "valid", "val", "dev"];
const TEST: [&str; 4] = ["test", "testing", "eval", "evaluation"];

/// For training the files named so, or those of no name; for evaluation those of validation, or of test.
pub(super) fn of(split: Split, mut files: Vec<RemoteFile>) -> Vec<RemoteFile> {
    files.retain(|file| file.path.ends_with(".parquet"));
    let has = |file: &RemoteFile, names: &[&str]| words(&file.path).any(|word| names.contains(&word));
    let named = |names: &[&str]| -> Vec<RemoteFile> { files.iter().filter(|file| has(file, names)).cloned().collect() };
    let nameless = || -> Vec<RemoteFile> {
        files
            .iter()
            .filter(|file| ![&TRAIN[..], &VALIDATION, &TEST].iter().any(|names| has(file, names)))
            .cloned()
            .collect()
    };
    let found = match split {
        Split::Train => [named(&TRAIN), nameless()],
        Split::Eval => [named(&VALIDATION), named(&TEST)],
    };
    found.into_iter().find(|files| !files.is_empty()).unwrap_or_default()
}

fn words(path: &str) -> impl Iterator<Item = &str> {
    path.split(|c: char| !c.is_ascii_alphabetic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(files: &[&str], train: &[&str], eval: &[&str]) {
        let file = |path: &&str| RemoteFile { path: (*path).to_owned(), size: 1, hash: String::new() };
        let files: Vec<RemoteFile> = files.iter().map(file).collect();
        for (split, expected) in [(Split::Train, train), (Split::Eval, eval)] {
            let found = of(split, files.clone());
            let found: Vec<&str> = found.iter().map(|file| file.path.as_str()).collect();
            assert_eq!(found, expected, "{split:?}");
        }
    }

    #[test]
    fn no_row_of_a_test_file_is_trained_on() {
        check(&["README.md", "a.parquet", "b.parquet"], &["a.parquet", "b.parquet"], &[]);
        check(&["data/train-0.parquet", "data/test-0.parquet"], &["data/train-0.parquet"], &["data/test-0.parquet"]);
        check(&["train/0.parquet", "dev/0.parquet", "test/0.parquet"], &["train/0.parquet"], &["dev/0.parquet"]);
        check(&["ptb-test/test-00000-of-00001.parquet"], &[], &["ptb-test/test-00000-of-00001.parquet"]);
        check(&["contest.parquet"], &["contest.parquet"], &[]); // Whole words.
    }
}
