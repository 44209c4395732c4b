//! `rows.index` of a prepared folder: the small columns of all rows, for whoever looks at every one of them; and
//! `looks.index`: what their pages show, which only a comparison of splits asks for.
//! Neither holds a text or a page, and each is read only whole and unchanged.

use std::path::Path;
use std::sync::Arc;

use arrow_array::builder::FixedSizeBinaryBuilder;
use arrow_array::cast::AsArray;
use arrow_array::types::{ArrowPrimitiveType, UInt32Type, UInt64Type};
use arrow_array::{Array, ArrayRef, RecordBatch, StringArray, UInt32Array, UInt64Array};
use arrow_schema::{Field, Schema};
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::arrow::{ArrowWriter, ProjectionMask};
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::Result as ParquetResult;
use parquet::file::properties::WriterProperties;

use crate::manifest::FileHash;
use crate::perceptual::PageHash;
use crate::shard::{LOOK, PAGE, PageKey, SOURCE_ROW, TEXT_BYTES};
use crate::store::failed;
use crate::{Error, Result, Store, stored};

/// Its name. No `.parquet`, so that a pattern of shards does not take it for one.
pub(crate) const FILE: &str = "rows.index";
/// Name of the file of looks.
pub(crate) const LOOKS_FILE: &str = "looks.index";
/// Image path of a row.
pub(crate) const IMAGE_PATH: &str = "image_path";
/// Rows a row group.
const GROUP_ROWS: usize = 1 << 16;

/// The small columns of some rows.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    pub ids: Vec<String>,
    pub image_paths: Vec<Option<String>>,
    pub pages: Vec<PageKey>,
    pub looks: Vec<PageHash>,
    pub text_bytes: Vec<u32>,
    pub source_rows: Vec<u64>,
}

impl Rows {
    /// Takes over the rows of a batch of a shard, read with [`Rows::columns`].
    pub(crate) fn extend(&mut self, batch: &RecordBatch) -> Option<()> {
        let n = batch.num_rows();
        let ids = batch.column_by_name("id")?.as_string_opt::<i32>()?;
        let image = batch.column_by_name("image")?;
        let pages = batch.column_by_name(PAGE)?.as_fixed_size_binary_opt()?;
        self.ids.extend((0..n).map(|i| ids.value(i).to_owned()));
        self.image_paths
            .extend((0..n).map(|i| stored::path(image, i).filter(|path| !path.is_empty()).map(str::to_owned)));
        self.pages.extend((0..n).filter_map(|i| PageKey::try_from(pages.value(i)).ok()));
        let looks = batch.column_by_name(LOOK)?.as_fixed_size_binary_opt()?;
        self.looks.extend((0..n).filter_map(|i| looks.value(i).try_into().ok().map(PageHash::from_bytes)));
        self.text_bytes.extend(batch.column_by_name(TEXT_BYTES)?.as_primitive_opt::<UInt32Type>()?.values());
        self.source_rows.extend(batch.column_by_name(SOURCE_ROW)?.as_primitive_opt::<UInt64Type>()?.values());
        Some(())
    }

    /// Takes over other rows, behind those that are there.
    pub(crate) fn append(&mut self, mut other: Self) {
        self.ids.append(&mut other.ids);
        self.image_paths.append(&mut other.image_paths);
        self.pages.append(&mut other.pages);
        self.looks.append(&mut other.looks);
        self.text_bytes.append(&mut other.text_bytes);
        self.source_rows.append(&mut other.source_rows);
    }

    /// The columns of a shard that the two files hold.
    pub(crate) const COLUMNS: [&'static str; 6] = ["id", "image.path", PAGE, LOOK, TEXT_BYTES, SOURCE_ROW];
}

/// The bytes of `rows.index`.
pub(crate) fn encode(rows: &Rows) -> ParquetResult<Vec<u8>> {
    write(vec![
        ("id", Arc::new(StringArray::from_iter_values(&rows.ids))),
        (IMAGE_PATH, Arc::new(StringArray::from_iter(&rows.image_paths))),
        (PAGE, fixed(&rows.pages)?),
        (TEXT_BYTES, Arc::new(UInt32Array::from_iter_values(rows.text_bytes.iter().copied()))),
        (SOURCE_ROW, Arc::new(UInt64Array::from_iter_values(rows.source_rows.iter().copied()))),
    ])
}

/// The bytes of `looks.index`.
pub(crate) fn encode_looks(rows: &Rows) -> ParquetResult<Vec<u8>> {
    let looks: Vec<[u8; 32]> = rows.looks.iter().map(|look| look.to_bytes()).collect();
    write(vec![(LOOK, fixed(&looks)?)])
}

fn fixed<const N: usize>(values: &[[u8; N]]) -> ParquetResult<ArrayRef> {
    let mut column = FixedSizeBinaryBuilder::with_capacity(values.len(), N as i32);
    values.iter().try_for_each(|value| column.append_value(value))?;
    Ok(Arc::new(column.finish()))
}

fn write(columns: Vec<(&str, ArrayRef)>) -> ParquetResult<Vec<u8>> {
    let field = |(name, column): &(&str, ArrayRef)| Field::new(*name, column.data_type().clone(), true);
    let schema = Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<Field>>()));
    let batch = RecordBatch::try_new(schema.clone(), columns.into_iter().map(|(_, column)| column).collect())?;
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?))
        .set_dictionary_enabled(false)
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        .build();
    let mut writer = ArrowWriter::try_new(Vec::new(), schema, Some(properties))?;
    writer.write(&batch)?;
    writer.into_inner()
}

/// One of the files, if it is the one which its manifest knows; all of it is read and hashed, a few tens of MB for a
/// million rows.
#[derive(Debug)]
pub(crate) struct Index {
    bytes: Bytes,
    file: Arc<Path>,
    n_rows: usize,
}

impl Index {
    pub(crate) fn open(store: &dyn Store, folder: &Path, known: &FileHash, n_rows: usize) -> Result<Self> {
        let file = folder.join(&known.file);
        let wrong = |reason: String| Error::Shard { file: file.clone(), reason };
        let read = || -> Result<Bytes> {
            let opened = store.open(&file).map_err(|e| failed(&file, &e, wrong))?;
            if opened.size() != known.bytes {
                return Err(wrong(format!("has {} bytes, the manifest says {}", opened.size(), known.bytes)));
            }
            opened.read(0, known.bytes as usize).map_err(|e| failed(&file, &e, wrong))
        };
        let is_whole = |bytes: &Bytes| *blake3::hash(bytes).to_hex() == *known.blake3;
        let mut bytes = read()?;
        if !is_whole(&bytes) && store.forget(&file) {
            bytes = read()?;
        }
        match is_whole(&bytes) {
            true => Ok(Self { bytes, file: file.as_path().into(), n_rows }),
            false => Err(wrong("is not the file that was written".into())),
        }
    }

    /// One column, batch by batch; `take` says whether it is of the expected type.
    fn scan(&self, column: &str, take: &mut dyn FnMut(&dyn Array) -> Option<()>) -> Result<()> {
        let wrong = |reason: String| Error::Shard { file: self.file.to_path_buf(), reason };
        let builder = ParquetRecordBatchReaderBuilder::try_new(self.bytes.clone());
        let builder = builder.map_err(|e| wrong(e.to_string()))?;
        let only = ProjectionMask::columns(builder.parquet_schema(), [column]);
        let reader = builder.with_projection(only).with_batch_size(GROUP_ROWS).build();
        let mut n_rows = 0;
        for batch in reader.map_err(|e| wrong(e.to_string()))? {
            let batch = batch.map_err(|e| wrong(e.to_string()))?;
            n_rows += batch.num_rows();
            let taken = batch.columns().first().and_then(|column| take(column));
            taken.ok_or_else(|| wrong(format!("its column {column} has another type")))?;
        }
        match n_rows == self.n_rows {
            true => Ok(()),
            false => Err(wrong(format!("has {n_rows} rows, the manifest says {}", self.n_rows))),
        }
    }

    pub(crate) fn pages(&self) -> Result<Vec<PageKey>> {
        self.fixed(PAGE)
    }

    pub(crate) fn looks(&self) -> Result<Vec<PageHash>> {
        Ok(self.fixed(LOOK)?.into_iter().map(PageHash::from_bytes).collect())
    }

    fn fixed<const N: usize>(&self, name: &str) -> Result<Vec<[u8; N]>> {
        let mut all = Vec::with_capacity(self.n_rows);
        self.scan(name, &mut |column| {
            let column = column.as_fixed_size_binary_opt()?;
            for i in 0..column.len() {
                all.push(column.value(i).try_into().ok()?);
            }
            Some(())
        })?;
        Ok(all)
    }

    pub(crate) fn text_bytes(&self) -> Result<Vec<u32>> {
        self.numbers::<UInt32Type>(TEXT_BYTES)
    }

    pub(crate) fn source_rows(&self) -> Result<Vec<u64>> {
        self.numbers::<UInt64Type>(SOURCE_ROW)
    }

    fn numbers<T: ArrowPrimitiveType>(&self, name: &str) -> Result<Vec<T::Native>> {
        let mut all = Vec::with_capacity(self.n_rows);
        self.scan(name, &mut |column| {
            all.extend(column.as_primitive_opt::<T>()?.values());
            Some(())
        })?;
        Ok(all)
    }

    pub(crate) fn texts(&self, column: &str, each: &mut dyn FnMut(usize, Option<&str>)) -> Result<()> {
        let mut first = 0;
        self.scan(column, &mut |texts| {
            let texts = texts.as_string_opt::<i32>()?;
            (0..texts.len()).for_each(|i| each(first + i, texts.is_valid(i).then(|| texts.value(i))));
            first += texts.len();
            Some(())
        })
    }
}
