//! `prepare` through the real program: the rows of a prepared folder train to the bits of their source; what is wrong is
//! named with the documented exit code.

use std::fs;
use std::path::Path;

use crate::journey::{Run, program, real_rows, succeed};

/// Runs `prepare`, which must end with `code` and a message that holds every text of `named`.
#[track_caller]
fn check(args: &[&str], code: i32, named: &[&str]) {
    let output = program(&[&["prepare"], args].concat());
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{args:?} said:\n{told}");
    for text in named {
        assert!(told.contains(text), "{args:?} does not name {text}:\n{told}");
    }
}

#[test]
fn training_on_a_prepared_folder_gives_the_bits_of_training_on_its_source() {
    let run = Run::synthetic();
    let config = run.path("config.toml");
    let settings = ["data.shuffle=true", "train.max_steps=4", "checkpoint.every_steps=4"];
    run.must_launch(1, &settings);
    let expected = run.bits(4);
    for (out, resize) in [("original", false), ("resized", true)] {
        let out = run.path(out);
        let mut args = vec!["prepare", "--config", &config, "--out", &out, "--shard-size", "20KB"];
        args.extend(resize.then_some("--resize"));
        succeed(&args);
        succeed(&["prepare", "--verify", &out]);
        fs::remove_dir_all(run.path("run")).unwrap();
        let train = format!("data.train={out}");
        run.must_launch(2, &[&settings[..], &[&train]].concat());
        assert_eq!(run.bits(4), expected, "{out}");
    }
}

#[test]
fn what_cannot_be_prepared_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let out = path("out");
    check(&["--source", "/no/rows", "--out", &out], 3, &["/no/rows"]);
    check(&["--source", "/no/rows"], 2, &["--out"]);
    check(&[], 2, &["--config"]);
    check(&["--verify", &path("absent")], 3, &["manifest.json"]);
    storage::publish_file(Path::new(&path("page.json")), b"<html>404</html>").unwrap();
    check(&["--source", &path("page.json"), "--out", &out], 3, &["page.json", "byte 0"]);
    let Some(train) = real_rows() else { return };
    let faults = train.parent().unwrap().join("faults/faults.parquet").display().to_string();
    check(&["--source", &faults, "--out", "/proc/prepared"], 6, &["/proc/prepared"]);
    check(&["--source", &faults, "--out", &path("strict")], 3, &["faults.parquet", "row 1", "image_null", "no image"]);
    check(
        &["--source", &faults, "--out", &path("listed"), "--max-bad-rows", "12"],
        0,
        &["12 rows were left out", "row 10", "png_30000x30000", "and 2 more", "data.train="],
    );
    check(&["--source", &faults, "--out", &path("listed"), "--resize"], 2, &["--resize 896"]);
    let tar = train.parent().unwrap().join("json_tar").display().to_string();
    check(
        &["--source", &tar, "--out", &path("tar"), "--max-bad-rows", "1"],
        0,
        &["23 rows", "row 7", "no archive holds"],
    );
    let run = Run::new(&train);
    let output = run.launch(1, &[&format!("data.train={tar}")]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(3) && told.contains("ecg-train prepare --source"), "{told}");
}

#[cfg(not(feature = "object-store"))]
#[test]
fn a_build_without_object_stores_says_how_to_make_one_with_them() {
    for args in [["--verify", "s3://bucket/prepared"].as_slice(), &["--source", "x", "--out", "gs://bucket/prepared"]] {
        check(args, 2, &["bucket/prepared", "cargo build --release -p launch --features object-store"]);
    }
    let run = Run::synthetic();
    let output = run.launch(1, &["data.train=https://host/prepared"]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && told.contains("--features object-store"), "{told}");
}

#[test]
fn bad_rows_are_left_out_before_the_first_step_or_end_the_run() {
    let Some(train) = real_rows() else { return };
    let faults = format!("data.train={}", train.parent().unwrap().join("faults/faults.parquet").display());
    let settings = [&faults, "train.global_batch_size=2", "train.micro_batch_size=1", "checkpoint.every_steps=100"];
    let run = Run::new(&train);
    let few = run.launch(1, &[&settings[..], &["data.max_bad_rows=3"]].concat());
    let told = String::from_utf8_lossy(&few.stderr).into_owned();
    assert!(few.status.code() == Some(3) && told.contains("more than 3 bad rows"), "{told}");
    let enough = [&settings[..], &["data.max_bad_rows=13"]].concat();
    let mut bits = Vec::new();
    for ranks in [1, 2] {
        let run = Run::new(&train);
        let output = run.launch(ranks, &enough);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && told.contains("png_truncated) is left out"), "{told}");
        bits.push(run.bits(3)); // Five or six rows are good, in steps of two.
    }
    assert_eq!(bits[0], bits[1]);
}

#[test]
fn opening_is_measured_in_both_orders_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let within = dir.path().display().to_string();
    let out = succeed(&["bench", "open", "--rows", "3000", "--dir", &within, "--json"]);
    let figures: serde_json::Value = serde_json::from_str(&out).unwrap();
    for (figures, in_source_order) in figures.as_array().unwrap().iter().zip([true, false]) {
        assert_eq!((&figures["rows"], &figures["in_source_order"]), (&3000.into(), &in_source_order.into()));
        assert_eq!(figures["orders"].as_array().unwrap().len(), 4);
        assert!(figures["open_ms"].as_f64().unwrap() > 0.0);
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "its files are removed");
    let table = succeed(&["bench", "open", "--rows", "1", "--dir", &within]);
    assert!(table.contains("1 prepared rows in the order of archives: opened in"), "{table}");
}
