//! Rows that are damaged on the disk: named, and used by no step.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{ArrayRef, BinaryArray, RecordBatch, StructArray};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::properties::WriterProperties;

use super::rig::Job;

const FILE: &str = "train-00000-of-00001.parquet";
/// Signature, and length and name of the first chunk: before the 13 bytes of a PNG's header.
const BEFORE_HEADER: usize = 16;

/// The job's rows again, with pages stored as they are, ten rows a row group, and the page of row 20 changed.
fn rows(job: &Job, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let file = File::open(job.rows().join(FILE)).unwrap();
    let batch = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap().next().unwrap().unwrap();
    let images = batch.column_by_name("image").unwrap().as_struct();
    let mut pages: Vec<Vec<u8>> =
        images.column(0).as_binary::<i32>().iter().map(|page| page.unwrap().to_vec()).collect();
    change(&mut pages[20]);
    let pages: ArrayRef = Arc::new(BinaryArray::from_iter_values(&pages));
    let changed = StructArray::new(images.fields().clone(), vec![pages, images.column(1).clone()], None);
    let at = batch.schema().index_of("image").unwrap();
    let columns = batch.columns().iter().enumerate();
    let columns = columns.map(|(i, column)| if i == at { Arc::new(changed.clone()) } else { Arc::clone(column) });
    let batch = RecordBatch::try_new(batch.schema(), columns.collect()).unwrap();
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(10)).set_dictionary_enabled(false);
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties.build())).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    bytes
}

/// A run over this file must end with exit code 3, name it and everything of `named`, and have used each row at most once.
#[track_caller]
fn check(job: &Job, bytes: &[u8], named: &[&str]) {
    let path: PathBuf = job.path(FILE);
    storage::publish_file(&path, bytes).unwrap();
    let rows = format!("data.train={}", path.display());
    job.launch(2, &["--set", &rows]).must_end(3, &[&[FILE], named].concat());
    assert!(job.steps() < 15, "an epoch of 15 steps uses every row");
    job.must_leave_nothing();
}

/// Fault 13.
#[test]
fn a_damaged_parquet_file_is_named_before_a_step_uses_its_rows() {
    let job = Job::new();
    let (mut page, mut whole) = (Vec::new(), Vec::new());
    whole.extend(rows(&job, |bytes| page.clone_from(bytes)));
    let at = whole.windows(page.len()).position(|window| window == page).unwrap();
    check(&Job::new(), &whole[..whole.len() / 2], &[]);
    check(&Job::new(), &whole[..whole.len() - 8], &[]);
    let zeroed = [&whole[..at - 200], &[0; 1000], &whole[at + 800..]].concat();
    check(&Job::new(), &zeroed, &["row group 2, row 2"]);
    for bit in [8 * 40, 8 * 300 + 3, 8 * (page.len() - 6) + 7] {
        let mut flipped = whole.clone();
        flipped[at + bit / 8] ^= 1 << (bit % 8);
        check(&Job::new(), &flipped, &["row 20 (id synthetic-0000020)"]);
    }
}

/// Fault 13, on a prepared folder: every row proves itself, so nothing in a shard can change or move unseen.
#[test]
fn a_damaged_shard_is_named_before_a_step_uses_its_rows() {
    let ground = Job::new();
    let folder = ground.path("prepared");
    let mut prepare = Command::new(env!("CARGO_BIN_EXE_ecg-train-under-test"));
    prepare
        .args(["prepare", "--shard-size", "100KB", "--source"])
        .arg(ground.rows().join(FILE))
        .arg("--out")
        .arg(&folder);
    let output = prepare.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let [first, second] = ["part-00000.parquet", "part-00001.parquet"].map(|name| folder.join(name));
    let (sound, other) = (fs::read(&first).unwrap(), fs::read(second).unwrap());
    let page = sound.windows(4).position(|window| window == b"\x89PNG").unwrap();
    let flipped = |at: usize| {
        let mut bytes = sound.clone();
        bytes[at] ^= 0x10;
        bytes
    };
    let zeroed = [&sound[..page], &[0; 1000], &sound[page + 1000..]].concat();
    let cut = sound[..sound.len() - 1].to_vec();
    for damaged in [flipped(page + 1), flipped(page + 300), flipped(sound.len() - 20), zeroed, cut, other] {
        storage::publish_file(&first, &damaged).unwrap();
        let job = Job::new();
        let rows = format!("data.train={}", folder.display());
        job.launch(2, &["--set", &rows]).must_end(3, &["part-00000.parquet"]);
        assert!(job.steps() < 15, "an epoch of 15 steps uses every row");
        job.must_leave_nothing();
    }
}

/// Fault 14.
#[test]
fn a_damaged_page_is_named_by_its_row_before_a_step_uses_it() {
    let resized = |width: u32, height: u32| {
        move |page: &mut Vec<u8>| {
            page[BEFORE_HEADER..BEFORE_HEADER + 4].copy_from_slice(&width.to_be_bytes());
            page[BEFORE_HEADER + 4..BEFORE_HEADER + 8].copy_from_slice(&height.to_be_bytes());
            let crc = !page[BEFORE_HEADER - 4..BEFORE_HEADER + 13].iter().fold(u32::MAX, |crc, &byte| {
                (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
            });
            page[BEFORE_HEADER + 13..BEFORE_HEADER + 17].copy_from_slice(&crc.to_be_bytes());
        }
    };
    let row = "row 20 (id synthetic-0000020): ";
    type Change<'a> = &'a dyn Fn(&mut Vec<u8>);
    let faults: [(Change, &str); 5] = [
        (&resized(0, 100), "the page does not decode"),
        (&resized(30_000, 30_000), "30000 x 30000 pixels"),
        (&|page| page.truncate(page.len() / 2), "PNG is damaged"),
        (&|page| page[200] ^= 1, "PNG is damaged"),
        (&Vec::clear, "0 bytes"),
    ];
    for (fault, reason) in faults {
        let job = Job::new();
        check(&job, &rows(&job, fault), &[row, reason]);
    }
    // Without a fault the same rows are fine.
    let job = Job::new();
    let path = job.path(FILE);
    storage::publish_file(&path, &rows(&job, |_| {})).unwrap();
    job.must_end(2, &["--set", &format!("data.train={}", path.display())], 0);
    assert!(fs::exists(job.path("run/checkpoint-30")).unwrap());
}
