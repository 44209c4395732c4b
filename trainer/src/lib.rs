//! One rank: resume, then loop over the training step. It starts no process, owns no terminal and reads no environment.
//!
//! Read [`train_step::Trainer::train_step`] first; everything else exists to make its lines true.

pub mod audit;
pub mod bench;
pub mod checkpoint;
pub mod collective;
pub mod config;
mod error;
pub mod evaluation;
mod event;
pub mod faults;
mod held_out;
mod identity;
pub mod journal;
mod lines;
mod open;
pub mod optimizer;
mod phase;
mod places;
pub mod plan;
mod record;
mod refused;
mod run;
pub mod schedule;
pub mod tensorboard;
pub mod train_step;

pub use config::Config;
pub use error::{Error, STOPPED};
pub use event::{Event, Outcome};
pub use open::{learn, memory_load, n_trainable, open_rows, sources, template_options};
pub use phase::Phase;
pub use places::Places;
pub use run::{Deadlines, Endpoint, RunSpec, run};
