//! `manifest.json` of a prepared folder: which shards it has, what is in them, where that came from and what was left out.
//! It never trusts the file it is read from: names stay inside the folder, and sums have to agree.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::store::failed;
use crate::{Error, Result, Store};

/// Name of the file; published last, so that a folder that has it is complete.
pub const MANIFEST: &str = "manifest.json";
/// Name while the folder is being prepared.
pub(crate) const UNFINISHED: &str = "manifest.unfinished.json";
const FORMAT: &str = "ecg-train prepared rows";
const VERSION: u32 = 1;
/// Largest manifest read: ten thousand shards have 3 MB.
const MAX_BYTES: u64 = 1 << 30;

/// A prepared folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    format: String,
    version: u32,
    /// Where the rows came from.
    pub source: Origin,
    /// How pages are stored.
    pub pages: StoredPages,
    /// Rows in all shards.
    pub rows: u64,
    /// Pages that differ, among those rows.
    pub distinct_pages: u64,
    /// The shards hold the rows in the order of the source; else `rows.index` says where each one stood.
    pub in_source_order: bool,
    /// Rows by first component of the image path; rows without one stand under the empty name.
    pub folders: BTreeMap<String, u64>,
    /// Every row of the source that is in no shard, and why.
    pub bad_rows: Vec<BadRow>,
    /// Id, image path, page key and text size of every row, for whoever looks at all of them.
    pub index: Option<FileHash>,
    /// What every row's page shows, as a perceptual hash; none in a folder that an older version made.
    #[serde(default)]
    pub looks: Option<FileHash>,
    /// In the order of their rows.
    pub shards: Vec<Shard>,
}

/// Where prepared rows came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// `parquet`, `json` or `json+tar`.
    pub kind: String,
    /// Files, as they were given.
    pub paths: Vec<String>,
    /// Only rows whose image path holds this text; empty for all.
    pub include: String,
    /// Commit of a hub id.
    pub revision: Option<String>,
    /// blake3, in hex, of names and sizes of all source files: another source is not gone on with.
    pub fingerprint: String,
}

/// How a prepared folder stores its pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoredPages {
    /// As the source has them, byte for byte.
    Original,
    /// Resized to so many pixels a side, as lossless PNG.
    Resized(usize),
}

/// One parquet file of a prepared folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shard {
    /// Its name.
    pub file: String,
    /// Its rows.
    pub rows: u64,
    /// Its bytes.
    pub bytes: u64,
    /// blake3 of the file, in hex.
    pub blake3: String,
    /// Bytes of footer and page indexes, at its end.
    pub footer_bytes: u64,
    /// blake3 of those, in hex: checked whenever the shard is first used.
    pub footer_blake3: String,
}

/// Another file of a prepared folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileHash {
    /// Its name.
    pub file: String,
    /// Its bytes.
    pub bytes: u64,
    /// blake3 of the file, in hex.
    pub blake3: String,
}

/// A row that was left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BadRow {
    /// The source file.
    pub file: String,
    /// Row within it, from 0.
    pub row: u64,
    /// The row's id.
    pub id: String,
    /// What is wrong with it; never its text.
    pub reason: String,
}

impl FileHash {
    /// Of a file of these bytes, which have this hash.
    pub(crate) fn new(file: &str, bytes: &[u8], hash: blake3::Hash) -> Self {
        Self { file: file.into(), bytes: bytes.len() as u64, blake3: hash.to_hex().to_string() }
    }
}

impl Manifest {
    /// Of a folder without shards yet.
    pub(crate) fn new(source: Origin, pages: StoredPages, in_source_order: bool) -> Self {
        Self {
            format: FORMAT.into(),
            version: VERSION,
            source,
            pages,
            rows: 0,
            distinct_pages: 0,
            in_source_order,
            folders: BTreeMap::new(),
            bad_rows: Vec::new(),
            index: None,
            looks: None,
            shards: Vec::new(),
        }
    }

    /// Reads the manifest of a folder.
    ///
    /// # Errors
    /// It cannot be read, is of another format or version, or contradicts itself.
    pub fn open(store: &dyn Store, folder: &Path) -> Result<Self> {
        Self::open_as(store, folder, MANIFEST)
    }

    pub(crate) fn open_as(store: &dyn Store, folder: &Path, name: &str) -> Result<Self> {
        let file = folder.join(name);
        let wrong = |reason: String| Error::Manifest { file: file.clone(), reason };
        let opened = store.open(&file).map_err(|e| failed(&file, &e, wrong))?;
        if opened.size() > MAX_BYTES {
            return Err(wrong(format!("{} bytes, more than any manifest has", opened.size())));
        }
        let bytes = opened.read(0, opened.size() as usize).map_err(|e| failed(&file, &e, wrong))?;
        Self::parse(&bytes).map_err(wrong)
    }

    /// Reads a manifest's bytes; `Err` says what is wrong with them.
    ///
    /// # Errors
    /// Another format or version, a name that leaves the folder, sums that do not agree.
    pub fn parse(bytes: &[u8]) -> std::result::Result<Self, String> {
        #[derive(Deserialize)]
        struct Head {
            format: String,
            version: u32,
        }
        let head: Head = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        if (head.format.as_str(), head.version) != (FORMAT, VERSION) {
            return Err(format!("it is {:?} version {}, not {FORMAT:?} version {VERSION}", head.format, head.version));
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        let names = manifest.shards.iter().map(|s| &s.file).chain(manifest.indexes().map(|i| &i.file));
        if let Some(odd) = names.into_iter().find(|name| !is_plain(name)) {
            return Err(format!("{odd:?} is no name of a file in the folder"));
        }
        let rows = manifest.shards.iter().try_fold(0_u64, |sum, shard| sum.checked_add(shard.rows));
        // Every row takes more than a byte: a larger claim is damage, and would size buffers.
        if rows != Some(manifest.rows) || manifest.shards.iter().any(|s| s.rows > s.bytes || s.footer_bytes > s.bytes) {
            return Err(format!("its shards do not hold the {} rows that it promises", manifest.rows));
        }
        if let StoredPages::Resized(0) = manifest.pages {
            return Err("pages of 0 pixels".into());
        }
        Ok(manifest)
    }

    /// The files beside the shards.
    pub(crate) fn indexes(&self) -> impl Iterator<Item = &FileHash> + Clone {
        self.index.iter().chain(&self.looks)
    }

    /// The file's bytes.
    pub(crate) fn to_json(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(self).expect("texts and numbers are JSON");
        text.push(b'\n');
        text
    }
}

/// A file name, and not a path that leads elsewhere.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\', '\0'])
}

#[cfg(test)]
mod tests;
