use proptest::prelude::*;

use super::*;

fn manifest() -> Manifest {
    let source = Origin {
        kind: "parquet".into(),
        paths: vec!["train-*.parquet".into()],
        include: String::new(),
        revision: None,
        fingerprint: "0".into(),
    };
    let shard = |i: usize| Shard {
        file: format!("part-{i:05}.parquet"),
        rows: 3,
        bytes: 1000,
        blake3: "1".into(),
        footer_bytes: 100,
        footer_blake3: "2".into(),
    };
    let bad = BadRow { file: "a.parquet".into(), row: 7, id: "x".into(), reason: "there is no image: null".into() };
    Manifest {
        rows: 6,
        shards: vec![shard(0), shard(1)],
        bad_rows: vec![bad],
        index: Some(FileHash { file: "rows.index".into(), bytes: 9, blake3: "3".into() }),
        ..Manifest::new(source, StoredPages::Resized(896), true)
    }
}

#[test]
fn a_manifest_reads_back_as_it_was_written() {
    let manifest = manifest();
    assert_eq!(Manifest::parse(&manifest.to_json()).unwrap(), manifest);
}

#[test]
fn a_manifest_that_lies_is_refused() {
    let check = |from: &str, to: &str, said: &str| {
        let text = String::from_utf8(manifest().to_json()).unwrap();
        assert!(text.contains(from), "{from}");
        let refused = Manifest::parse(text.replacen(from, to, 1).as_bytes()).unwrap_err();
        assert!(refused.contains(said), "{refused}");
    };
    check("\"version\": 1", "\"version\": 2", "version 2");
    check("ecg-train prepared rows", "something else", "something else");
    check("part-00001.parquet", "../part-00001.parquet", "no name of a file");
    check("part-00001.parquet", "/etc/passwd", "no name of a file");
    check("rows.index", "..", "no name of a file");
    check("\"rows\": 6", "\"rows\": 7", "7 rows");
    check("\"rows\": 3", "\"rows\": 18446744073709551615", "6 rows");
    check("\"bytes\": 1000", "\"bytes\": 2", "6 rows");
    check("\"footer_bytes\": 100", "\"footer_bytes\": 1001", "6 rows");
    check("\"resized\": 896", "\"resized\": 0", "0 pixels");
    check("\"rows\": 6", "\"rwos\": 6", "unknown field");
}

proptest! {
    #[test]
    fn no_bytes_make_reading_a_manifest_panic(at: prop::sample::Index, byte: u8) {
        let mut bytes = manifest().to_json();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = Manifest::parse(&bytes);
    }
}
