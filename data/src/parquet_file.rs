//! One parquet file as rows by index: (row group, row) from the footer, so that any row is one small read.
//! It never holds a page longer than it takes to hand it out, and never lets a damaged file take the process down.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use arrow_array::RecordBatch;
use arrow_schema::DataType;
use bytes::Bytes;
use crossbeam_channel::bounded;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection, RowSelector,
};
use parquet::errors::ParquetError;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaDataReader};

use crate::manifest::Shard;
use crate::row::{Place, RawRow};
use crate::store::{Chunks, Ranges, Store, Unreachable, failed, unreachable};
use crate::{Error, Fault, Result, cell, footer, shard, stored, turns};

/// Random access to the rows of one file.
#[derive(Debug)]
pub(crate) struct ParquetFile {
    store: Arc<dyn Store>,
    path: Arc<Path>,
    /// Where pages lie that are not in the file.
    images: PathBuf,
    n_rows: usize,
    /// What the manifest says of a prepared shard, whose footer is read when it is first needed.
    promised: Option<Shard>,
    footer: OnceLock<Footer>,
}

#[derive(Debug)]
struct Footer {
    metadata: ArrowReaderMetadata,
    columns: Columns,
    groups: Vec<Group>,
}

/// The columns a row is made of, under the names this file gives them.
#[derive(Debug)]
struct Columns {
    id: Option<&'static str>,
    image: &'static str,
    conversations: &'static str,
    /// What `include` looks at.
    image_path: Option<&'static str>,
}

/// One row group, and its first row in the file.
#[derive(Debug)]
struct Group {
    first: usize,
    n_rows: usize,
    /// Its lists have been read once from end to end.
    lists_end: OnceLock<()>,
}

/// Bytes behind a footer: its length, and four letters.
const FOOTER_END: usize = 8;
/// Until a footer is decoded.
const FOOTER_DEADLINE: Duration = Duration::from_secs(10);
/// Rows of a batch where columns are read only to see that they can be.
const READ_AHEAD: usize = 64;

impl ParquetFile {
    /// Reads the footer; `images` is the folder that image paths are under, else the file's own.
    pub(crate) fn open(store: Arc<dyn Store>, path: PathBuf, images: Option<&Path>) -> Result<Self> {
        let images = images.unwrap_or_else(|| stored::folder_of(&path)).to_owned();
        let mut file = Self { store, path: path.into(), images, n_rows: 0, promised: None, footer: OnceLock::new() };
        let footer = file.read_footer()?;
        file.n_rows = footer.groups.last().map_or(0, |group| group.first + group.n_rows);
        file.footer = footer.into();
        Ok(file)
    }

    /// A shard of a prepared folder: its size is compared now, its footer when a row is asked for, each row when it is read.
    pub(crate) fn shard(store: Arc<dyn Store>, folder: &Path, shard: &Shard) -> Result<Self> {
        let path = folder.join(&shard.file);
        let wrong = |reason: String| Error::Shard { file: path.clone(), reason };
        let bytes = store.size(&path).map_err(|e| failed(&path, &e, wrong))?;
        if bytes != shard.bytes {
            return Err(wrong(format!("has {bytes} bytes, the manifest says {}", shard.bytes)));
        }
        let (n_rows, promised) = (shard.rows as usize, Some(shard.clone()));
        Ok(Self { store, path: path.into(), images: folder.to_owned(), n_rows, promised, footer: OnceLock::new() })
    }

    pub(crate) fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Hash of size and footer; one that cannot be read any more has the hash of nothing.
    pub(crate) fn fingerprint(&self) -> blake3::Hash {
        let tail = self.store.open(&self.path).and_then(|file| tail_of(&*file));
        let size = self.store.size(&self.path).unwrap_or_default();
        blake3::Hasher::new().update(&size.to_le_bytes()).update(&tail.unwrap_or_default()).finalize()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// One row; decodes no more of its row group than the pages that hold it.
    pub(crate) fn row(&self, row: usize) -> Result<RawRow> {
        self.again(|| self.row_once(row))
    }

    /// What the manifest vouches for is read a second time where a store may have other bytes than it gave.
    fn again<T>(&self, read: impl Fn() -> Result<T>) -> Result<T> {
        match read() {
            Err(Error::Damaged { .. } | Error::Shard { .. } | Error::Row { .. })
                if self.promised.is_some() && self.store.forget(&self.path) =>
            {
                read()
            }
            result => result,
        }
    }

    fn row_once(&self, row: usize) -> Result<RawRow> {
        let footer = self.footer()?;
        let columns = &footer.columns;
        let path = columns.image_path.filter(|path| path.split('.').next() != Some(columns.image));
        let names = [Some(columns.image), Some(columns.conversations), columns.id, path];
        let check = self.promised.is_some().then_some(shard::CHECK);
        let (place, batch) = self.read_one(footer, row, &names.into_iter().chain([check]).collect::<Vec<_>>())?;
        let id = id_of(&batch, 0, columns, &place.file, row);
        let column = batch.column_by_name(columns.image).ok_or(Fault::NoImage("the column is missing"));
        let image_path = path.and_then(|name| cell::text(batch.column_by_name(name)?, 0));
        let image_path = image_path.or_else(|| stored::path(column.as_ref().ok()?, 0)).filter(|path| !path.is_empty());
        let image_path = image_path.map(str::to_owned);
        let parts = column.and_then(|column| {
            let image = stored::page(column, &self.images)?;
            let cell = batch.column_by_name(columns.conversations).map(|c| cell::value(c, 0)).unwrap_or_default();
            Ok((image, turns::turns_of(&cell)?))
        });
        let (image, turns) = match parts {
            Ok(parts) => parts,
            Err(fault) => return Err(Error::Row { file: place.file, row: place.row, id, fault }),
        };
        let found = RawRow { id, place, image: image.into(), image_path, turns };
        match &self.promised {
            Some(promised) if !shard::is_whole(&found, &promised.file, &batch) => {
                Err(self.damaged(&found.place, "its bytes are not those that were written".to_owned().into()))
            }
            _ => Ok(found),
        }
    }

    /// The id of one row, read alone.
    pub(crate) fn row_id(&self, row: usize) -> Result<String> {
        self.again(|| {
            let footer = self.footer()?;
            let (place, batch) = self.read_one(footer, row, &[footer.columns.id])?;
            Ok(id_of(&batch, 0, &footer.columns, &place.file, row))
        })
    }

    /// The id of every row.
    pub(crate) fn ids(&self) -> Result<Vec<String>> {
        let columns = &self.footer()?.columns;
        let mut ids = Vec::with_capacity(self.n_rows);
        match columns.id {
            Some(name) => self.scan(&[name], &mut |first, batch| {
                ids.extend((0..batch.num_rows()).map(|row| id_of(batch, row, columns, &self.path, first + row)));
            })?,
            None => ids.extend((0..self.n_rows).map(|row| unnamed(&self.path, row))),
        }
        Ok(ids)
    }

    /// The image path of every row.
    pub(crate) fn image_paths(&self) -> Result<Vec<Option<String>>> {
        let Some(column) = self.footer()?.columns.image_path else {
            let reason = "has no image path for `data.include` to look at".into();
            return Err(Error::File { file: self.path.to_path_buf(), reason });
        };
        let mut paths = Vec::with_capacity(self.n_rows);
        self.scan(&[column], &mut |_, batch| {
            let column = batch.column(0);
            paths.extend((0..batch.num_rows()).map(|row| stored::path(column, row).map(str::to_owned)));
        })?;
        Ok(paths)
    }

    /// Bytes of all texts of each row; 0 for a row that breaks the rules.
    pub(crate) fn text_bytes(&self) -> Result<Vec<u32>> {
        let columns = &self.footer()?.columns;
        let mut sizes = Vec::with_capacity(self.n_rows);
        self.scan(&[columns.conversations], &mut |_, batch| {
            let size = |row: usize| {
                let turns = turns::turns_of(&cell::value(batch.column(0), row)).unwrap_or_default();
                turns::text_bytes(&turns)
            };
            sizes.extend((0..batch.num_rows()).map(size));
        })?;
        Ok(sizes)
    }

    /// All rows of some columns in batches, each with its first row.
    pub(crate) fn scan(&self, columns: &[&str], each: &mut dyn FnMut(usize, &RecordBatch)) -> Result<()> {
        let footer = self.footer()?;
        for (row_group, group) in footer.groups.iter().enumerate() {
            let place = Place { file: self.path.clone(), row_group, row: group.first as u64 };
            let names: Vec<Option<&str>> = columns.iter().map(|name| Some(*name)).collect();
            let batch = self.again(|| self.read(footer, &place, 0, group.n_rows, &names))?;
            each(group.first, &batch);
        }
        Ok(())
    }

    fn read_one(&self, footer: &Footer, row: usize, columns: &[Option<&str>]) -> Result<(Place, RecordBatch)> {
        if row >= self.n_rows {
            return Err(Error::OutOfRange { row, n_rows: self.n_rows });
        }
        let row_group = footer.groups.partition_point(|group| group.first <= row) - 1;
        let place = Place { file: self.path.clone(), row_group, row: row as u64 };
        let batch = self.read(footer, &place, row - footer.groups[row_group].first, 1, columns)?;
        Ok((place, batch))
    }

    /// `n_rows` rows of one row group from row `at` of it; only the named columns.
    fn read(
        &self,
        footer: &Footer,
        place: &Place,
        at: usize,
        n_rows: usize,
        columns: &[Option<&str>],
    ) -> Result<RecordBatch> {
        let metadata = &footer.metadata;
        if at > 0 {
            self.require_lists_that_end(footer, place)?;
        }
        let rows = RowSelection::from(vec![RowSelector::skip(at), RowSelector::select(n_rows)]);
        guarded(|| {
            let file = Chunks::new(self.store.open(&self.path)?);
            let mut reader = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata.clone())
                .with_row_groups(vec![place.row_group])
                .with_row_selection(rows)
                .with_projection(ProjectionMask::columns(metadata.parquet_schema(), columns.iter().flatten().copied()))
                .with_batch_size(n_rows)
                .build()?;
            match reader.next().transpose()? {
                Some(batch) if batch.num_rows() == n_rows => Ok(batch),
                _ => Err(ParquetError::EOF(format!("fewer than {n_rows} rows where the footer promises them"))),
            }
        })
        .map_err(|reason| self.damaged(place, reason))
    }

    /// The parquet reader never ends when it skips repetition levels that end too early; where it reads them, that is an
    /// error. So before rows of a row group are skipped, its columns of lists (texts, as a rule) are read once.
    fn require_lists_that_end(&self, footer: &Footer, place: &Place) -> Result<()> {
        let schema = footer.metadata.parquet_schema();
        let lists = (0..schema.num_columns()).filter(|&leaf| schema.column(leaf).max_rep_level() > 0);
        let lists = ProjectionMask::leaves(schema, lists.collect::<Vec<_>>());
        let seen = &footer.groups[place.row_group].lists_end;
        if seen.get().is_some() || (0..schema.num_columns()).all(|leaf| !lists.leaf_included(leaf)) {
            return Ok(());
        }
        guarded(|| {
            let file = Chunks::new(self.store.open(&self.path)?);
            let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(file, footer.metadata.clone())
                .with_row_groups(vec![place.row_group])
                .with_projection(lists)
                .with_batch_size(READ_AHEAD)
                .build()?;
            for batch in reader {
                batch?;
            }
            Ok(())
        })
        .map_err(|reason| self.damaged(place, reason))?;
        seen.get_or_init(|| ());
        Ok(())
    }

    fn damaged(&self, place: &Place, reason: Reason) -> Error {
        match reason {
            Reason::Bytes(reason) => {
                Error::Damaged { file: place.file.clone(), row_group: place.row_group, row: place.row, reason }
            }
            Reason::Store(reason) => Error::Store { file: place.file.to_path_buf(), reason },
        }
    }

    fn footer(&self) -> Result<&Footer> {
        match self.footer.get() {
            Some(footer) => Ok(footer),
            None => {
                let footer = self.read_footer()?;
                Ok(self.footer.get_or_init(|| footer))
            }
        }
    }

    fn read_footer(&self) -> Result<Footer> {
        let wrong = |reason: String| match self.promised {
            Some(_) => Error::Shard { file: self.path.to_path_buf(), reason },
            None => Error::File { file: self.path.to_path_buf(), reason },
        };
        let refused = |reason: Reason| match reason {
            Reason::Bytes(reason) => wrong(reason),
            Reason::Store(reason) => Error::Store { file: self.path.to_path_buf(), reason },
        };
        let file = self.store.open(&self.path).map_err(|e| refused(e.into()))?;
        let chunks = self.with_footer(file.clone()).map_err(refused)?;
        let options = ArrowReaderOptions::new().with_offset_index_policy(PageIndexPolicy::Optional);
        let metadata = guarded(|| ArrowReaderMetadata::load(&chunks, options)).map_err(refused)?;
        let columns = Columns::of(&metadata).map_err(|missing| wrong(missing.into()))?;
        let (mut groups, mut first) = (Vec::new(), 0);
        for (row_group, meta) in metadata.metadata().row_groups().iter().enumerate() {
            // A row with a page takes more than a byte: a larger claim is damage, and would size buffers.
            let n_rows = u64::try_from(meta.num_rows()).ok().filter(|&n| n <= file.size());
            let n_rows =
                n_rows.ok_or_else(|| wrong(format!("row group {row_group} claims {} rows", meta.num_rows())))?;
            groups.push(Group { first, n_rows: n_rows as usize, lists_end: OnceLock::new() });
            first += n_rows as usize;
        }
        let footer_says = metadata.metadata().file_metadata().num_rows();
        let promised = self.promised.as_ref().map_or(first as u64, |shard| shard.rows);
        if u64::try_from(footer_says) != Ok(first as u64) || promised != first as u64 {
            return Err(wrong(format!(
                "its row groups hold {first} rows, its footer says {footer_says}, the manifest {promised}"
            )));
        }
        Ok(Footer { metadata, columns, groups })
    }

    /// The file with its footer in memory, if that is the one which the manifest knows; of a file that no manifest knows, if
    /// the footer is one.
    fn with_footer(&self, file: Arc<dyn Ranges>) -> std::result::Result<Chunks, Reason> {
        let Some(promised) = &self.promised else {
            let tail = tail_of(&*file)?;
            require_footer(&tail)?;
            return Ok(Chunks::with_tail(file, tail));
        };
        if file.size() != promised.bytes {
            return Err(format!("has {} bytes, the manifest says {}", file.size(), promised.bytes).into());
        }
        let start = promised.bytes - promised.footer_bytes;
        let tail = file.read(start, promised.footer_bytes as usize)?;
        if *blake3::hash(&tail).to_hex() != *promised.footer_blake3 {
            return Err("its footer is not the one that was written".to_owned().into());
        }
        Ok(Chunks::with_tail(file, tail))
    }
}

/// Why bytes did not become rows.
enum Reason {
    /// They are not what they should be.
    Bytes(String),
    /// They cannot be had.
    Store(String),
}

impl From<String> for Reason {
    fn from(reason: String) -> Self {
        Self::Bytes(reason)
    }
}

impl From<io::Error> for Reason {
    fn from(error: io::Error) -> Self {
        match unreachable(&error) {
            Some(Unreachable(reason)) => Self::Store(reason.clone()),
            None => Self::Bytes(error.to_string()),
        }
    }
}

impl From<ParquetError> for Reason {
    fn from(error: ParquetError) -> Self {
        match error {
            ParquetError::External(inner) => match inner.downcast::<io::Error>() {
                Ok(error) if unreachable(&error).is_some() => (*error).into(),
                Ok(error) => Self::Bytes(ParquetError::External(error).to_string()),
                Err(other) => Self::Bytes(ParquetError::External(other).to_string()),
            },
            other => Self::Bytes(other.to_string()),
        }
    }
}

/// The parquet reader panics on some damaged files (3 of 6,000 bit flips); here that is one more error.
fn guarded<T>(read: impl FnOnce() -> std::result::Result<T, ParquetError>) -> std::result::Result<T, Reason> {
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(result) => result.map_err(Reason::from),
        Err(_) => Err("the parquet reader panicked".to_owned().into()),
    }
}

impl Columns {
    fn of(metadata: &ArrowReaderMetadata) -> std::result::Result<Self, &'static str> {
        let schema = metadata.schema();
        let find = |names: &[&'static str]| names.iter().copied().find(|name| schema.column_with_name(name).is_some());
        let image = find(&["image", "images"]).ok_or("has no column `image` or `images`")?;
        let conversations = find(&["conversations", "conversation", "messages"])
            .ok_or("has no column `conversations`, `conversation` or `messages`")?;
        let image_path = match schema.field_with_name("image").map(arrow_schema::Field::data_type) {
            _ if find(&["image_path"]).is_some() => Some("image_path"),
            Ok(DataType::Struct(fields)) if fields.find("path").is_some() => Some("image.path"),
            Ok(DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View) => Some("image"),
            _ => None,
        };
        Ok(Self { id: find(&["id"]), image, conversations, image_path })
    }
}

/// Refuses a footer that the library would be busy with for ever.
fn require_footer(tail: &Bytes) -> std::result::Result<(), Reason> {
    let Some((footer, _)) = tail.split_last_chunk::<FOOTER_END>() else { return Ok(()) };
    if let Some(reason) = footer::fault(footer) {
        return Err(format!("{reason}; the file is damaged").into());
    }
    match decodes_in_time(tail.slice_ref(footer)) {
        true => Ok(()),
        false => Err("its footer takes the library longer than any real one; the file is damaged".to_owned().into()),
    }
}

/// A look at the bytes cannot find every claim that keeps the library busy: it reads some fields as what they should be and
/// not as what they say. So it decodes the footer once where it can be left to itself; a real one takes milliseconds.
fn decodes_in_time(footer: Bytes) -> bool {
    let (done, decoded) = bounded(1);
    thread::spawn(move || {
        let _ = guarded(|| ParquetMetaDataReader::decode_metadata(&footer));
        let _ = done.send(());
    });
    decoded.recv_timeout(FOOTER_DEADLINE).is_ok()
}

/// The footer with its length and the letters behind it; those alone where the file has no room for so long a footer.
fn tail_of(file: &dyn Ranges) -> io::Result<Bytes> {
    let size = file.size();
    let end = FOOTER_END.min(size as usize);
    let end = file.read(size - end as u64, end)?;
    let length = end.first_chunk().map_or(0, |length| u64::from(u32::from_le_bytes(*length)));
    let all = length + end.len() as u64;
    if all <= size { file.read(size - all, all as usize) } else { Ok(end) }
}

/// The id in row `at` of a batch, which is row `row` of the file.
fn id_of(batch: &RecordBatch, at: usize, columns: &Columns, file: &Path, row: usize) -> String {
    let cell = columns.id.and_then(|name| batch.column_by_name(name)).map(|column| cell::value(column, at));
    match cell {
        Some(serde_json::Value::String(id)) if !id.is_empty() => id,
        Some(serde_json::Value::Number(id)) => id.to_string(),
        _ => unnamed(file, row),
    }
}

/// What a row without an id is called.
pub(crate) fn unnamed(file: &Path, row: usize) -> String {
    format!("{}:{row}", file.display())
}
