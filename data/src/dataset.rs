//! Rows by index, whatever they lie in: prepared folders, parquet and JSON files, one after the other.
//! It never holds a page longer than it takes to hand it out, and its order depends on nothing but its sources.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::json_rows::JsonRows;
use crate::manifest::{MANIFEST, UNFINISHED};
use crate::parquet_file::ParquetFile;
use crate::prepared::Prepared;
use crate::row::RawRow;
use crate::shard::PageKey;
use crate::store::{exists, is_url};
use crate::{Disk, Error, Manifest, PageHash, Result, Row, Store, archive, stored, turns};

/// What a data set is made of.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// Prepared folders, parquet or JSON files, globs or folders of them; read in this order, those of a glob or folder by name.
    pub files: Vec<PathBuf>,
    /// The folder that image paths are under; none: that of each file.
    pub image_folder: Option<PathBuf>,
    /// Only rows whose image path holds this text; empty for all.
    pub include: String,
    /// Leave the letters `<image>` in a turn's text, as the published script did.
    pub keep_image_marker: bool,
}

/// Random access to rows.
#[derive(Debug)]
pub struct Dataset {
    parts: Vec<Part>,
    /// First row of each part, before the filter.
    firsts: Vec<usize>,
    /// Rows that are left, as indices into all rows; none where all are.
    kept: Option<Vec<u32>>,
    n_rows: usize,
    keep_image_marker: bool,
}

/// What one of the sources is.
#[derive(Debug)]
pub(crate) enum Part {
    Parquet(ParquetFile),
    Json(JsonRows),
    Prepared(Prepared),
}

impl Dataset {
    /// Opens files of this machine: see [`Dataset::open_in`].
    ///
    /// # Errors
    /// As there.
    pub fn open(sources: &Sources) -> Result<Self> {
        Self::open_in(Arc::new(Disk), sources)
    }

    /// Reads the footers of parquet files and the manifests of prepared folders, and the image paths where `include`
    /// is not empty. Of a prepared folder the sizes of all shards are compared now, a shard's footer by its hash when a
    /// row of it is first read, and each row by its own when it is read; [`crate::verify`] reads and compares everything.
    ///
    /// # Errors
    /// Nothing found, a file that is not parquet or lacks a column, or nothing left by `include`.
    pub fn open_in(store: Arc<dyn Store>, sources: &Sources) -> Result<Self> {
        let mut data = Self {
            parts: Vec::new(),
            firsts: Vec::new(),
            kept: None,
            n_rows: 0,
            keep_image_marker: sources.keep_image_marker,
        };
        for pattern in &sources.files {
            for part in open_parts(&store, pattern, sources.image_folder.as_deref())? {
                data.firsts.push(data.n_rows);
                data.n_rows += part.n_rows();
                data.parts.push(part);
            }
        }
        let names = || sources.files.iter().map(|f| f.display().to_string()).collect::<Vec<_>>().join(", ");
        if data.n_rows == 0 {
            return Err(Error::NoFile { pattern: names() });
        }
        if u32::try_from(data.n_rows).is_err() {
            return Err(Error::TooManyRows { pattern: names(), n_rows: data.n_rows });
        }
        if !sources.include.is_empty() {
            let kept = data.filter(&sources.include)?;
            if kept.is_empty() {
                return Err(Error::NothingIncluded { pattern: names(), include: sources.include.clone() });
            }
            data.keep(kept);
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
        let RawRow { id, place, image, turns, .. } = self.raw_row(index)?;
        match turns::messages(turns, self.keep_image_marker) {
            Ok(messages) => Ok(Row { id, place, image: image.into(), messages }),
            Err(fault) => Err(Error::Row { file: place.file, row: place.row, id, fault }),
        }
    }

    /// One row as its source has it: the turns are not looked at.
    pub(crate) fn raw_row(&self, index: usize) -> Result<RawRow> {
        let (part, row) = self.find(index)?;
        match part {
            Part::Parquet(file) => file.row(row),
            Part::Json(file) => file.row(row),
            Part::Prepared(prepared) => prepared.row(row),
        }
    }

    /// The id of one row, read alone.
    ///
    /// # Errors
    /// Damage, with file, row group and row named.
    pub fn row_id(&self, index: usize) -> Result<String> {
        let (part, row) = self.find(index)?;
        match part {
            Part::Parquet(file) => file.row_id(row),
            Part::Json(file) => file.row_id(row),
            Part::Prepared(prepared) => prepared.row_id(row),
        }
    }

    /// The key of every row's page: 16 bytes of blake3 of the page as the source had it, equal for equal pages.
    /// Of a prepared folder this reads the small file `rows.index`.
    ///
    /// # Errors
    /// [`Error::NotPrepared`] for parquet files that hold the pages themselves: all of them would have to be read.
    pub fn pages(&self) -> Result<Vec<PageKey>> {
        self.gather(|part| match part {
            Part::Parquet(file) => Err(Error::NotPrepared { file: file.path().to_owned(), what: "the keys of pages" }),
            Part::Json(file) => file.pages(),
            Part::Prepared(prepared) => prepared.pages(),
        })
    }

    /// What every row's page shows. Of a prepared folder this reads the small file `looks.index`.
    ///
    /// # Errors
    /// [`Error::NotPrepared`] for anything else: all pages would have to be decoded.
    pub fn looks(&self) -> Result<Vec<PageHash>> {
        let not_prepared = |file: &Path| Error::NotPrepared { file: file.to_owned(), what: "what pages show" };
        self.gather(|part| match part {
            Part::Parquet(file) => Err(not_prepared(file.path())),
            Part::Json(file) => Err(not_prepared(file.path())),
            Part::Prepared(prepared) => prepared.looks(),
        })
    }

    /// Bytes of all texts of every row; 0 for a row that breaks the rules.
    /// Of a prepared folder this reads the small file `rows.index`, of parquet files the column of conversations.
    ///
    /// # Errors
    /// Damage, with file, row group and row named.
    pub fn text_bytes(&self) -> Result<Vec<u32>> {
        self.gather(|part| match part {
            Part::Parquet(file) => file.text_bytes(),
            Part::Json(file) => file.text_bytes(),
            Part::Prepared(prepared) => prepared.text_bytes(),
        })
    }

    /// The id of every row.
    ///
    /// # Errors
    /// Damage, with file, row group and row named.
    pub fn ids(&self) -> Result<Vec<String>> {
        self.gather(|part| match part {
            Part::Parquet(file) => file.ids(),
            Part::Json(file) => file.ids(),
            Part::Prepared(prepared) => prepared.ids(),
        })
    }

    /// The image path of every row, where it has one.
    ///
    /// # Errors
    /// A parquet file without such a column; damage, with file, row group and row named.
    pub fn image_paths(&self) -> Result<Vec<Option<String>>> {
        self.gather(|part| match part {
            Part::Parquet(file) => file.image_paths(),
            Part::Json(file) => file.image_paths(),
            Part::Prepared(prepared) => prepared.image_paths(),
        })
    }

    /// The manifests of the prepared folders among the sources.
    pub fn manifests(&self) -> impl Iterator<Item = &Manifest> {
        self.parts.iter().filter_map(|part| match part {
            Part::Parquet(_) | Part::Json(_) => None,
            Part::Prepared(prepared) => Some(prepared.manifest()),
        })
    }

    /// Refuses prepared pages of another size than the model's: resizing twice would not give the model's pixels.
    ///
    /// # Errors
    /// [`Error::OtherSize`], with the folder.
    pub fn require_image_size(&self, image_size: usize) -> Result<()> {
        let other = |prepared: &&Prepared| prepared.stored_size().is_some_and(|stored| stored != image_size);
        let prepared = self.parts.iter().filter_map(|part| match part {
            Part::Parquet(_) | Part::Json(_) => None,
            Part::Prepared(prepared) => Some(prepared),
        });
        match prepared.into_iter().find(other) {
            None => Ok(()),
            Some(prepared) => Err(Error::OtherSize {
                folder: prepared.folder().to_owned(),
                stored: prepared.stored_size().unwrap_or_default(),
                image_size,
            }),
        }
    }

    /// Every file that rows are read from, and what kind they are.
    pub(crate) fn files(&self) -> (&'static str, Vec<PathBuf>) {
        let of = |part: &Part| match part {
            Part::Parquet(file) => file.path().to_owned(),
            Part::Json(file) => file.path().to_owned(),
            Part::Prepared(prepared) => prepared.folder().join(MANIFEST),
        };
        let kind = match self.parts.first() {
            Some(Part::Json(_)) => "json",
            Some(Part::Prepared(_)) => "prepared",
            _ => "parquet",
        };
        (kind, self.parts.iter().map(of).collect())
    }

    /// What `of` says of every part's rows, of those that are kept.
    fn gather<T: Clone>(&self, of: impl Fn(&Part) -> Result<Vec<T>>) -> Result<Vec<T>> {
        let mut all = Vec::new();
        for part in &self.parts {
            all.extend(of(part)?);
        }
        Ok(match &self.kept {
            None => all,
            Some(kept) => kept.iter().map(|&row| all[row as usize].clone()).collect(),
        })
    }

    /// In the order of their rows.
    pub(crate) fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The rows that are left, as indices into all rows; none where all are.
    pub(crate) fn kept(&self) -> Option<&[u32]> {
        self.kept.as_deref()
    }

    /// Whether every row lies in a prepared folder.
    pub(crate) fn is_prepared(&self) -> bool {
        self.parts.iter().all(|part| matches!(part, Part::Prepared(_)))
    }

    /// Leaves out some of the rows that are there now.
    pub(crate) fn drop_rows(&mut self, rows: &BTreeSet<usize>) {
        let kept = (0..self.n_rows).filter(|row| !rows.contains(row));
        let of_all = |row: usize| self.kept.as_ref().map_or(row as u32, |kept| kept[row]);
        let kept = kept.map(of_all).collect();
        self.keep(kept);
    }

    fn keep(&mut self, kept: Vec<u32>) {
        self.n_rows = kept.len();
        self.kept = Some(kept);
    }

    /// Indices of the rows whose image path holds `include`.
    fn filter(&self, include: &str) -> Result<Vec<u32>> {
        let paths = self.image_paths()?;
        let holds = |path: &Option<String>| path.as_ref().is_some_and(|path| path.contains(include));
        Ok((0..).zip(&paths).filter(|(_, path)| holds(path)).map(|(row, _)| row).collect())
    }

    /// The part that holds a row, and the row within it.
    fn find(&self, index: usize) -> Result<(&Part, usize)> {
        if index >= self.n_rows {
            return Err(Error::OutOfRange { row: index, n_rows: self.n_rows });
        }
        let index = self.kept.as_ref().map_or(index, |kept| kept[index] as usize);
        let part = self.firsts.partition_point(|&first| first <= index) - 1;
        Ok((&self.parts[part], index - self.firsts[part]))
    }
}

impl Part {
    fn n_rows(&self) -> usize {
        match self {
            Self::Parquet(file) => file.n_rows(),
            Self::Json(file) => file.n_rows(),
            Self::Prepared(prepared) => prepared.n_rows(),
        }
    }
}

/// Everything that one entry of the configuration names.
fn open_parts(store: &Arc<dyn Store>, pattern: &Path, images: Option<&Path>) -> Result<Vec<Part>> {
    if exists(&**store, &pattern.join(MANIFEST))? {
        return Ok(vec![Part::Prepared(Prepared::open(store.clone(), pattern)?)]);
    }
    if exists(&**store, &pattern.join(UNFINISHED))? {
        return Err(Error::Unfinished { folder: pattern.to_owned() });
    }
    if is_url(pattern) {
        return Err(Error::NotPreparedThere { folder: pattern.to_owned() });
    }
    if let Some((json, archives)) = json_with_archives(pattern, images) {
        return Err(Error::Archives { json, n_archives: archives.len() });
    }
    let open = |path: PathBuf| match is_json(&path) {
        true => Ok(Part::Json(JsonRows::open(&**store, path, images)?)),
        false => Ok(Part::Parquet(ParquetFile::open(store.clone(), path, images)?)),
    };
    expand(pattern)?.into_iter().map(open).collect()
}

/// A JSON file, or a folder of one, whose pages are still in archives beside it; and those archives in their order.
pub(crate) fn json_with_archives(pattern: &Path, images: Option<&Path>) -> Option<(PathBuf, Vec<PathBuf>)> {
    let json = match expand(pattern).ok()?.as_slice() {
        [json] if is_json(json) => json.clone(),
        _ => return None,
    };
    let archives = archive::in_folder(images.unwrap_or_else(|| stored::folder_of(&json)));
    if archives.is_empty() {
        return None;
    }
    // Where the first row's page lies beside the archives, they have been unpacked.
    let unpacked = JsonRows::open(&Disk, json.clone(), images).is_ok_and(|rows| rows.row(0).is_ok());
    (!unpacked).then_some((json, archives))
}

fn is_json(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("json") || e.eq_ignore_ascii_case("jsonl"))
}

/// Files of a path, a glob, or a folder: its parquet files, else its JSON files.
fn expand(pattern: &Path) -> Result<Vec<PathBuf>> {
    if pattern.is_file() {
        return Ok(vec![pattern.to_owned()]);
    }
    let nothing = || Error::NoFile { pattern: pattern.display().to_string() };
    let matching = |text: &str| -> Result<Vec<PathBuf>> {
        Ok(glob::glob(text).map_err(|_| nothing())?.flatten().filter(|p| p.is_file()).collect())
    };
    let mut found = Vec::new();
    if pattern.is_dir() {
        let folder = glob::Pattern::escape(&pattern.to_string_lossy());
        for kind in ["parquet", "json", "jsonl"] {
            if found.is_empty() {
                found = matching(&format!("{folder}/*.{kind}"))?;
            }
        }
    } else {
        found = matching(&pattern.to_string_lossy())?;
    }
    if found.is_empty() { Err(nothing()) } else { Ok(found) }
}

#[cfg(test)]
pub(crate) mod tests;
