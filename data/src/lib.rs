//! Rows in, batches out: parquet, pages, chat template, tokens, labels, order, loader.
//! It never reads the network, writes no file, and its errors name rows by id, never by their text or page.

mod batch;
mod error;
mod order;
mod row;

pub use batch::{Batch, Example, IGNORE, Sample};
pub use error::{Error, Fault, PageError, Result};
pub use order::{Order, Shuffle};
pub use row::{Message, Part, Place, Role, Row};
