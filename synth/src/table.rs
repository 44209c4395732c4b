//! Rows as the bytes of a parquet file in the layout of ECGInstruct and ECGBench, which `datasets` reads as pictures.
//! It knows the columns and nothing of what is asked, and it never writes a file itself.

use std::sync::Arc;

use arrow_array::{ArrayRef, BinaryArray, ListArray, RecordBatch, StringArray, StructArray};
use arrow_buffer::OffsetBuffer;
use arrow_schema::{DataType, Field, Fields, Schema};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;

/// As many as `datasets` puts in a row group of pictures.
const ROWS_PER_GROUP: usize = 100;
const IMAGE_MARKER: &str = "<image>\n";

/// A page as a PNG file.
pub(crate) struct Page {
    /// Where it would lie in a folder of pages.
    pub path: String,
    /// The file's bytes.
    pub png: Vec<u8>,
}

/// One row: a page and what is said about it.
pub(crate) struct Row<'a> {
    pub id: String,
    pub page: &'a Page,
    /// Question and answer of each turn; the first question gets the marker of the page.
    pub turns: Vec<(&'static str, &'static str)>,
}

/// Encodes `rows` in their order.
pub(crate) fn encode(rows: &[Row<'_>]) -> Result<Vec<u8>, ParquetError> {
    let schema = Arc::new(schema());
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_max_row_group_row_count(Some(ROWS_PER_GROUP))
        .build();
    let mut file = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut file, Arc::clone(&schema), Some(properties))?;
    for group in rows.chunks(ROWS_PER_GROUP) {
        writer.write(&RecordBatch::try_new(Arc::clone(&schema), columns(group))?)?;
    }
    writer.close()?;
    Ok(file)
}

fn schema() -> Schema {
    let value = |dtype: &str| serde_json::json!({"dtype": dtype, "_type": "Value"});
    let features = serde_json::json!({
        "id": value("string"),
        "image_path": value("string"),
        "image": {"_type": "Image"},
        "conversations": [{"from": value("string"), "value": value("string")}],
    });
    let metadata = serde_json::json!({"info": {"features": features}}).to_string();
    let fields = vec![
        Field::new("id", DataType::Utf8, true),
        Field::new("image_path", DataType::Utf8, true),
        Field::new("image", DataType::Struct(image_fields()), true),
        Field::new("conversations", DataType::List(turn_field()), true),
    ];
    Schema::new(fields).with_metadata([("huggingface".to_owned(), metadata)])
}

fn image_fields() -> Fields {
    vec![Field::new("bytes", DataType::Binary, true), Field::new("path", DataType::Utf8, true)].into()
}

fn turn_fields() -> Fields {
    vec![Field::new("from", DataType::Utf8, true), Field::new("value", DataType::Utf8, true)].into()
}

fn turn_field() -> Arc<Field> {
    Arc::new(Field::new_list_field(DataType::Struct(turn_fields()), true))
}

fn columns(rows: &[Row<'_>]) -> Vec<ArrayRef> {
    let strings = |values: Vec<&str>| Arc::new(StringArray::from_iter_values(values)) as ArrayRef;
    let paths = strings(rows.iter().map(|row| row.page.path.as_str()).collect());
    let pages = Arc::new(BinaryArray::from_iter_values(rows.iter().map(|row| row.page.png.as_slice())));
    let (mut from, mut value) = (Vec::new(), Vec::new());
    for row in rows {
        for (turn, (question, answer)) in row.turns.iter().enumerate() {
            let marker = if turn == 0 { IMAGE_MARKER } else { "" };
            from.extend(["human", "gpt"]);
            value.extend([format!("{marker}{question}"), (*answer).to_owned()]);
        }
    }
    let turns = StructArray::new(turn_fields(), vec![strings(from), Arc::new(StringArray::from(value))], None);
    let lengths = OffsetBuffer::from_lengths(rows.iter().map(|row| 2 * row.turns.len()));
    vec![
        strings(rows.iter().map(|row| row.id.as_str()).collect()),
        Arc::clone(&paths),
        Arc::new(StructArray::new(image_fields(), vec![pages, paths], None)),
        Arc::new(ListArray::new(turn_field(), lengths, Arc::new(turns), None)),
    ]
}
