//! A prepared folder of any size without its rows: manifest, index and files of the right length, but nothing in them.
//! What opening and ordering a large data set cost is measured on one (`ecg-train bench open`); no row can be read from it.

use std::fs::File;
use std::path::Path;

use parquet::errors::Result as ParquetResult;
use storage::StagedDir;

use crate::manifest::{FileHash, MANIFEST, Manifest, Origin, Shard, StoredPages};
use crate::order::mix;
use crate::rows_index::{self, Rows};
use crate::{Error, PageHash, Result};

/// Rows of a shard, some 40 MB of pages.
const SHARD_ROWS: usize = 1200;
const SHARD_BYTES: u64 = 40 << 20;
/// Rows that ask about one page, on average.
const ROWS_PER_PAGE: usize = 4;

/// Makes `folder` a prepared folder of `n_rows` rows, some four a page. `in_source_order`: the shards hold the rows in the
/// order of their source, as they do unless it was archives.
///
/// # Errors
/// It cannot be written.
pub fn hollow(folder: &Path, n_rows: usize, in_source_order: bool) -> Result<()> {
    let source = Origin {
        kind: if in_source_order { "parquet" } else { "json+tar" }.into(),
        paths: Vec::new(),
        include: String::new(),
        revision: None,
        fingerprint: "0".repeat(64),
    };
    let mut manifest = Manifest::new(source, StoredPages::Original, in_source_order);
    let rows = rows(n_rows, in_source_order);
    let staged = StagedDir::new(folder)?;
    let write = |name: &str, bytes: ParquetResult<Vec<u8>>| -> Result<FileHash> {
        let bytes = bytes.map_err(|e| Error::Shard { file: folder.join(name), reason: e.to_string() })?;
        Ok(FileHash::new(name, &bytes, staged.write(name, &bytes)?))
    };
    manifest.index = Some(write(rows_index::FILE, rows_index::encode(&rows))?);
    manifest.looks = Some(write(rows_index::LOOKS_FILE, rows_index::encode_looks(&rows))?);
    for first in (0..n_rows).step_by(SHARD_ROWS) {
        let file = format!("part-{:05}.parquet", first / SHARD_ROWS);
        let path = staged.path().join(&file);
        let empty = File::create(&path).and_then(|file| file.set_len(SHARD_BYTES));
        empty.map_err(|e| Error::File { file: path, reason: e.to_string() })?;
        let rows = SHARD_ROWS.min(n_rows - first) as u64;
        let hash = "0".repeat(64);
        manifest.shards.push(Shard {
            file,
            rows,
            bytes: SHARD_BYTES,
            blake3: hash.clone(),
            footer_bytes: 1 << 14,
            footer_blake3: hash,
        });
    }
    (manifest.rows, manifest.distinct_pages) = (n_rows as u64, n_rows.div_ceil(ROWS_PER_PAGE) as u64);
    staged.write(MANIFEST, &manifest.to_json())?;
    Ok(staged.publish()?)
}

fn rows(n_rows: usize, in_source_order: bool) -> Rows {
    let numbers = 0..n_rows as u64;
    let page = |row: u64| mix(row) % n_rows.div_ceil(ROWS_PER_PAGE) as u64;
    // A stride that is prime goes through all rows of any source that is no multiple of it.
    let stride =
        [1_000_003, 1_000_033].into_iter().find(|&stride| !(n_rows as u64).is_multiple_of(stride)).unwrap_or(1);
    let source_row = |row: u64| if in_source_order { row } else { row * stride % n_rows as u64 };
    Rows {
        ids: numbers.clone().map(|row| format!("ptb-xl-{row:07}")).collect(),
        image_paths: numbers.clone().map(|row| Some(format!("ptb-xl/{:06}.png", page(row)))).collect(),
        pages: numbers.clone().map(|row| u128::from(page(row)).to_le_bytes()).collect(),
        looks: numbers
            .clone()
            .map(|row| PageHash::from_bytes(*blake3::hash(&page(row).to_le_bytes()).as_bytes()))
            .collect(),
        text_bytes: numbers.clone().map(|row| 100 + (mix(!row) % 1500) as u32).collect(),
        source_rows: numbers.map(source_row).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::{Dataset, Sources};

    #[test]
    fn it_opens_and_tells_everything_but_rows() {
        let dir = tempfile::tempdir().unwrap();
        for in_source_order in [true, false] {
            let folder = dir.path().join(in_source_order.to_string());
            hollow(&folder, 3001, in_source_order).unwrap();
            let files: Vec<PathBuf> = vec![folder];
            let data = Dataset::open(&Sources { files, ..Sources::default() }).unwrap();
            assert_eq!((data.len(), data.pages().unwrap().len(), data.looks().unwrap().len()), (3001, 3001, 3001));
            let mut ids = data.ids().unwrap();
            assert_eq!(ids.is_sorted(), in_source_order);
            ids.sort_unstable();
            ids.dedup();
            assert_eq!(ids.len(), 3001, "every row has its place");
            assert!(data.row(5).is_err());
        }
    }
}
