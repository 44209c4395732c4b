//! Rows of parquet files by index: (file, row group, row) from the footers, so that any row is one small read.
//! It never holds a page longer than it takes to hand it out, and never lets a damaged file take the process down.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::DataType;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection, RowSelector,
};
use parquet::errors::ParquetError;
use parquet::file::metadata::PageIndexPolicy;

use crate::{Error, Fault, Place, Result, Row, cell, stored, turns};

/// What a data set is made of.
#[derive(Debug, Clone)]
pub struct Sources {
    /// Parquet files, globs or folders of them; read in this order, those of a glob or folder by name.
    pub files: Vec<PathBuf>,
    /// Only rows whose image path holds this text; empty for all.
    pub include: String,
    /// Leave the letters `<image>` in a turn's text, as the published script did.
    pub keep_image_marker: bool,
}

/// Random access to the rows of parquet files.
#[derive(Debug)]
pub struct Dataset {
    files: Vec<ParquetFile>,
    groups: Vec<Group>,
    /// Rows that pass the filter, as indices into all rows; none where there is no filter.
    kept: Option<Vec<usize>>,
    n_rows: usize,
    keep_image_marker: bool,
}

#[derive(Debug)]
struct ParquetFile {
    path: Arc<Path>,
    metadata: ArrowReaderMetadata,
    columns: Columns,
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

/// One row group; `first` is its first row in the data set, `first_in_file` in its file.
#[derive(Debug)]
struct Group {
    file: usize,
    row_group: usize,
    first: usize,
    first_in_file: u64,
    n_rows: usize,
}

impl Dataset {
    /// Reads the footers of all files, and the image path column where `include` is not empty.
    ///
    /// # Errors
    /// Nothing found, a file that is not parquet or lacks a column, or nothing left by `include`.
    pub fn open(sources: &Sources) -> Result<Self> {
        let mut data = Self {
            files: Vec::new(),
            groups: Vec::new(),
            kept: None,
            n_rows: 0,
            keep_image_marker: sources.keep_image_marker,
        };
        for pattern in &sources.files {
            for path in expand(pattern)? {
                data.push(path)?;
            }
        }
        let names = || sources.files.iter().map(|f| f.display().to_string()).collect::<Vec<_>>().join(", ");
        if data.n_rows == 0 {
            return Err(Error::NoFile { pattern: names() });
        }
        if !sources.include.is_empty() {
            let kept = data.filter(&sources.include)?;
            if kept.is_empty() {
                return Err(Error::NothingIncluded { pattern: names(), include: sources.include.clone() });
            }
            data.n_rows = kept.len();
            data.kept = Some(kept);
        }
        Ok(data)
    }

    /// Rows, after the filter.
    #[must_use]
    pub fn len(&self) -> usize {
        self.n_rows
    }

    /// Never true: an empty data set does not open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.n_rows == 0
    }

    /// One row; decodes no more of its row group than the pages that hold it.
    ///
    /// # Errors
    /// Damage (file, row group and row named) or a row that breaks the rules (file, row and id named).
    pub fn row(&self, index: usize) -> Result<Row> {
        let (place, group, at) = self.find(index)?;
        let columns = &self.files[group.file].columns;
        let names = [Some(columns.image), Some(columns.conversations), columns.id];
        let batch = self.read(group, &place, at, 1, &names)?;
        let id = id_of(&batch, columns, &place);
        let page = batch.column_by_name(columns.image).ok_or(Fault::NoImage("the column is missing"));
        let parts = page.and_then(|column| stored::page(column, &place.file)).and_then(|image| {
            let cell = batch.column_by_name(columns.conversations).map(|c| cell::value(c, 0)).unwrap_or_default();
            Ok((image, turns::messages(&cell, self.keep_image_marker)?))
        });
        match parts {
            Ok((image, messages)) => Ok(Row { id, place, image, messages }),
            Err(fault) => Err(Error::Row { file: place.file, row: place.row, id, fault }),
        }
    }

    /// The id of one row, read alone.
    ///
    /// # Errors
    /// Damage, with file, row group and row named.
    pub fn row_id(&self, index: usize) -> Result<String> {
        let (place, group, at) = self.find(index)?;
        let columns = &self.files[group.file].columns;
        let batch = self.read(group, &place, at, 1, &[columns.id])?;
        Ok(id_of(&batch, columns, &place))
    }

    fn push(&mut self, path: PathBuf) -> Result<()> {
        let wrong = |reason: String| Error::File { file: path.clone(), reason };
        let file = File::open(&path).map_err(|e| wrong(e.to_string()))?;
        let options = ArrowReaderOptions::new().with_offset_index_policy(PageIndexPolicy::Optional);
        let metadata = guarded(|| ArrowReaderMetadata::load(&file, options)).map_err(wrong)?;
        let columns = Columns::of(&metadata).map_err(|missing| wrong(missing.into()))?;
        let file_bytes = file.metadata().map_or(0, |m| m.len());
        let mut first_in_file = 0;
        for (row_group, meta) in metadata.metadata().row_groups().iter().enumerate() {
            // A row with a page takes more than a byte: a larger claim is damage, and would size buffers.
            let n_rows = u64::try_from(meta.num_rows()).ok().filter(|&n| n <= file_bytes);
            let n_rows =
                n_rows.ok_or_else(|| wrong(format!("row group {row_group} claims {} rows", meta.num_rows())))?;
            let n_rows = n_rows as usize;
            self.groups.push(Group { file: self.files.len(), row_group, first: self.n_rows, first_in_file, n_rows });
            self.n_rows += n_rows;
            first_in_file += n_rows as u64;
        }
        let promised = metadata.metadata().file_metadata().num_rows();
        if u64::try_from(promised) != Ok(first_in_file) {
            return Err(wrong(format!("its row groups hold {first_in_file} rows, its footer says {promised}")));
        }
        self.files.push(ParquetFile { path: path.into(), metadata, columns });
        Ok(())
    }

    /// Indices of the rows whose image path holds `include`.
    fn filter(&self, include: &str) -> Result<Vec<usize>> {
        let mut kept = Vec::new();
        for group in &self.groups {
            let file = &self.files[group.file];
            let Some(column) = file.columns.image_path else {
                let reason = "has no image path for `data.include` to look at".into();
                return Err(Error::File { file: file.path.to_path_buf(), reason });
            };
            let place = self.place(group, 0);
            let batch = self.read(group, &place, 0, group.n_rows, &[Some(column)])?;
            let paths = batch.column(0);
            let holds = |row: &usize| stored::path(paths, *row).is_some_and(|path| path.contains(include));
            kept.extend((0..group.n_rows).filter(holds).map(|row| group.first + row));
        }
        Ok(kept)
    }

    /// The place of a row of the data set, its row group, and the row within that.
    fn find(&self, index: usize) -> Result<(Place, &Group, usize)> {
        if index >= self.n_rows {
            return Err(Error::OutOfRange { row: index, n_rows: self.n_rows });
        }
        let index = self.kept.as_ref().map_or(index, |kept| kept[index]);
        let group = &self.groups[self.groups.partition_point(|g| g.first <= index) - 1];
        let at = index - group.first;
        Ok((self.place(group, at), group, at))
    }

    fn place(&self, group: &Group, at: usize) -> Place {
        let file = self.files[group.file].path.clone();
        Place { file, row_group: group.row_group, row: group.first_in_file + at as u64 }
    }

    /// `n_rows` rows of one row group from row `at` of it; only the named columns.
    fn read(
        &self,
        group: &Group,
        place: &Place,
        at: usize,
        n_rows: usize,
        columns: &[Option<&str>],
    ) -> Result<RecordBatch> {
        let ParquetFile { path, metadata, .. } = &self.files[group.file];
        let rows = RowSelection::from(vec![RowSelector::skip(at), RowSelector::select(n_rows)]);
        guarded(|| {
            // A handle of its own: handles that share a cursor would read each other's bytes on two threads.
            let mut reader = ParquetRecordBatchReaderBuilder::new_with_metadata(File::open(path)?, metadata.clone())
                .with_row_groups(vec![group.row_group])
                .with_row_selection(rows)
                .with_projection(ProjectionMask::columns(metadata.parquet_schema(), columns.iter().flatten().copied()))
                .with_batch_size(n_rows)
                .build()?;
            match reader.next().transpose()? {
                Some(batch) if batch.num_rows() == n_rows => Ok(batch),
                _ => Err(ParquetError::EOF(format!("fewer than {n_rows} rows where the footer promises them"))),
            }
        })
        .map_err(|reason| Error::Damaged {
            file: place.file.clone(),
            row_group: place.row_group,
            row: place.row,
            reason,
        })
    }
}

/// The parquet reader panics on some damaged files (3 of 6,000 bit flips); here that is one more error.
fn guarded<T>(read: impl FnOnce() -> std::result::Result<T, ParquetError>) -> std::result::Result<T, String> {
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(result) => result.map_err(|e| e.to_string()),
        Err(_) => Err("the parquet reader panicked".into()),
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

/// Files of a path, a glob, or a folder.
fn expand(pattern: &Path) -> Result<Vec<PathBuf>> {
    if pattern.is_file() {
        return Ok(vec![pattern.to_owned()]);
    }
    let nothing = || Error::NoFile { pattern: pattern.display().to_string() };
    let text = if pattern.is_dir() {
        format!("{}/*.parquet", glob::Pattern::escape(&pattern.to_string_lossy()))
    } else {
        pattern.to_string_lossy().into_owned()
    };
    let found: Vec<PathBuf> = glob::glob(&text).map_err(|_| nothing())?.flatten().filter(|p| p.is_file()).collect();
    if found.is_empty() { Err(nothing()) } else { Ok(found) }
}

fn id_of(batch: &RecordBatch, columns: &Columns, place: &Place) -> String {
    let cell = columns.id.and_then(|name| batch.column_by_name(name)).map(|column| cell::value(column, 0));
    match cell {
        Some(serde_json::Value::String(id)) if !id.is_empty() => id,
        Some(serde_json::Value::Number(id)) => id.to_string(),
        _ => format!("{}:{}", place.file.display(), place.row),
    }
}

#[cfg(test)]
mod tests;
