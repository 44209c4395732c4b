//! Rows in, batches out: parquet, JSON, prepared folders, pages, chat template, tokens, labels, order, loader.
//! It never reads the network, publishes files through `storage` alone, and its errors name rows by id, never by text or page.

mod archive;
mod batch;
mod cell;
mod dataset;
mod error;
mod fingerprint;
mod footer;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod hollow;
mod json_rows;
mod loader;
mod manifest;
mod order;
mod ordered;
mod page;
mod parquet_file;
mod perceptual;
mod prepare;
mod prepared;
mod quarantine;
mod resize;
mod row;
mod rows_index;
mod shard;
mod splits;
mod store;
mod stored;
mod template;
mod text;
mod turns;
mod units;

pub use archive::numbered;
pub use batch::{Batch, Example, IGNORE, Sample};
pub use dataset::{Dataset, Sources};
pub use error::{Error, Fault, PageError, Result};
pub use hollow::hollow;
pub use loader::{Loader, LoaderOptions, MicroPlan};
pub use manifest::{BadRow, FileHash, MANIFEST, Manifest, Origin, Shard, StoredPages};
pub use order::{Order, Shuffle};
pub use page::{decode, page};
pub use perceptual::{NearPages, PageHash};
pub use prepare::{
    Cost, Download, Elsewhere, Fetch, Learn, Pinned, PrepareOptions, Prepared, Progress, prepare, verify,
};
pub use resize::Pixels;
pub use row::{Message, Part, Place, Role, Row};
pub use shard::PageKey;
pub use splits::{Leaks, RowKeys, Shared};
pub use store::{Disk, Ranges, Shelf, Store, Unreachable, is_url};
pub use template::{Ids, LossOn, Template, TemplateOptions};
pub use units::{Pages, pack};

#[cfg(test)]
mod fixtures;
