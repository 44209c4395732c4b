use std::fs::File;
use std::io::Write;
use std::sync::Arc;

use arrow_array::builder::{ListBuilder, StringBuilder, StructBuilder};
use arrow_array::{Array, ArrayRef, BinaryArray, RecordBatch, StringArray, StructArray};
use arrow_schema::{DataType, Field, Schema};
use parquet::arrow::ArrowWriter;
use parquet::file::metadata::ParquetMetaDataReader;
use parquet::file::properties::WriterProperties;

use super::*;
use crate::row::{Part, Role};
use crate::{Fault, PageError, fixtures, page};

/// A parquet file of small rows in the usual columns, `per_group` rows a row group; row i has the bytes [i, i, ...].
pub(crate) fn write(path: &Path, ids: &[&str], per_group: usize, bytes_a_row: usize) {
    let pages: Vec<Vec<u8>> = (0..ids.len()).map(|i| vec![i as u8 + 1; bytes_a_row]).collect();
    write_pages(path, ids, per_group, &pages);
}

/// The same with given pages.
pub(crate) fn write_pages(path: &Path, ids: &[&str], per_group: usize, pages: &[Vec<u8>]) {
    let image_path: ArrayRef = Arc::new(StringArray::from_iter_values(ids.iter().map(|id| format!("pages/{id}.png"))));
    let talk = |id: &&str| format!(r#"[{{"from":"human","value":"{id}?"}},{{"from":"gpt","value":"{id}."}}]"#);
    write_columns(
        path,
        per_group,
        vec![
            ("id", Arc::new(StringArray::from(ids.to_vec()))),
            ("image_path", image_path),
            ("image", Arc::new(BinaryArray::from_iter_values(pages))),
            ("conversations", Arc::new(StringArray::from_iter_values(ids.iter().map(talk)))),
        ],
    );
}

fn write_columns(path: &Path, per_group: usize, columns: Vec<(&str, ArrayRef)>) {
    let fields = columns.iter().map(|(name, column)| Field::new(*name, column.data_type().clone(), true));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let batch = RecordBatch::try_new(schema.clone(), columns.into_iter().map(|(_, column)| column).collect()).unwrap();
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(per_group)).build();
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), schema, Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

fn open(files: &[PathBuf], include: &str) -> Result<Dataset> {
    Dataset::open(&Sources {
        files: files.to_vec(),
        image_folder: None,
        include: include.into(),
        keep_image_marker: false,
    })
}

fn answer(row: &Row) -> &Part {
    row.messages.last().unwrap().parts.last().unwrap()
}

#[test]
fn every_row_is_reached_by_its_index_whatever_file_and_row_group_it_lies_in() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a.parquet"), dir.path().join("b.parquet"));
    write(&a, &["r0", "r1", "r2", "r3", "r4"], 2, 3);
    write(&b, &["r5", "r6"], 1, 3);
    let by_list = [b.clone(), a.clone()];
    for (files, ids) in [
        (vec![dir.path().to_owned()], ["r0", "r1", "r2", "r3", "r4", "r5", "r6"]),
        (vec![dir.path().join("*.parquet")], ["r0", "r1", "r2", "r3", "r4", "r5", "r6"]),
        (by_list.to_vec(), ["r5", "r6", "r0", "r1", "r2", "r3", "r4"]),
    ] {
        let data = open(&files, "").unwrap();
        assert_eq!(data.len(), ids.len());
        for (i, id) in ids.iter().enumerate().rev() {
            let row = data.row(i).unwrap();
            assert_eq!(row.id, *id);
            assert_eq!(data.row_id(i).unwrap(), *id);
            assert_eq!(row.image, vec![row.place.row as u8 + 1; 3]);
            assert_eq!(*answer(&row), Part::Text(format!("{id}.")));
        }
        assert!(matches!(data.row(ids.len()), Err(Error::OutOfRange { row: 7, n_rows: 7 })));
    }
    let place = open(&by_list, "").unwrap().row(5).unwrap().place;
    assert_eq!((&*place.file, place.row_group, place.row), (&*a, 1, 3));
}

#[test]
fn include_keeps_the_rows_whose_image_path_holds_it() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("a.parquet"), &["ptb-1", "mimic-1", "ptb-2"], 2, 3);
    write(&dir.path().join("b.parquet"), &["mimic-2", "ptb-3"], 9, 3);
    let data = open(&[dir.path().to_owned()], "pages/ptb").unwrap();
    let ids: Vec<String> = (0..data.len()).map(|i| data.row(i).unwrap().id).collect();
    assert_eq!(ids, ["ptb-1", "ptb-2", "ptb-3"]);
    assert!(matches!(open(&[dir.path().to_owned()], "code15"), Err(Error::NothingIncluded { .. })));
}

#[test]
fn a_row_without_id_is_called_by_file_and_row() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.parquet");
    let talk = r#"[{"question":"a","answer":"b"}]"#;
    let columns = |id: ArrayRef| -> Vec<(&str, ArrayRef)> {
        vec![
            ("id", id),
            ("image", Arc::new(BinaryArray::from_iter_values([b"x", b"y"]))),
            ("conversations", Arc::new(StringArray::from_iter_values([talk, talk]))),
        ]
    };
    write_columns(&path, 9, columns(Arc::new(StringArray::from(vec![None, Some("named")]))));
    let data = open(std::slice::from_ref(&path), "").unwrap();
    assert_eq!(data.row(0).unwrap().id, format!("{}:0", path.display()));
    assert_eq!(data.row(1).unwrap().id, "named");
    write_columns(&path, 9, columns(Arc::new(arrow_array::Int64Array::from(vec![17, 18]))));
    assert_eq!(open(std::slice::from_ref(&path), "").unwrap().row_id(1).unwrap(), "18");
    write_columns(&path, 9, columns(Arc::new(StringArray::from(vec!["a", "b"]))).split_off(1));
    assert_eq!(open(std::slice::from_ref(&path), "").unwrap().row_id(1).unwrap(), format!("{}:1", path.display()));
}

#[test]
fn a_page_path_is_followed_only_inside_the_data_sets_folder() {
    let dir = tempfile::tempdir().unwrap();
    let set = dir.path().join("set");
    std::fs::create_dir_all(set.join("images")).unwrap();
    storage::publish_file(&set.join("images/in.png"), b"page").unwrap();
    storage::publish_file(&dir.path().join("out.png"), b"secret").unwrap();
    std::os::unix::fs::symlink(dir.path().join("out.png"), set.join("link.png")).unwrap();
    let outside = dir.path().join("out.png").display().to_string();
    let paths = ["in.png", "images/in.png", "absent.png", "../out.png", "images/../../out.png", &outside, "link.png"];
    let talk = r#"[{"question":"a","answer":"b"}]"#;
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("image", Arc::new(StringArray::from(paths.to_vec()))),
        ("messages", Arc::new(StringArray::from(vec![talk; paths.len()]))),
    ];
    write_columns(&set.join("a.parquet"), 9, columns);
    let data = open(&[set], "").unwrap();
    for (i, path) in paths.iter().enumerate() {
        match data.row(i) {
            Ok(row) => assert!(i < 2 && row.image == b"page", "{path}"),
            Err(Error::Row { fault: Fault::NoImage(_), row, .. }) => assert!(i >= 2 && row == i as u64, "{path}"),
            Err(other) => panic!("{path}: {other}"),
        }
    }
    assert_eq!(open(&[dir.path().join("set")], "in.png").unwrap().len(), 2);
}

#[test]
fn a_file_that_is_no_data_set_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let check = |file: &str, bytes: &[u8], reason: &str| {
        let path = dir.path().join(file);
        storage::publish_file(&path, bytes).unwrap();
        let refused = open(&[path], "").err().unwrap().to_string();
        assert!(refused.contains(file) && refused.contains(reason), "{refused}");
    };
    check("empty.parquet", b"", "parquet");
    check("text.parquet", b"<html>404, not found</html>", "parquet");
    let whole = dir.path().join("whole.parquet");
    write(&whole, &["a", "b"], 1, 3);
    let bytes = std::fs::read(&whole).unwrap();
    check("cut.parquet", &bytes[..bytes.len() / 2], "parquet");
    let strange: Vec<(&str, ArrayRef)> = vec![("image", Arc::new(StringArray::from(vec!["x"])))];
    write_columns(&whole, 1, strange);
    assert!(open(&[whole], "").err().unwrap().to_string().contains("conversations"));
    for absent in ["absent.parquet", "*.arrow", "absent/*.parquet"] {
        let refused = open(&[dir.path().join(absent)], "").err().unwrap();
        assert!(matches!(refused, Error::NoFile { .. }), "{refused}");
    }
}

#[test]
fn damage_is_an_error_that_names_the_row_and_never_a_panic() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.parquet");
    write(&path, &["a", "b", "c", "d"], 2, 40);
    let good = std::fs::read(&path).unwrap();
    let mut seen = 0;
    for at in (0..good.len()).step_by(3) {
        let mut bytes = good.clone();
        bytes[at] ^= 0x5a;
        File::create(&path).unwrap().write_all(&bytes).unwrap();
        let Ok(data) = open(std::slice::from_ref(&path), "") else { continue };
        for row in 0..data.len() {
            match data.row(row) {
                Ok(_) | Err(Error::Row { .. }) => {}
                Err(Error::Damaged { file, row: at, .. }) => {
                    seen += 1;
                    assert_eq!((&*file, at), (&*path, row as u64));
                }
                Err(other) => panic!("{other}"),
            }
        }
    }
    assert!(seen > 50, "{seen}");
}

/// parquet's `skip_records` makes no progress on repetition levels that end too early, and then never ends.
#[test]
fn damaged_list_levels_are_an_error_and_not_an_endless_loop() {
    let ids: Vec<String> = (0..40).map(|i| i.to_string()).collect();
    let fields = vec![Field::new("from", DataType::Utf8, true), Field::new("value", DataType::Utf8, true)];
    let mut turns = ListBuilder::new(StructBuilder::from_fields(fields, 0));
    for id in &ids {
        for (from, value) in [("human", format!("{id}?")), ("gpt", format!("{id}."))] {
            for (i, text) in [from, value.as_str()].into_iter().enumerate() {
                turns.values().field_builder::<StringBuilder>(i).unwrap().append_value(text);
            }
            turns.values().append(true);
        }
        turns.append(true);
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rows.parquet");
    let pages: ArrayRef = Arc::new(BinaryArray::from_iter_values(ids.iter().map(String::as_bytes)));
    write_columns(&path, ids.len(), vec![("image", pages), ("conversations", Arc::new(turns.finish()))]);
    let sound = std::fs::read(&path).unwrap();
    let metadata = ParquetMetaDataReader::new().parse_and_finish(&File::open(&path).unwrap()).unwrap();
    let range = |column: &parquet::file::metadata::ColumnChunkMetaData| {
        let (start, length) = column.byte_range();
        start as usize..(start + length) as usize
    };
    let chunks: Vec<_> = metadata.row_group(0).columns()[1..].iter().flat_map(range).collect();

    let (ended, all_ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for at in chunks {
            let mut damaged = sound.clone();
            damaged[at] = 0;
            File::create(&path).unwrap().write_all(&damaged).unwrap();
            let _ = open(std::slice::from_ref(&path), "").and_then(|data| data.row(39));
        }
        ended.send(()).unwrap();
    });
    all_ended.recv_timeout(std::time::Duration::from_secs(120)).expect("every row ends, as a row or as an error");
}

#[test]
fn every_column_layout_gives_the_same_two_rows() {
    let Some(folder) = fixtures::mini("variants") else { return };
    let mut expected: Option<Vec<Row>> = None;
    let mut n_files = 0;
    for file in expand(&folder).unwrap().into_iter().filter(|f| !f.ends_with("image_encodings.parquet")) {
        let data = open(std::slice::from_ref(&file), "").unwrap();
        let rows: Vec<Row> = (0..data.len()).map(|i| data.row(i).unwrap()).collect();
        let expected = expected.get_or_insert_with(|| rows.clone());
        assert_eq!(rows.len(), 2, "{}", file.display());
        for (row, expected) in rows.iter().zip(expected) {
            assert_eq!((&row.id, &row.messages), (&expected.id, &expected.messages), "{}", file.display());
            assert!(row.image == expected.image, "{}", file.display());
        }
        n_files += 1;
    }
    assert_eq!(n_files, 9);
}

#[test]
fn every_fault_of_the_mini_data_set_is_named_with_its_row() {
    let Some(folder) = fixtures::mini("faults") else { return };
    let data = open(&[folder], "").unwrap();
    let outcome = |i: usize| match data.row(i) {
        Ok(row) => (row.id.clone(), page(&row.image, 56).err().map(Fault::Page)),
        Err(Error::Row { id, row, fault, .. }) => {
            assert_eq!(row, i as u64);
            (id, Some(fault))
        }
        Err(other) => panic!("{other}"),
    };
    let damaged = |fault: &Fault| matches!(fault, Fault::Page(PageError::Damaged { .. }));
    for i in 0..data.len() {
        let (id, fault) = outcome(i);
        let right = match (id.as_str(), &fault) {
            // Rows that are good, or good once their markers are taken out; their text is judged by the template.
            ("ok" | "no_image_token" | "two_image_tokens" | "image_token_in_answer", None) => true,
            ("special_token_in_text" | "longer_than_2048_tokens", None) => true,
            ("image_null" | "bytes_null" | "bytes_empty", Some(Fault::NoImage(_))) => true,
            ("png_truncated" | "png_bit_flip", Some(fault)) => damaged(fault),
            ("not_an_image", Some(Fault::Page(PageError::Format))) => true,
            ("png_30000x30000", Some(Fault::Page(PageError::Size { .. }))) => true,
            ("no_turns", Some(Fault::NoTurns)) | ("no_answer", Some(Fault::NoAnswer)) => true,
            ("starts_with_gpt", Some(Fault::Order(0))) | ("empty_answer", Some(Fault::EmptyAnswer(1))) => true,
            ("unknown_role", Some(Fault::UnknownRole(0))) => true,
            _ => false,
        };
        assert!(right, "{id}: {fault:?}");
    }
    assert_eq!(data.len(), 18);
}

#[test]
fn real_rows_lie_where_the_footers_say() {
    let Some(train) = fixtures::mini("train") else { return };
    let data = open(&[train], "").unwrap();
    assert_eq!(data.len(), 113);
    for i in [0, 52, 53, 57, 58, 70, 71, 112] {
        let row = data.row(i).unwrap();
        assert!(page(&row.image, 56).is_ok(), "{}", row.id);
        assert_eq!(row.messages.last().unwrap().role, Role::Assistant);
        assert_eq!(data.row_id(i).unwrap(), row.id);
    }
}

/// A struct column as `datasets` writes images, with a null page and a null struct.
#[test]
fn a_null_page_is_a_fault_of_its_row() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.parquet");
    let bytes: ArrayRef = Arc::new(BinaryArray::from(vec![Some(&b"x"[..]), None]));
    let paths: ArrayRef = Arc::new(StringArray::from(vec![None::<&str>, None]));
    let field = |name: &str, column: &ArrayRef| Arc::new(Field::new(name, column.data_type().clone(), true));
    let image = StructArray::from(vec![(field("bytes", &bytes), bytes), (field("path", &paths), paths)]);
    let talk = r#"[{"question":"a","answer":"b"}]"#;
    let columns: Vec<(&str, ArrayRef)> =
        vec![("image", Arc::new(image)), ("conversations", Arc::new(StringArray::from(vec![talk, talk])))];
    write_columns(&path, 9, columns);
    let data = open(&[path], "").unwrap();
    assert_eq!(data.row(0).unwrap().image, b"x");
    assert!(matches!(data.row(1), Err(Error::Row { fault: Fault::NoImage("null"), row: 1, .. })));
}
