//! One shard of a prepared folder: parquet in which a random row costs reading about that row, and proves that it is whole.
//! It never holds more than one row group; what a column is for is said here and nowhere else.

use std::io::{self, Write};
use std::sync::{Arc, LazyLock};

use arrow_array::builder::FixedSizeBinaryBuilder;
use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, BinaryArray, RecordBatch, StringArray, StructArray, UInt32Array, UInt64Array};
use arrow_schema::{DataType, Field, Fields, Schema};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::Result as ParquetResult;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use crate::manifest::Shard;
use crate::perceptual::PageHash;
use crate::row::{RawRow, Role, Turn};
use crate::turns;

/// 16 bytes that all of a row, its shard and its place in it have to agree with.
pub(crate) const CHECK: &str = "check";
/// First 16 bytes of blake3 of the page as the source has it: equal pages have equal keys.
pub(crate) const PAGE: &str = "page";
/// [`PageHash`] of the page as the source has it: what it shows.
pub(crate) const LOOK: &str = "look";
/// Bytes of all texts of a row.
pub(crate) const TEXT_BYTES: &str = "text_bytes";
/// Row of the source, counted over all its files.
pub(crate) const SOURCE_ROW: &str = "source_row";

/// A parquet data page is closed once it has so many bytes: a page image has one of its own, texts share one.
const PAGE_BYTES: usize = 32 << 10;
/// What a writer keeps in memory before it goes to the file.
const GROUP_BYTES: usize = 32 << 20;

/// Key of a page: see [`PAGE`].
pub type PageKey = [u8; 16];

/// A row as a shard stores it.
#[derive(Debug)]
pub(crate) struct ShardRow {
    pub id: String,
    pub image_path: Option<String>,
    /// The page as it is stored, and blake3 of it.
    pub image: Bytes,
    pub image_hash: blake3::Hash,
    pub turns: Vec<Turn>,
    pub page: PageKey,
    pub look: PageHash,
    pub source_row: u64,
}

/// The key of a page by the hash of its encoded bytes.
pub(crate) fn page_key(hash: &blake3::Hash) -> PageKey {
    first_16(hash)
}

fn first_16(hash: &blake3::Hash) -> [u8; 16] {
    let mut first = [0; 16];
    first.copy_from_slice(&hash.as_bytes()[..16]);
    first
}

static SCHEMA: LazyLock<Arc<Schema>> = LazyLock::new(|| {
    let field = |name: &str, kind: DataType, nullable| Field::new(name, kind, nullable);
    Arc::new(Schema::new(vec![
        field("id", DataType::Utf8, false),
        field("image", DataType::Struct(image_fields()), false),
        field("conversations", DataType::Utf8, false),
        field(PAGE, DataType::FixedSizeBinary(16), false),
        field(LOOK, DataType::FixedSizeBinary(32), false),
        field(TEXT_BYTES, DataType::UInt32, false),
        field(SOURCE_ROW, DataType::UInt64, false),
        field(CHECK, DataType::FixedSizeBinary(16), false),
    ]))
});

fn image_fields() -> Fields {
    vec![Field::new("bytes", DataType::Binary, false), Field::new("path", DataType::Utf8, false)].into()
}

/// Writes one shard; what has been written is hashed on the way.
pub(crate) struct ShardWriter<W: Write + Send> {
    writer: ArrowWriter<Hashed<W>>,
    file: String,
    rows: u64,
    /// Of rows in the group that is not written yet.
    group_bytes: usize,
}

impl<W: Write + Send> ShardWriter<W> {
    /// Begins the shard that will be called `file`.
    pub(crate) fn new(out: W, file: String) -> ParquetResult<Self> {
        let out = Hashed { out, bytes: 0, all: blake3::Hasher::new(), footer: None };
        let writer = ArrowWriter::try_new(out, SCHEMA.clone(), Some(properties()?))?;
        Ok(Self { writer, file, rows: 0, group_bytes: 0 })
    }

    /// About how many bytes the file has.
    pub(crate) fn bytes(&self) -> u64 {
        self.writer.bytes_written() as u64 + self.group_bytes as u64
    }

    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }

    pub(crate) fn push(&mut self, row: &ShardRow) -> ParquetResult<()> {
        let check = check(row, &self.file, self.rows);
        self.writer.write(&batch(row, check)?)?;
        self.rows += 1;
        self.group_bytes += row.image.len() + turns::text_bytes(&row.turns) as usize;
        if self.group_bytes >= GROUP_BYTES {
            self.writer.flush()?;
            self.group_bytes = 0;
        }
        Ok(())
    }

    /// Ends the file; what the manifest says of it, and where it was written to.
    pub(crate) fn finish(mut self) -> ParquetResult<(Shard, W)> {
        self.writer.flush()?;
        self.writer.sync()?;
        self.writer.inner_mut().footer = Some((0, blake3::Hasher::new()));
        let Hashed { out, bytes, all, footer } = self.writer.into_inner()?;
        let (footer_bytes, footer) = footer.unwrap_or_default();
        let shard = Shard {
            file: self.file,
            rows: self.rows,
            bytes,
            blake3: all.finalize().to_hex().to_string(),
            footer_bytes,
            footer_blake3: footer.finalize().to_hex().to_string(),
        };
        Ok((shard, out))
    }
}

/// Pages of images are stored as they are, which PNG and JPEG cannot be made smaller than; texts are compressed.
/// No column has a dictionary, which a row would cost reading, nor nulls or lists: their levels, when damaged, can keep
/// parquet's reader in a loop for ever. So turns are JSON text, and a row without an image path has an empty one.
fn properties() -> ParquetResult<WriterProperties> {
    let images = ColumnPath::from(vec!["image".to_owned(), "bytes".to_owned()]);
    Ok(WriterProperties::builder()
        .set_created_by(concat!("ecg-train ", env!("CARGO_PKG_VERSION")).into())
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?))
        .set_column_compression(images, Compression::UNCOMPRESSED)
        .set_column_compression(ColumnPath::from(PAGE), Compression::UNCOMPRESSED)
        .set_column_compression(ColumnPath::from(LOOK), Compression::UNCOMPRESSED)
        .set_column_compression(ColumnPath::from(CHECK), Compression::UNCOMPRESSED)
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_data_page_size_limit(PAGE_BYTES)
        .set_max_row_group_row_count(None)
        .build())
}

fn batch(row: &ShardRow, check: [u8; 16]) -> ParquetResult<RecordBatch> {
    let fixed = |bytes: &[u8]| -> ParquetResult<ArrayRef> {
        let mut column = FixedSizeBinaryBuilder::new(bytes.len() as i32);
        column.append_value(bytes)?;
        Ok(Arc::new(column.finish()))
    };
    let turn = |turn: &Turn| serde_json::json!({ "from": name(turn.role), "value": turn.text });
    let turns = serde_json::Value::from_iter(row.turns.iter().map(turn)).to_string();
    let image: Vec<ArrayRef> = vec![
        Arc::new(BinaryArray::from_iter_values([&row.image])),
        Arc::new(StringArray::from_iter_values([row.image_path.as_deref().unwrap_or_default()])),
    ];
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values([&row.id])),
        Arc::new(StructArray::new(image_fields(), image, None)),
        Arc::new(StringArray::from_iter_values([turns])),
        fixed(&row.page)?,
        fixed(&row.look.to_bytes())?,
        Arc::new(UInt32Array::from_iter_values([turns::text_bytes(&row.turns)])),
        Arc::new(UInt64Array::from_iter_values([row.source_row])),
        fixed(&check)?,
    ];
    Ok(RecordBatch::try_new(SCHEMA.clone(), columns)?)
}

fn name(role: Role) -> &'static str {
    match role {
        Role::System => "system",
        Role::User => "human",
        Role::Assistant => "gpt",
    }
}

fn check(row: &ShardRow, file: &str, row_in_file: u64) -> [u8; 16] {
    digest(file, row_in_file, &row.id, row.image_path.as_deref(), &row.turns, &row.image_hash)
}

/// Whether a row read from row `found.place.row` of the shard `file` is the one that was written there.
pub(crate) fn is_whole(found: &RawRow, file: &str, batch: &RecordBatch) -> bool {
    let hash = blake3::hash(&found.image);
    let expected = digest(file, found.place.row, &found.id, found.image_path.as_deref(), &found.turns, &hash);
    let check = batch.column_by_name(CHECK).and_then(|column| column.as_fixed_size_binary_opt());
    check.is_some_and(|check| check.is_valid(0) && check.value(0) == expected)
}

/// Every part with its length before it, so that nothing can move from one part to the next.
fn digest(file: &str, row: u64, id: &str, path: Option<&str>, turns: &[Turn], image: &blake3::Hash) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    let mut part = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
    };
    part(file.as_bytes());
    part(&row.to_le_bytes());
    part(id.as_bytes());
    path.into_iter().for_each(|path| part(path.as_bytes()));
    for Turn { role, text } in turns {
        part(name(*role).as_bytes());
        part(text.as_bytes());
    }
    part(image.as_bytes());
    first_16(&hasher.finalize())
}

/// A writer that hashes what goes through it, and from some point on also apart.
struct Hashed<W> {
    out: W,
    bytes: u64,
    all: blake3::Hasher,
    footer: Option<(u64, blake3::Hasher)>,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.out.write(bytes)?;
        self.bytes += n as u64;
        self.all.update(&bytes[..n]);
        if let Some((footer_bytes, footer)) = &mut self.footer {
            *footer_bytes += n as u64;
            footer.update(&bytes[..n]);
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
