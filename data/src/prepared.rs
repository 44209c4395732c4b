//! A prepared folder as rows by index: the manifest says which shard holds a row, and a shard is opened when it is needed.
//! It never reads a shard to open the folder, and never hands out a row that is not the one which was written.

use std::path::Path;
use std::sync::Arc;

use crate::manifest::{Manifest, StoredPages};
use crate::parquet_file::ParquetFile;
use crate::row::RawRow;
use crate::rows_index::{IMAGE_PATH, Index};
use crate::shard::PageKey;
use crate::{Error, PageHash, Result, Store};

/// Random access to the rows of a prepared folder, in the order of its source.
#[derive(Debug)]
pub(crate) struct Prepared {
    store: Arc<dyn Store>,
    folder: Arc<Path>,
    manifest: Manifest,
    shards: Vec<ParquetFile>,
    /// First row of each shard.
    firsts: Vec<usize>,
    /// Where the shards hold row 0, 1, ... of the source; none if they stand in its order.
    stored_at: Option<Vec<u32>>,
}

impl Prepared {
    /// Reads the manifest and compares the sizes of all shards; their footers are read when rows are.
    pub(crate) fn open(store: Arc<dyn Store>, folder: &Path) -> Result<Self> {
        let manifest = Manifest::open(&*store, folder)?;
        let mut first = 0;
        let (mut shards, mut firsts) = (Vec::new(), Vec::new());
        for shard in &manifest.shards {
            shards.push(ParquetFile::shard(store.clone(), folder, shard)?);
            firsts.push(first);
            first += shard.rows as usize;
        }
        let mut prepared = Self { store, folder: folder.into(), manifest, shards, firsts, stored_at: None };
        if !prepared.manifest.in_source_order {
            let rows = prepared.index()?.source_rows()?;
            let mut stored_at: Vec<u32> = (0..rows.len() as u32).collect();
            stored_at.sort_unstable_by_key(|&at| rows[at as usize]);
            prepared.stored_at = Some(stored_at);
        }
        Ok(prepared)
    }

    pub(crate) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn n_rows(&self) -> usize {
        self.manifest.rows as usize
    }

    /// Pixels a side of the stored pages; none if they are the source's own.
    pub(crate) fn stored_size(&self) -> Option<usize> {
        match self.manifest.pages {
            StoredPages::Original => None,
            StoredPages::Resized(size) => Some(size),
        }
    }

    pub(crate) fn row(&self, row: usize) -> Result<RawRow> {
        let (shard, at) = self.find(row);
        shard.row(at)
    }

    pub(crate) fn row_id(&self, row: usize) -> Result<String> {
        let (shard, at) = self.find(row);
        shard.row_id(at)
    }

    /// Key of every row's page.
    pub(crate) fn pages(&self) -> Result<Vec<PageKey>> {
        Ok(self.in_order(self.index()?.pages()?))
    }

    /// Bytes of every row's texts.
    pub(crate) fn text_bytes(&self) -> Result<Vec<u32>> {
        Ok(self.in_order(self.index()?.text_bytes()?))
    }

    /// Id of every row.
    pub(crate) fn ids(&self) -> Result<Vec<String>> {
        let mut ids = Vec::with_capacity(self.n_rows());
        self.index()?.texts("id", &mut |_, id| ids.push(id.unwrap_or_default().to_owned()))?;
        Ok(self.in_order(ids))
    }

    /// Image path of every row.
    pub(crate) fn image_paths(&self) -> Result<Vec<Option<String>>> {
        let mut paths = Vec::with_capacity(self.n_rows());
        self.index()?.texts(IMAGE_PATH, &mut |_, path| paths.push(path.map(str::to_owned)))?;
        Ok(self.in_order(paths))
    }

    /// What every row's page shows.
    pub(crate) fn looks(&self) -> Result<Vec<PageHash>> {
        let Some(known) = &self.manifest.looks else {
            return Err(Error::NotPrepared { file: self.folder.to_path_buf(), what: "what pages show" });
        };
        let looks = Index::open(&*self.store, &self.folder, known, self.n_rows())?.looks()?;
        Ok(self.in_order(looks))
    }

    fn in_order<T: Clone>(&self, as_stored: Vec<T>) -> Vec<T> {
        match &self.stored_at {
            None => as_stored,
            Some(stored_at) => stored_at.iter().map(|&at| as_stored[at as usize].clone()).collect(),
        }
    }

    fn index(&self) -> Result<Index> {
        let missing = || Error::Shard { file: self.folder.join("rows.index"), reason: "is not in the manifest".into() };
        let known = self.manifest.index.as_ref().ok_or_else(missing)?;
        Index::open(&*self.store, &self.folder, known, self.n_rows())
    }

    /// The shard of a row, and the row within it.
    fn find(&self, row: usize) -> (&ParquetFile, usize) {
        let at = self.stored_at.as_ref().map_or(row, |stored_at| stored_at[row] as usize);
        let shard = self.firsts.partition_point(|&first| first <= at) - 1;
        (&self.shards[shard], at - self.firsts[shard])
    }
}

#[cfg(test)]
mod tests;
