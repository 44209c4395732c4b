//! Rows in, batches out: parquet, prepared folders, pages, chat template, tokens, labels, order, loader.
//! It never reads the network, publishes files through `storage` alone, and its errors name rows by id, never by text or page.

mod batch;
mod cell;
mod dataset;
mod error;
mod loader;
mod manifest;
mod order;
mod ordered;
mod page;
mod parquet_file;
mod prepare;
mod prepared;
mod resize;
mod row;
mod rows_index;
mod shard;
mod store;
mod stored;
mod template;
mod text;
mod turns;

pub use batch::{Batch, Example, IGNORE, Sample};
pub use dataset::{Dataset, Sources};
pub use error::{Error, Fault, PageError, Result};
pub use loader::{Loader, LoaderOptions, MicroPlan};
pub use manifest::{BadRow, FileHash, MANIFEST, Manifest, Origin, Shard, StoredPages};
pub use order::{Order, Shuffle};
pub use page::page;
pub use prepare::{Cost, Learn, PrepareOptions, Prepared, Progress, prepare, verify};
pub use row::{Message, Part, Place, Role, Row};
pub use shard::PageKey;
pub use store::{Disk, Ranges, Store};
pub use template::{Ids, LossOn, Template, TemplateOptions};

#[cfg(test)]
mod fixtures;
