//! Rows in, batches out: parquet, pages, chat template, tokens, labels, order, loader.
//! It never reads the network, writes no file, and its errors name rows by id, never by their text or page.

mod batch;
mod cell;
mod dataset;
mod error;
mod loader;
mod order;
mod page;
mod resize;
mod row;
mod stored;
mod template;
mod text;
mod turns;

pub use batch::{Batch, Example, IGNORE, Sample};
pub use dataset::{Dataset, Sources};
pub use error::{Error, Fault, PageError, Result};
pub use loader::{Loader, LoaderOptions, MicroPlan};
pub use order::{Order, Shuffle};
pub use page::page;
pub use row::{Message, Part, Place, Role, Row};
pub use template::{Ids, LossOn, Template, TemplateOptions};

#[cfg(test)]
mod fixtures;
