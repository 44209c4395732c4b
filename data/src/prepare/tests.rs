use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::dataset::tests::write as write_parquet;
use crate::{Dataset, Disk, Fault, PageHash, Row, fixtures, page};

fn options(files: &[&Path], out: &Path) -> PrepareOptions {
    let files = files.iter().map(|file| file.to_path_buf()).collect();
    PrepareOptions {
        sources: Sources { files, image_folder: None, include: String::new(), keep_image_marker: false },
        out: out.to_owned(),
        elsewhere: None,
        resize: None,
        learn: None,
        max_bad_rows: 0,
        threads: 2,
        shard_bytes: 200 << 10,
        archives: None,
        pinned: None,
    }
}

fn run(options: &PrepareOptions) -> Result<Prepared> {
    prepare(options, &AtomicBool::new(false), &mut |_| {})
}

fn must(options: &PrepareOptions) -> (Manifest, Cost) {
    match run(options).unwrap() {
        Prepared::Done { manifest, cost } => (*manifest, cost),
        Prepared::Stopped { .. } => panic!("nobody asked it to stop"),
    }
}

fn open(files: &[&Path]) -> Dataset {
    Dataset::open(&options(files, Path::new("unused")).sources).unwrap()
}

/// Everything of a row that training sees.
fn seen(row: Row) -> (String, Vec<u8>, Vec<crate::Message>) {
    (row.id, row.image, row.messages)
}

#[track_caller]
fn check_equal(prepared: &Dataset, source: &Dataset) {
    assert_eq!(prepared.len(), source.len());
    for i in 0..source.len() {
        assert!(seen(prepared.row(i).unwrap()) == seen(source.row(i).unwrap()), "row {i}");
        assert_eq!(prepared.row_id(i).unwrap(), source.row_id(i).unwrap());
    }
}

/// Both are of the page as the source has it.
#[track_caller]
fn check_keys_and_looks(prepared: &Dataset, source: &Dataset) {
    let (keys, looks) = (prepared.pages().unwrap(), prepared.looks().unwrap());
    assert_eq!((keys.len(), looks.len()), (source.len(), source.len()));
    for (i, (key, look)) in keys.iter().zip(looks).enumerate() {
        let image = source.row(i).unwrap().image;
        assert_eq!(key[..], blake3::hash(&image).as_bytes()[..16], "row {i}");
        assert_eq!(look, PageHash::of(&image).unwrap(), "row {i}");
    }
}

#[test]
fn a_prepared_folder_holds_the_rows_of_its_source_in_their_order() {
    let Some(train) = fixtures::mini("train") else { return };
    let dir = tempfile::tempdir().unwrap();
    let (manifest, cost) = must(&options(&[&train], dir.path()));
    let (prepared, source) = (open(&[dir.path()]), open(&[&train]));
    check_equal(&prepared, &source);
    assert_eq!((manifest.rows, cost.pages, manifest.folders["mini"]), (113, 113, 113));
    assert!(manifest.shards.len() > 3, "{} shards", manifest.shards.len());
    assert_eq!(prepared.manifests().next().unwrap(), &manifest);
    assert_eq!(prepared.text_bytes().unwrap(), source.text_bytes().unwrap());
    assert_eq!(prepared.image_paths().unwrap(), source.image_paths().unwrap());
    assert_eq!(prepared.ids().unwrap(), source.ids().unwrap());
    check_keys_and_looks(&prepared, &source);
    assert!(matches!(source.pages(), Err(Error::NotPrepared { .. })));
    assert!(matches!(source.looks(), Err(Error::NotPrepared { .. })));
    assert_eq!(verify(&Disk, dir.path(), &mut |_| {}).unwrap(), manifest);
    let again = must(&options(&[&train], dir.path()));
    assert_eq!((again.0, again.1.pages), (manifest, 0), "a complete folder is not made again");
    let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(names.iter().all(|n| !n.to_string_lossy().contains("unfinished")), "{names:?}");
}

#[test]
fn every_column_layout_prepares_to_the_same_rows() {
    let Some(variants) = fixtures::mini("variants") else { return };
    let mut files: Vec<_> = fs::read_dir(variants).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|e| e == "parquet") && !file.ends_with("image_encodings.parquet"));
    files.sort();
    assert_eq!(files.len(), 9);
    for file in files {
        let dir = tempfile::tempdir().unwrap();
        must(&options(&[&file], dir.path()));
        check_equal(&open(&[dir.path()]), &open(&[&file]));
    }
}

#[test]
fn resized_pages_give_the_pixels_of_resizing_at_load_time() {
    let Some(train) = fixtures::mini("train") else { return };
    let dir = tempfile::tempdir().unwrap();
    let file = train.join("train-00001-of-00004.parquet");
    let (manifest, cost) = must(&PrepareOptions { resize: Some(224), ..options(&[&file], dir.path()) });
    assert_eq!(manifest.pages, StoredPages::Resized(224));
    assert!(cost.stored_bytes < cost.source_bytes && !cost.from_stored.is_zero(), "{cost:?}");
    let (prepared, source) = (open(&[dir.path()]), open(&[&file]));
    for i in 0..source.len() {
        let (stored, original) = (prepared.row(i).unwrap(), source.row(i).unwrap());
        assert!(page(&stored.image, 224).unwrap() == page(&original.image, 224).unwrap(), "row {i}");
        assert_eq!((stored.id, stored.messages), (original.id, original.messages));
    }
    check_keys_and_looks(&prepared, &source);
    prepared.require_image_size(224).unwrap();
    assert!(matches!(prepared.require_image_size(896), Err(Error::OtherSize { stored: 224, image_size: 896, .. })));
    source.require_image_size(896).unwrap();
}

#[test]
fn every_bad_row_is_listed_and_the_others_stay() {
    let Some(faults) = fixtures::mini("faults") else { return };
    let dir = tempfile::tempdir().unwrap();
    let refused = run(&options(&[&faults], &dir.path().join("strict"))).unwrap_err();
    assert!(matches!(refused, Error::Row { row: 1, fault: Fault::NoImage(_), .. }), "{refused}");
    let few = PrepareOptions { max_bad_rows: 5, ..options(&[&faults], &dir.path().join("few")) };
    let refused = run(&few).unwrap_err();
    assert!(matches!(refused, Error::TooManyBadRows { max: 5, .. }), "{refused}");
    let (manifest, _) = must(&PrepareOptions { max_bad_rows: 12, ..few });
    let listed: Vec<_> = manifest.bad_rows.iter().map(|bad| (bad.id.as_str(), bad.reason.as_str())).collect();
    let expected = [
        ("image_null", "no image"),
        ("bytes_null", "no image"),
        ("bytes_empty", "0 bytes"),
        ("png_truncated", "PNG is damaged"),
        ("png_bit_flip", "PNG is damaged"),
        ("not_an_image", "neither PNG nor JPEG"),
        ("png_30000x30000", "30000 x 30000"),
        ("no_turns", "no turns"),
        ("no_answer", "does not end with an answer"),
        ("starts_with_gpt", "out of order"),
        ("empty_answer", "is empty"),
        ("unknown_role", "unknown role"),
    ];
    assert_eq!(listed.len(), expected.len(), "{listed:?}");
    for ((id, reason), (expected_id, said)) in listed.iter().zip(expected) {
        assert!(*id == expected_id && reason.contains(said), "{id}: {reason}");
    }
    let ids = open(&[&dir.path().join("few")]).ids().unwrap();
    let good = ["ok", "no_image_token", "two_image_tokens", "image_token_in_answer", "special_token_in_text"];
    assert_eq!(ids[..5], good);
    assert_eq!(ids[5..], ["longer_than_2048_tokens"], "only a run's own limit makes it bad");
    let text = String::from_utf8(fs::read(dir.path().join("few/manifest.json")).unwrap()).unwrap();
    assert!(!text.contains("What is the rhythm"), "a manifest never repeats a row's text");
}

/// Rows of 8 x 8 pages, every one of its own grey.
pub(crate) fn small_rows(file: &Path, n: usize) {
    let ids: Vec<String> = (0..n).map(|i| format!("r{i}")).collect();
    let pages: Vec<Vec<u8>> = (0..n).map(|i| page::encode(&[i as u8; 192], 8).unwrap()).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    crate::dataset::tests::write_pages(file, &ids, 5, &pages);
}

#[test]
fn a_stop_and_a_rerun_give_the_files_of_an_undisturbed_run() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.parquet");
    small_rows(&file, 60);
    let with = |out: &str| PrepareOptions { shard_bytes: 1000, ..options(&[&file], &dir.path().join(out)) };
    let (calm, _) = must(&with("calm"));
    assert!(calm.shards.len() >= 5, "{} shards", calm.shards.len());
    for stop_at in [0_u64, 1, 17, 42, 59] {
        let disturbed = with(&format!("stopped-{stop_at}"));
        let stop = AtomicBool::new(stop_at == 0);
        let stopped = prepare(&disturbed, &stop, &mut |p| stop.store(p.done >= stop_at, Ordering::Relaxed)).unwrap();
        let Prepared::Stopped { shards, rows } = stopped else { panic!("it was asked to stop") };
        assert!(rows <= stop_at && !disturbed.out.join("manifest.json").exists());
        let refused = Dataset::open(&options(&[&disturbed.out], Path::new("unused")).sources).unwrap_err();
        assert!(matches!(refused, Error::Unfinished { .. }), "{refused}");
        let of = |shard: usize| fs::metadata(disturbed.out.join(format!("part-{shard:05}.parquet"))).unwrap();
        let before: Vec<_> = (0..shards).map(|shard| of(shard).modified().unwrap()).collect();
        assert_eq!(must(&disturbed).0, calm);
        let after: Vec<_> = (0..shards).map(|shard| of(shard).modified().unwrap()).collect();
        assert_eq!(before, after, "finished shards are not redone");
        for shard in &calm.shards {
            let bytes = |out: &str| fs::read(dir.path().join(out).join(&shard.file)).unwrap();
            assert!(bytes("calm") == bytes(&format!("stopped-{stop_at}")), "{}", shard.file);
        }
    }
}

#[test]
fn a_folder_of_something_else_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a.parquet"), dir.path().join("b.parquet"));
    small_rows(&a, 3);
    small_rows(&b, 4);
    let out = dir.path().join("out");
    must(&options(&[&a], &out));
    for other in [options(&[&b], &out), PrepareOptions { resize: Some(8), ..options(&[&a], &out) }] {
        assert!(matches!(run(&other), Err(Error::OtherFolder { .. })));
    }
    let refused = run(&options(&[&a], dir.path())).unwrap_err();
    assert!(matches!(refused, Error::OtherFolder { .. }), "{refused}");
    assert!(!dir.path().join("manifest.unfinished.json").exists());
    let held = File::open(&out).unwrap();
    held.lock().unwrap();
    assert!(matches!(run(&options(&[&a], &out)), Err(Error::InUse { .. })));
}

#[test]
fn damage_of_a_shard_is_found_before_a_step_uses_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.parquet");
    small_rows(&file, 12);
    let out = dir.path().join("out");
    must(&options(&[&file], &out));
    let (sources, shard) = (options(&[&out], dir.path()).sources, out.join("part-00000.parquet"));
    let good: Vec<_> = (0..12).map(|i| seen(open(&[&out]).row(i).unwrap())).collect();
    let whole = fs::read(&shard).unwrap();
    let mut found = 0;
    for at in (0..whole.len()).step_by(11) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        File::create(&shard).unwrap().write_all(&bytes).unwrap();
        let data = Dataset::open(&sources).unwrap(); // Its size is right.
        for (i, good) in good.iter().enumerate() {
            match data.row(i) {
                Ok(row) => assert!(seen(row) == *good, "byte {at} changed row {i} and nobody noticed"),
                Err(Error::Damaged { .. } | Error::Shard { .. } | Error::Row { .. }) => found += 1,
                Err(other) => panic!("{other}"),
            }
        }
        if at % 121 == 0 {
            assert!(matches!(verify(&Disk, &out, &mut |_| {}), Err(Error::Shard { .. })));
        }
    }
    assert!(found > whole.len() / 11, "{found}");
    storage::publish_file(&shard, &whole[..whole.len() - 1]).unwrap();
    let refused = Dataset::open(&sources).unwrap_err();
    assert!(refused.to_string().contains("part-00000.parquet"), "{refused}");
}

#[test]
fn shards_that_changed_places_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (dir.path().join("a.parquet"), dir.path().join("out"));
    write_parquet(&file, &["a"], 1, 3);
    small_rows(&file, 40);
    must(&PrepareOptions { shard_bytes: 3000, ..options(&[&file], &out) });
    let mut text = String::from_utf8(fs::read(out.join("manifest.json")).unwrap()).unwrap();
    for (from, to) in [("part-00000", "part-x"), ("part-00001", "part-00000"), ("part-x", "part-00001")] {
        text = text.replace(from, to);
        storage::publish_file(&out.join("manifest.json"), text.as_bytes()).unwrap();
    }
    let bytes = ["part-00000.parquet", "part-00001.parquet"].map(|name| fs::read(out.join(name)).unwrap());
    storage::publish_file(&out.join("part-00000.parquet"), &bytes[1]).unwrap();
    storage::publish_file(&out.join("part-00001.parquet"), &bytes[0]).unwrap();
    let data = open(&[&out]); // Sizes and hashes fit the forged manifest; the rows know where they belong.
    assert!(matches!(data.row(0), Err(Error::Damaged { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn any_shard_size_and_number_of_threads_give_the_same_rows(shard_bytes in 1_u64..9000, threads in 1_usize..5, n in 1_usize..40) {
        let dir = tempfile::tempdir().unwrap();
        let (file, out) = (dir.path().join("a.parquet"), dir.path().join("out"));
        small_rows(&file, n);
        let (manifest, _) = must(&PrepareOptions { shard_bytes, threads, ..options(&[&file], &out) });
        prop_assert_eq!(manifest.rows, n as u64);
        prop_assert_eq!(manifest.distinct_pages, n as u64);
        check_equal(&open(&[&out]), &open(&[&file]));
    }
}

#[test]
fn archives_are_streamed_and_rows_keep_the_order_of_the_json() {
    let Some(folder) = fixtures::mini("json_tar") else { return };
    let dir = tempfile::tempdir().unwrap();
    let with = |out: &str| PrepareOptions { max_bad_rows: 1, ..options(&[&folder], &dir.path().join(out)) };
    let (manifest, _) = must(&with("calm"));
    assert_eq!((manifest.rows, manifest.source.kind.as_str(), manifest.in_source_order), (23, "json+tar", false));
    let [bad] = manifest.bad_rows.as_slice() else { panic!("{:?}", manifest.bad_rows) };
    assert!(bad.row == 7 && bad.reason.contains("no archive holds"), "{bad:?}");
    // The same rows with their pages unpacked.
    let unpacked = dir.path().join("unpacked");
    fs::create_dir_all(&unpacked).unwrap();
    fs::copy(folder.join("ECGInstruct.json"), unpacked.join("rows.json")).unwrap();
    for archive in crate::archive::in_folder(&folder) {
        let file = flate2::read::GzDecoder::new(File::open(archive).unwrap());
        tar::Archive::new(file).unpack(&unpacked).unwrap();
    }
    let (prepared, source) = (open(&[&dir.path().join("calm")]), open(&[&unpacked]));
    assert_eq!(source.len(), 24);
    for (i, row) in (0..24).filter(|&row| row != 7).enumerate() {
        assert!(seen(prepared.row(i).unwrap()) == seen(source.row(row).unwrap()), "row {row}");
    }
    assert!(matches!(source.row(7), Err(Error::Row { fault: Fault::NoImage(_), row: 7, .. })));
    let from_images = PrepareOptions { max_bad_rows: 1, ..options(&[&unpacked], &dir.path().join("images")) };
    assert_eq!(must(&from_images).0.rows, 23);
    // Stopped anywhere, the rest is not redone and the rows are the same.
    for stop_at in [1, 9, 16, 22] {
        let disturbed = PrepareOptions { shard_bytes: 50_000, ..with(&format!("stopped-{stop_at}")) };
        let stop = AtomicBool::new(false);
        let stopped = prepare(&disturbed, &stop, &mut |p| stop.store(p.rows >= stop_at, Ordering::Relaxed)).unwrap();
        assert!(matches!(stopped, Prepared::Stopped { .. }));
        let (again, _) = must(&disturbed);
        assert_eq!((again.rows, &again.bad_rows), (23, &manifest.bad_rows));
        check_equal(&open(&[&disturbed.out]), &prepared);
    }
}

/// A tar of members with any kind and name, as an attacker would write it.
fn tar_of(members: &[(&str, tar::EntryType, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, kind, bytes) in members {
        let mut header = tar::Header::new_gnu();
        let raw = header.as_old_mut();
        raw.name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(*kind);
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        if kind.is_symlink() {
            header.set_link_name("/etc/passwd").unwrap();
        }
        header.set_cksum();
        archive.append(&header, *bytes).unwrap();
    }
    archive.into_inner().unwrap()
}

#[test]
fn hostile_archives_are_named_or_their_members_passed_over() {
    let page = page::encode(&[7; 192], 8).unwrap();
    let row = |id: &str, image: &str| {
        let talk = r#"[{"from":"human","value":"?"},{"from":"gpt","value":"!"}]"#;
        format!(r#"{{"id":"{id}","image":"{image}","conversations":{talk}}}"#)
    };
    let rows = [row("a", "a.png"), row("b", "../b.png"), row("c", "/c.png"), row("d", "link.png"), row("e", "a.png")];
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    fs::create_dir_all(&source).unwrap();
    storage::publish_file(&source.join("rows.jsonl"), rows.join("\n").as_bytes()).unwrap();
    let regular = tar::EntryType::Regular;
    let whole = tar_of(&[
        ("./a.png", regular, &page),
        ("../b.png", regular, &page),
        ("/c.png", regular, &page),
        ("link.png", tar::EntryType::Symlink, b""),
        ("a.png", regular, b"a second one of the name"),
    ]);
    let with = |max_bad_rows, out: &str| PrepareOptions { max_bad_rows, ..options(&[&source], &dir.path().join(out)) };
    storage::publish_file(&source.join("shard_1.tar"), &whole).unwrap();
    let (manifest, cost) = must(&with(3, "out"));
    let left_out: Vec<&str> = manifest.bad_rows.iter().map(|bad| bad.id.as_str()).collect();
    assert_eq!((manifest.rows, cost.pages, left_out.as_slice()), (2, 1, &["b", "c", "d"][..]));
    assert_eq!(open(&[&dir.path().join("out")]).ids().unwrap(), ["a", "e"]);
    for (i, bytes) in [&whole[..600], &[&whole[..512], &[0xff; 2048]].concat()].into_iter().enumerate() {
        storage::publish_file(&source.join("shard_1.tar"), bytes).unwrap();
        let refused = run(&with(9, &format!("damaged-{i}"))).unwrap_err().to_string();
        assert!(refused.contains("shard_1.tar"), "{refused}");
    }
}
