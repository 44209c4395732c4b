//! Synthetic ECGs for the demo and the tests: signals, pages, questions, a small tokenizer and a random base.
//! Everything is a pure function of [`DemoSpec`]; it knows nothing of models and training, and reads no real patient.

use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

mod base;
mod dataset;
mod page;
mod patient;
mod questions;
mod random;
mod score;
mod signal;
mod table;
mod tokenizer;
mod weights;

pub use dataset::held_out;
pub use page::{draw, png};
pub use patient::{Axis, Patient, Rate};
pub use questions::Question;
pub use score::{HeldOut, accuracy, best_constant};
pub use signal::{Ecg, Lead, SAMPLE_RATE, SECONDS};

/// Everything that the demo's files depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DemoSpec {
    /// Seed of patients, order of questions and base.
    pub seed: u64,
    /// Patients to train on, one row and one page each.
    pub n_train: usize,
    /// Held-out patients, one row for each question; at least two, so that there is a wrong page to show.
    pub n_test: usize,
    /// Width and height of a page in pixels, a multiple of 56: 14 for a patch, times 4 for a row of soft tokens.
    pub image_size: usize,
    /// What is asked about every page.
    pub questions: Vec<Question>,
    /// Threads that draw; the files do not depend on it.
    pub n_threads: NonZeroUsize,
}

/// The files that [`write_demo`] wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DemoFiles {
    /// Model folder of the frozen random base, as on the hub.
    pub base: PathBuf,
    /// Training rows, in the order in which they are meant to be read.
    pub train: Vec<PathBuf>,
    /// Held-out rows with the patient's own page; [`held_out`] lists them.
    pub held_out: PathBuf,
    /// The same rows with blank paper.
    pub held_out_blank: PathBuf,
    /// The same rows with the page of the next patient.
    pub held_out_wrong_page: PathBuf,
}

/// Pages drawn so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Pages that are ready.
    pub n_done: usize,
    /// Pages that will be drawn in all.
    pub n_pages: usize,
}

/// Why the demo's files could not be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The files cannot be made as asked.
    #[error("demo: {name} is {actual}, expected {expected}; change it and run the command again")]
    Spec {
        /// Field of [`DemoSpec`].
        name: &'static str,
        /// What it holds.
        actual: String,
        /// What it may hold.
        expected: &'static str,
    },
    /// A folder could not be made.
    #[error("{path}: the folder cannot be created; choose another folder", path = path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A page could not be encoded.
    #[error("{path}: cannot be encoded as PNG; this is a defect of ecg-train, report it")]
    Page {
        /// Its place in the data set.
        path: String,
        /// What the encoder says.
        source: image::ImageError,
    },
    /// Rows could not be encoded.
    #[error("{path}: cannot be encoded as parquet; this is a defect of ecg-train, report it", path = path.display())]
    Rows {
        /// File that was to be written.
        path: PathBuf,
        /// What the encoder says.
        source: parquet::errors::ParquetError,
    },
    /// Weights could not be encoded.
    #[error("{path}: cannot be encoded as safetensors; this is a defect, report it", path = path.display())]
    Weights {
        /// File that was to be written.
        path: PathBuf,
        /// What the encoder says.
        source: safetensors::SafeTensorError,
    },
    /// A file could not be published.
    #[error(transparent)]
    Storage(#[from] storage::Error),
}

impl DemoSpec {
    /// The demo: four questions about 3,000 patients, 300 held out.
    #[must_use]
    pub fn full(seed: u64, n_threads: NonZeroUsize) -> Self {
        Self { seed, n_train: 3000, n_test: 300, image_size: 112, questions: Question::ALL.to_vec(), n_threads }
    }

    /// The small variant for tests: three questions, without ST elevation.
    #[must_use]
    pub fn small(seed: u64, n_threads: NonZeroUsize) -> Self {
        Self { questions: Question::WITHOUT_ST.to_vec(), ..Self::full(seed, n_threads) }
    }

    fn check(&self) -> Result<(), Error> {
        let spec = |name, actual: String, expected| Err(Error::Spec { name, actual, expected });
        let mut distinct = self.questions.clone();
        distinct.sort_unstable();
        distinct.dedup();
        if !(1..=dataset::MAX_PATIENTS).contains(&self.n_train) {
            return spec("n_train", self.n_train.to_string(), "1 to 1000000 patients");
        }
        if !(2..=dataset::MAX_PATIENTS).contains(&self.n_test) {
            return spec("n_test", self.n_test.to_string(), "2 to 1000000 patients");
        }
        if !(56..=1792).contains(&self.image_size) || !self.image_size.is_multiple_of(56) {
            return spec("image_size", self.image_size.to_string(), "a multiple of 56, at most 1792");
        }
        if distinct.is_empty() || distinct.len() != self.questions.len() {
            return spec("questions", format!("{:?}", self.questions), "one to four different questions");
        }
        Ok(())
    }
}

/// Writes the demo's base, training rows and held-out rows below `dir`; files of an earlier attempt are replaced.
/// `progress` is called on this thread after every page.
///
/// # Errors
/// A spec that cannot be met, or a file that cannot be written; what was published before is complete.
pub fn write_demo(dir: &Path, spec: &DemoSpec, progress: &mut dyn FnMut(Progress)) -> Result<DemoFiles, Error> {
    spec.check()?;
    let (base, data) = (dir.join("base"), dir.join("data"));
    for path in [&base, &data] {
        std::fs::create_dir_all(path).map_err(|source| Error::Folder { path: path.clone(), source })?;
    }
    base::write(&base, spec.seed, spec.image_size)?;
    let mut n_done = 0;
    let mut on_page = || {
        n_done += 1;
        progress(Progress { n_done, n_pages: spec.n_train + spec.n_test });
    };
    let train = dataset::write_train(&data, spec, &mut on_page)?;
    let [held_out, held_out_blank, held_out_wrong_page] = dataset::write_held_out(&data, spec, &mut on_page)?;
    Ok(DemoFiles { base, train, held_out, held_out_blank, held_out_wrong_page })
}

#[cfg(test)]
mod tests;
