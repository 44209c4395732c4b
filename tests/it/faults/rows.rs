//! Rows that are damaged on the disk: named, and used by no step.

use std::fs;
use std::path::PathBuf;

use super::rig::{Job, for_each_file};

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

/// Rows of its own for a job, with its file changed; returns the `--set` that uses them.
fn damaged(job: &Job, change: impl FnOnce(&mut Vec<u8>)) -> String {
    let dir = job.path("rows");
    fs::create_dir_all(&dir).unwrap();
    let mut files = Vec::new();
    for_each_file(job.rows(), &mut |path| {
        if path.file_name().unwrap().to_string_lossy().starts_with("train-") {
            files.push(path.to_owned());
        }
    });
    let [file] = &files[..] else { panic!("one file was expected: {files:?}") };
    let mut bytes = fs::read(file).unwrap();
    change(&mut bytes);
    let path: PathBuf = dir.join(file.file_name().unwrap());
    storage::publish_file(&path, &bytes).unwrap();
    format!("data.train={}", path.display())
}

/// The run must end with exit code 3, name everything of `named`, and have journalled fewer than all steps.
#[track_caller]
fn check(what: &str, change: impl FnOnce(&mut Vec<u8>), named: &[&str]) {
    let job = Job::new();
    let rows = damaged(&job, change);
    let said = job.launch(2, &["--set", &rows]).must_end(3, &[&["train-00000-of-00001.parquet"], named].concat());
    assert!(job.steps() < 15, "{what}: every epoch of 15 steps uses every row: {said}");
    job.must_leave_nothing();
}

/// Where the first page of the file begins; it is stored as it is, being compressed already.
fn page(bytes: &[u8]) -> usize {
    bytes.windows(PNG.len()).position(|window| window == PNG).unwrap()
}

/// Sets width and height of the first page, with the checksum that belongs to them.
fn resize(bytes: &mut [u8], width: u32, height: u32) {
    let header = page(bytes) + PNG.len() + 4;
    bytes[header + 4..header + 8].copy_from_slice(&width.to_be_bytes());
    bytes[header + 8..header + 12].copy_from_slice(&height.to_be_bytes());
    let crc = !bytes[header..header + 17].iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    });
    bytes[header + 17..header + 21].copy_from_slice(&crc.to_be_bytes());
}

/// Fault 13.
#[test]
fn a_damaged_parquet_file_is_named_before_a_step_uses_its_rows() {
    check("cut", |bytes| bytes.truncate(bytes.len() / 2), &[]);
    check("no footer", |bytes| bytes.truncate(bytes.len() - 8), &[]);
    check(
        "zeroed page",
        |bytes| {
            let begin = page(bytes);
            bytes[begin - 64..begin + 4096].fill(0);
        },
        &["row"],
    );
    for at in [40, 200, 1000] {
        check(
            "flipped bit",
            |bytes| {
                let begin = page(bytes);
                bytes[begin + at] ^= 16;
            },
            &["row 0"],
        );
    }
}

/// Fault 14.
#[test]
fn a_damaged_page_is_named_by_its_row_before_a_step_uses_it() {
    let row = "row 0 (id synthetic-0000000): the page does not decode: ";
    check("0 px", |bytes| resize(bytes, 0, 100), &[row]);
    check("huge", |bytes| resize(bytes, 30_000, 30_000), &[row, "30000 x 30000 pixels"]);
    check(
        "cut",
        |bytes| {
            let begin = page(bytes);
            let next = begin + 8 + page(&bytes[begin + 8..]);
            let half = begin + (next - begin) / 2;
            bytes[half..next - 32].fill(0);
        },
        &["row 0"],
    );
}
