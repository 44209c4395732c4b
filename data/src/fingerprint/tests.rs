use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use crate::dataset::tests::{write, write_pages};
use crate::prepare::tests::small_rows;
use crate::{Dataset, PrepareOptions, Sources, prepare};

fn sources(files: &[&Path], include: &str) -> Sources {
    let files = files.iter().map(|file| file.to_path_buf()).collect();
    Sources { files, image_folder: None, include: include.into(), keep_image_marker: false }
}

fn hash(files: &[&Path], include: &str) -> blake3::Hash {
    Dataset::open(&sources(files, include)).unwrap().fingerprint()
}

/// No two of some hashes are equal.
#[track_caller]
fn check_all_differ(hashes: &[blake3::Hash]) {
    let distinct: std::collections::HashSet<_> = hashes.iter().collect();
    assert_eq!(distinct.len(), hashes.len(), "{hashes:?}");
}

#[test]
fn parquet_rows_are_known_by_what_they_are_and_not_by_where_they_lie() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let [a, b, moved, renamed, repainted, shorter] =
        ["a", "b", "moved", "renamed", "repainted", "shorter"].map(|name| path(&format!("{name}.parquet")));
    write(&a, &["r0", "r1", "r2"], 2, 40);
    write(&b, &["r3"], 2, 40);
    fs::copy(&a, &moved).unwrap();
    write(&renamed, &["r0", "rX", "r2"], 2, 40);
    write_pages(&repainted, &["r0", "r1", "r2"], 2, &[vec![1; 40], vec![9; 40], vec![3; 40]]);
    write(&shorter, &["r0", "r1"], 2, 40);
    assert_eq!(hash(&[&a], ""), hash(&[&moved], ""));
    check_all_differ(&[
        hash(&[&a], ""),
        hash(&[&b], ""),
        hash(&[&a, &b], ""),
        hash(&[&b, &a], ""),
        hash(&[&renamed], ""),
        hash(&[&repainted], ""),
        hash(&[&shorter], ""),
        hash(&[&a], "r1"),
        hash(&[&a], "r2"),
    ]);
}

#[test]
fn json_rows_are_known_by_every_byte_of_their_text() {
    let dir = tempfile::tempdir().unwrap();
    let rows = |n: usize, odd: &str| {
        let row = |i: usize| {
            let text = if i == 77 { odd } else { "answer" };
            format!(
                r#"{{"id":"{i}","image":"a.png","conversations":[{{"from":"human","value":"?"}},{{"from":"gpt","value":"{text}"}}]}}"#
            )
        };
        (0..n).map(row).collect::<Vec<_>>().join("\n")
    };
    let of = |name: &str, text: String, page: &[u8]| {
        let folder = dir.path().join(name);
        fs::create_dir_all(&folder).unwrap();
        storage::publish_file(&folder.join("rows.jsonl"), text.as_bytes()).unwrap();
        storage::publish_file(&folder.join("a.png"), page).unwrap();
        hash(&[&folder.join("rows.jsonl")], "")
    };
    let usual = of("usual", rows(200, "answer"), b"page");
    assert_eq!(usual, of("moved", rows(200, "answer"), b"page"));
    check_all_differ(&[
        usual,
        of("one text of 200", rows(200, "answez"), b"page"),
        of("another page", rows(200, "answer"), b"pagf"),
        of("one row less", rows(199, "answer"), b"page"),
    ]);
}

#[test]
fn a_prepared_folder_is_known_by_its_manifest() {
    let dir = tempfile::tempdir().unwrap();
    let prepared = |name: &str, n_rows: usize| {
        let (file, out) = (dir.path().join(format!("{name}.parquet")), dir.path().join(name));
        small_rows(&file, n_rows);
        let sources = sources(&[&file], "");
        let (resize, learn, archives, pinned) = (None, None, None, None);
        let options = PrepareOptions {
            sources,
            out: out.clone(),
            elsewhere: None,
            resize,
            learn,
            archives,
            pinned,
            max_bad_rows: 0,
            threads: 2,
            shard_bytes: 1000,
        };
        prepare(&options, &AtomicBool::new(false), &mut |_| {}).unwrap();
        hash(&[&out], "")
    };
    let usual = prepared("usual", 40);
    assert_eq!(usual, prepared("again", 40));
    check_all_differ(&[usual, prepared("more", 41)]);
    // A byte anywhere in a shard: the manifest of a folder made from it would have another hash.
    let manifest = dir.path().join("usual/manifest.json");
    let mut other: serde_json::Value = serde_json::from_slice(&fs::read(&manifest).unwrap()).unwrap();
    other["shards"][1]["blake3"] = "0".repeat(64).into();
    storage::publish_file(&manifest, other.to_string().as_bytes()).unwrap();
    assert_ne!(hash(&[&dir.path().join("usual")], ""), usual);
}
