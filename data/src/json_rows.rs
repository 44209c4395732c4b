//! Rows of a JSON or JSON Lines file by index: where each one begins and ends, and nothing else, is kept in memory.
//! It never holds more of the file than one row and one buffer, and never follows an image path out of its folder.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;

use crate::parquet_file::unnamed;
use crate::row::{Place, RawRow, Turn};
use crate::shard::{PageKey, page_key};
use crate::store::{Ranges, Store};
use crate::{Error, Fault, Result, stored, turns};

/// Bytes read at a time while the rows are looked for.
const CHUNK: u64 = 1 << 20;
/// Largest row, in bytes: sixteen times the most text that a conversation may have.
const MAX_ROW: u64 = 16 << 20;

/// Random access to the rows of one file.
#[derive(Debug)]
pub(crate) struct JsonRows {
    path: Arc<Path>,
    file: Arc<dyn Ranges>,
    /// Where pages lie.
    images: PathBuf,
    /// Begin and length of each row in the file.
    places: Vec<(u64, u32)>,
    /// Of the whole file.
    hash: blake3::Hash,
}

/// A row but for its page.
pub(crate) struct Text {
    pub id: String,
    pub place: Place,
    pub image_path: String,
    pub turns: Vec<Turn>,
}

impl JsonRows {
    /// Looks for the rows; `images` is the folder that image paths are under, else the file's own.
    pub(crate) fn open(store: &dyn Store, path: PathBuf, images: Option<&Path>) -> Result<Self> {
        let wrong = |reason: String| Error::File { file: path.clone(), reason };
        let file = store.open(&path).map_err(|e| wrong(e.to_string()))?;
        let (mut scan, mut hasher) = (Scan::default(), blake3::Hasher::new());
        for at in (0..file.size()).step_by(CHUNK as usize) {
            let chunk = file.read(at, CHUNK.min(file.size() - at) as usize).map_err(|e| wrong(e.to_string()))?;
            hasher.update(&chunk);
            scan.feed(at, &chunk).map_err(wrong)?;
        }
        let places = scan.end().map_err(wrong)?;
        let images = images.unwrap_or_else(|| stored::folder_of(&path)).to_owned();
        Ok(Self { path: path.into(), file, images, places, hash: hasher.finalize() })
    }

    /// Hash of the file as it was when its rows were looked for.
    pub(crate) fn fingerprint(&self) -> blake3::Hash {
        self.hash
    }

    pub(crate) fn n_rows(&self) -> usize {
        self.places.len()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// One row with the page that lies in the folder of images.
    pub(crate) fn row(&self, row: usize) -> Result<RawRow> {
        let text = self.text(row)?;
        match stored::in_folder(&self.images, &text.image_path) {
            Ok(image) => Ok(text.with_page(image.into())),
            Err(fault) => Err(Error::Row { file: text.place.file, row: text.place.row, id: text.id, fault }),
        }
    }

    /// One row but for its page.
    pub(crate) fn text(&self, row: usize) -> Result<Text> {
        let place = Place { file: self.path.clone(), row_group: 0, row: row as u64 };
        let value = self.value(row)?;
        let id = id_of(&value, &self.path, row);
        let parts = image_path(&value).and_then(|path| Ok((path, turns::turns_of(turns_cell(&value))?)));
        match parts {
            Ok((image_path, turns)) => Ok(Text { id, place, image_path, turns }),
            Err(fault) => Err(Error::Row { file: place.file, row: place.row, id, fault }),
        }
    }

    pub(crate) fn row_id(&self, row: usize) -> Result<String> {
        Ok(id_of(&self.value(row)?, &self.path, row))
    }

    /// What `of` says of every row.
    pub(crate) fn all<T>(&self, of: impl Fn(&Value, usize) -> T) -> Result<Vec<T>> {
        (0..self.n_rows()).map(|row| Ok(of(&self.value(row)?, row))).collect()
    }

    pub(crate) fn ids(&self) -> Result<Vec<String>> {
        self.all(|value, row| id_of(value, &self.path, row))
    }

    pub(crate) fn image_paths(&self) -> Result<Vec<Option<String>>> {
        self.all(|value, _| image_path(value).ok())
    }

    pub(crate) fn text_bytes(&self) -> Result<Vec<u32>> {
        self.all(|value, _| turns::text_bytes(&turns::turns_of(turns_cell(value)).unwrap_or_default()))
    }

    /// The key of an image path: one path is one page. (A prepared folder knows equal pages under several paths, too.)
    pub(crate) fn pages(&self) -> Result<Vec<PageKey>> {
        self.all(|value, _| path_key(&image_path(value).unwrap_or_default()))
    }

    fn value(&self, row: usize) -> Result<Value> {
        let Some(&(begin, length)) = self.places.get(row) else {
            return Err(Error::OutOfRange { row, n_rows: self.n_rows() });
        };
        let wrong = |reason: String| Error::File { file: self.path.to_path_buf(), reason };
        let bytes = self.file.read(begin, length as usize).map_err(|e| wrong(e.to_string()))?;
        match serde_json::from_slice(&bytes) {
            Ok(value) => Ok(value),
            // The parser's own words name a line of the row; they hold none of its text.
            Err(error) if error.is_syntax() || error.is_data() || error.is_eof() => {
                let fault = Fault::Layout("its text is not JSON");
                Err(Error::Row { file: self.path.clone(), row: row as u64, id: unnamed(&self.path, row), fault })
            }
            Err(error) => Err(wrong(error.to_string())),
        }
    }
}

impl Text {
    pub(crate) fn with_page(self, image: Bytes) -> RawRow {
        let Self { id, place, image_path, turns } = self;
        RawRow { id, place, image, image_path: Some(image_path), turns }
    }
}

/// The key under which a path is looked for; `./a.png` is `a.png`.
pub(crate) fn path_key(path: &str) -> PageKey {
    page_key(&blake3::hash(path.trim_start_matches("./").as_bytes()))
}

fn id_of(value: &Value, file: &Path, row: usize) -> String {
    match value.get("id") {
        Some(Value::String(id)) if !id.is_empty() => id.clone(),
        Some(Value::Number(id)) => id.to_string(),
        _ => unnamed(file, row),
    }
}

fn turns_cell(value: &Value) -> &Value {
    ["conversations", "conversation", "messages"].iter().find_map(|name| value.get(name)).unwrap_or(&Value::Null)
}

/// The path of the row's page: a text, an object with a `path`, or a list of one of them.
pub(crate) fn image_path(value: &Value) -> std::result::Result<String, Fault> {
    let path = |value: &Value| match value {
        Value::String(path) => Some(path.clone()),
        Value::Object(_) => value.get("path").and_then(Value::as_str).map(str::to_owned),
        _ => None,
    };
    let cell = ["image", "images", "image_path"].iter().find_map(|name| value.get(name));
    let found = match cell {
        Some(Value::Array(items)) if items.len() > 1 => return Err(Fault::ManyImages(items.len())),
        Some(Value::Array(items)) => items.first().and_then(path),
        Some(value) => path(value),
        None => None,
    };
    found.filter(|path| !path.is_empty()).ok_or(Fault::NoImage("the row names none"))
}

/// Finds the objects of a JSON list, or those that follow each other, without reading what is in them.
#[derive(Default)]
struct Scan {
    places: Vec<(u64, u32)>,
    /// Open braces and brackets of the current row.
    depth: u32,
    begin: u64,
    in_text: bool,
    escaped: bool,
    list: Option<bool>,
    ended: bool,
}

impl Scan {
    fn feed(&mut self, at: u64, chunk: &[u8]) -> std::result::Result<(), String> {
        for (place, &byte) in (at..).zip(chunk) {
            if self.depth > 0 {
                self.inside(place, byte)?;
            } else {
                self.between(place, byte)?;
            }
        }
        Ok(())
    }

    fn inside(&mut self, place: u64, byte: u8) -> std::result::Result<(), String> {
        match (self.in_text, byte) {
            (true, _) if self.escaped => self.escaped = false,
            (true, b'\\') => self.escaped = true,
            (_, b'"') => self.in_text = !self.in_text,
            (true, _) => {}
            (false, b'{' | b'[') => self.depth += 1,
            (false, b'}' | b']') => self.depth -= 1,
            _ => {}
        }
        let length = place + 1 - self.begin;
        if length > MAX_ROW {
            return Err(format!("row {}: more than {MAX_ROW} bytes, which no row has", self.places.len()));
        }
        if self.depth == 0 {
            self.places.push((self.begin, length as u32));
        }
        Ok(())
    }

    fn between(&mut self, place: u64, byte: u8) -> std::result::Result<(), String> {
        let odd = |what: &str| Err(format!("byte {place}: {what}"));
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => Ok(()),
            0xef | 0xbb | 0xbf if place < 3 => Ok(()), // A byte order mark.
            _ if self.ended => odd("something stands behind the end of the list"),
            b'{' => {
                self.list.get_or_insert(false);
                (self.depth, self.begin) = (1, place);
                Ok(())
            }
            b'[' if self.list.is_none() => {
                self.list = Some(true);
                Ok(())
            }
            b',' if self.list == Some(true) && !self.places.is_empty() => Ok(()),
            b']' if self.list == Some(true) => {
                self.ended = true;
                Ok(())
            }
            _ => odd("is neither a list of rows nor one row a line"),
        }
    }

    fn end(self) -> std::result::Result<Vec<(u64, u32)>, String> {
        match (self.depth, self.list, self.ended) {
            (0, Some(true), false) => Err("ends inside its list of rows".into()),
            (0, ..) => Ok(self.places),
            _ => Err(format!("ends inside row {}", self.places.len())),
        }
    }
}

#[cfg(test)]
mod tests;
