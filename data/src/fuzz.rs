//! What fuzzers call: bytes from outside through every reader of this crate, down to tokens and pixels.
//! Nothing here may panic, hang or allocate beyond its limits, whatever the bytes are; `fuzz/` and the tests call the same.

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::archive::{self, Member};
use crate::parquet_file::ParquetFile;
use crate::{LossOn, Manifest, Ranges, Result, Store, Template, TemplateOptions, page, turns};

/// Rows of one input that are looked at.
const ROWS: usize = 64;
/// Pixels a side that pages are resized to.
const IMAGE_SIZE: usize = 32;

/// A store of one file in memory, under any path.
#[derive(Debug, Clone)]
struct Memory(Bytes);

impl Store for Memory {
    fn size(&self, _: &Path) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }

    fn open(&self, _: &Path) -> io::Result<Arc<dyn Ranges>> {
        Ok(Arc::new(self.clone()))
    }
}

impl Ranges for Memory {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read(&self, offset: u64, length: usize) -> io::Result<Bytes> {
        let end =
            usize::try_from(offset).ok().and_then(|begin| begin.checked_add(length)).filter(|end| *end <= self.0.len());
        end.map(|end| self.0.slice(end - length..end)).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

/// The text side of a model folder, with pages of four tokens.
///
/// # Errors
/// As [`Template::open`].
pub fn template(model_dir: &Path) -> Result<Template> {
    let wrong = |reason: String| crate::Error::Model { file: model_dir.join("config.json"), reason };
    let bytes = std::fs::read(model_dir.join("config.json")).map_err(|e| wrong(e.to_string()))?;
    let config: serde_json::Value = serde_json::from_slice(&bytes).map_err(|e| wrong(e.to_string()))?;
    let id = |name: &str| config[name].as_u64().map(|id| id as u32).ok_or_else(|| wrong(format!("has no {name}")));
    let (image_token_index, boi_token_index) = (id("image_token_index")?, id("boi_token_index")?);
    Template::open(
        model_dir,
        TemplateOptions { mm_tokens_per_image: 4, image_token_index, boi_token_index, double_bos: false },
    )
}

/// A parquet file: footer, rows, pages, turns, tokens. True if any row came through.
///
/// parquet 60.1 can loop for ever where damaged levels are skipped: whoever calls it needs a deadline.
pub fn parquet(bytes: &[u8], template: &Template) -> bool {
    let Ok(file) = ParquetFile::open(Arc::new(Memory(Bytes::copy_from_slice(bytes))), "fuzz.parquet".into(), None)
    else {
        return false;
    };
    let _ = (file.ids(), file.image_paths(), file.text_bytes());
    let rows = 0..file.n_rows().min(ROWS);
    rows.filter(|&row| {
        file.row(row).is_ok_and(|raw| learned(raw.turns, template) | page(&raw.image, IMAGE_SIZE).is_ok())
    })
    .count()
        > 0
}

/// A conversation as JSON, in any layout. True if it could be learned from.
pub fn json(bytes: &[u8], template: &Template) -> bool {
    let cell = serde_json::from_slice(bytes).ok();
    cell.and_then(|cell| turns::turns_of(&cell).ok()).is_some_and(|turns| learned(turns, template))
}

/// A `manifest.json`: what is accepted says the same again. True if it was.
pub fn manifest(bytes: &[u8]) -> bool {
    let Ok(manifest) = Manifest::parse(bytes) else { return false };
    let again = Manifest::parse(&manifest.to_json());
    assert!(again.as_ref() == Ok(&manifest), "what was accepted is refused when written again: {again:?}");
    true
}

/// An archive, plain or compressed: members, by the names that rows would ask for. True if any came through.
pub fn archive(bytes: &[u8]) -> bool {
    let mut came = 0;
    let taken = &mut |_: Member, came: &mut usize, page: Vec<u8>| {
        *came += 1;
        image(&page);
        *came < ROWS
    };
    let is_down = |member: &Member| !member.name.starts_with('/') && !member.name.split('/').any(|part| part == "..");
    let wanted = &mut |member: &Member, _: &mut usize| {
        assert!(is_down(member), "a member's name leads out of its folder");
        true
    };
    let read = archive::members(Path::new("fuzz.tar"), bytes, wanted, &mut came, taken);
    read.is_ok() && came > 0
}

/// An encoded page. True if it decodes.
pub fn image(bytes: &[u8]) -> bool {
    page(bytes, IMAGE_SIZE).is_ok_and(|pixels| {
        assert_eq!(pixels.len(), IMAGE_SIZE * IMAGE_SIZE * 3);
        true
    })
}

/// Turns to tokens and labels.
fn learned(turns: Vec<crate::row::Turn>, template: &Template) -> bool {
    turns::messages(turns, false).is_ok_and(|messages| {
        template.encode(&messages, LossOn::All, 512).is_ok_and(|example| {
            assert!(example.input_ids.len() <= 512 && example.labels.len() == example.input_ids.len());
            true
        })
    })
}

#[cfg(test)]
mod tests;
