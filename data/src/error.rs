//! What can go wrong between a data set on the disk and a batch, said so that a person can act on it.
//! A message names file, row and id; it never holds a row's text or pixels.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::manifest::BadRow;

/// Shorthand of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// A data set or a model folder that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A path or glob of the configuration leads nowhere.
    #[error(
        "{pattern}: no prepared folder, no parquet and no JSON file with rows there; correct the path, in `data.train` or `data.eval` or on the command line"
    )]
    NoFile {
        /// As configured.
        pattern: String,
    },
    /// The filter leaves nothing.
    #[error("{pattern}: no row's image path holds {include:?}; correct `data.include`")]
    NothingIncluded {
        /// The files, as configured.
        pattern: String,
        /// The filter, as configured.
        include: String,
    },
    /// A file that cannot be opened as what it should be.
    #[error("{}: {reason}; fetch the file again or take it off the list", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What was found.
        reason: String,
    },
    /// More rows than an index holds.
    #[error("{pattern}: {n_rows} rows, more than 4,294,967,295; use fewer files")]
    TooManyRows {
        /// The files, as configured.
        pattern: String,
        /// Their rows.
        n_rows: usize,
    },
    /// A manifest that cannot be used.
    #[error("{}: {reason}; prepare the folder again with `ecg-train prepare`", file.display())]
    Manifest {
        /// The file.
        file: PathBuf,
        /// What was found.
        reason: String,
    },
    /// A folder that `prepare` did not finish.
    #[error("{}: not finished; run the same `ecg-train prepare` command again, it goes on where it stopped", folder.display())]
    Unfinished {
        /// The folder.
        folder: PathBuf,
    },
    /// A file of a prepared folder that is not what its manifest says.
    #[error("{}: {reason}; fetch the file again, or remove the folder and run `ecg-train prepare` again", file.display())]
    Shard {
        /// The file.
        file: PathBuf,
        /// What was found.
        reason: String,
    },
    /// A store that does not answer, or refuses.
    #[error("{}: {reason}", file.display())]
    Store {
        /// Address of the file.
        file: PathBuf,
        /// What happened, and what to do.
        reason: String,
    },
    /// A store's folder without a manifest.
    #[error("{}: no manifest.json there, and of a store only prepared folders are read; correct the address, or make one with `ecg-train prepare --out`", folder.display())]
    NotPreparedThere {
        /// Its address.
        folder: PathBuf,
    },
    /// Prepared pages of another size than the model's.
    #[error("{}: its pages are stored at {stored} x {stored}, the model takes {image_size}; prepare it again for this model", folder.display())]
    OtherSize {
        /// The prepared folder.
        folder: PathBuf,
        /// Pixels a side, as stored.
        stored: usize,
        /// Pixels a side of the model.
        image_size: usize,
    },
    /// Something that only a prepared folder can tell without reading every page.
    #[error("{}: does not say {what} without reading every page; run `ecg-train prepare` and train on its folder", file.display())]
    NotPrepared {
        /// The file.
        file: PathBuf,
        /// What was asked for.
        what: &'static str,
    },
    /// Pages that are in archives.
    #[error("{json}: its pages are in {n_archives} archives, which have no random access; run `ecg-train prepare --source {json} --out DIR` and train on DIR", json = json.display())]
    Archives {
        /// The rows.
        json: PathBuf,
        /// Archives beside it.
        n_archives: usize,
    },
    /// More bad rows than were allowed.
    #[error("more than {max} bad rows; correct them or raise max_bad_rows; the last one: {last}")]
    TooManyBadRows {
        /// How many may be left out.
        max: u64,
        /// The row that was one too many.
        last: String,
    },
    /// A prepared folder without more rows than were allowed.
    #[error(
        "data.max_bad_rows is {max}, the manifests of the prepared folders list {listed} bad rows; raise it, or correct the rows and prepare again"
    )]
    ListedBadRows {
        /// How many may be left out.
        max: u64,
        /// How many were.
        listed: usize,
    },
    /// Every row was left out.
    #[error("{}: not one row is left, {bad_rows} are bad; manifest.unfinished.json there lists them", folder.display())]
    NothingLeft {
        /// The folder being prepared.
        folder: PathBuf,
        /// Rows that were left out.
        bad_rows: usize,
    },
    /// `prepare` would write into a folder that is something else.
    #[error("{}: is not empty, and not from the same source with the same options; remove it or choose another --out", folder.display())]
    OtherFolder {
        /// The folder.
        folder: PathBuf,
    },
    /// Two of them prepare into one folder.
    #[error("{}: another process is preparing into it; wait for it or choose another --out", folder.display())]
    InUse {
        /// The folder.
        folder: PathBuf,
    },
    /// A shard that cannot be written.
    #[error("{}: cannot be written: {reason}; what is finished stays, run the same command again", file.display())]
    Write {
        /// The file or folder.
        file: PathBuf,
        /// What the disk said.
        reason: String,
    },
    /// A file that cannot be published.
    #[error(transparent)]
    Storage(#[from] storage::Error),
    /// Bytes of a parquet file that do not decode.
    #[error("{}: row group {row_group}, row {row}: does not decode: {reason}; fetch the file again", file.display())]
    Damaged {
        /// The parquet file.
        file: Arc<Path>,
        /// Row group, from 0.
        row_group: usize,
        /// Row within the file, from 0.
        row: u64,
        /// What the reader said.
        reason: String,
    },
    /// One row that breaks the rules.
    #[error("{}: row {row} (id {id}): {fault}; correct the row or leave it out", file.display())]
    Row {
        /// The parquet file.
        file: Arc<Path>,
        /// Row within the file, from 0.
        row: u64,
        /// The row's id.
        id: String,
        /// What is wrong with it.
        fault: Fault,
    },
    /// A file of the model folder that cannot be used.
    #[error("{}: {reason}; use a complete Gemma 3 model folder", file.display())]
    Model {
        /// The file.
        file: PathBuf,
        /// What was found.
        reason: String,
    },
    /// An index beyond the data set.
    #[error("row {row} was asked for, the data set has {n_rows}; the run's plan and its data do not fit together")]
    OutOfRange {
        /// The row asked for.
        row: usize,
        /// Rows in the data set.
        n_rows: usize,
    },
    /// Rows do not come.
    #[error(
        "reading and decoding rows: nothing came for {seconds} s; look whether the disk or file system of the data answers"
    )]
    Late {
        /// How long was waited.
        seconds: u64,
    },
    /// A decoding thread met a defect of this program or of a library.
    /// A panic's own words may hold a row's text, so they are not repeated here.
    #[error("{what} panicked, on rows {rows:?}; please report the panic's place, which is in the log")]
    Thread {
        /// What was at work.
        what: &'static str,
        /// Rows of the micro-batch, as indices into the data set.
        rows: Vec<usize>,
    },
}

impl Error {
    /// The row that breaks the rules, if that is what this is about.
    pub(crate) fn bad_row(&self) -> Option<BadRow> {
        let Self::Row { file, row, id, fault } = self else { return None };
        let file = file.display().to_string();
        Some(BadRow { file, row: *row, id: id.clone(), reason: fault.to_string() })
    }

    /// The disk or the network failed, and not the data.
    #[must_use]
    pub fn is_storage(&self) -> bool {
        matches!(self, Self::Storage(_) | Self::Write { .. } | Self::Store { .. })
    }
}

/// What can be wrong with one row.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The conversation column is null or empty.
    #[error("the conversation has no turns")]
    NoTurns,
    /// A conversation cell of no known layout.
    #[error("the conversation is not in a known layout: {0}")]
    Layout(&'static str),
    /// More words than any conversation has.
    #[error("the conversation has {bytes} bytes of text, more than {max}")]
    TooLong {
        /// Bytes of text.
        bytes: usize,
        /// Most that is read.
        max: usize,
    },
    /// A role beside human, user, gpt, assistant, model and system.
    #[error("turn {0} has an unknown role; human, user, gpt, assistant, model and system are known")]
    UnknownRole(usize),
    /// Turns that do not alternate, or do not begin with a question.
    #[error("turn {0} is out of order; user and assistant must take turns, the user first")]
    Order(usize),
    /// The last question is not answered.
    #[error("the conversation does not end with an answer")]
    NoAnswer,
    /// An answer without words.
    #[error("the answer of turn {0} is empty")]
    EmptyAnswer(usize),
    /// No image bytes.
    #[error("there is no image: {0}")]
    NoImage(&'static str),
    /// More than one page.
    #[error("there are {0} images; a row carries one page")]
    ManyImages(usize),
    /// The page does not decode.
    #[error("the page does not decode: {0}")]
    Page(#[from] PageError),
    /// The chat template refuses the turns.
    #[error("the chat template refuses the turns: {0}")]
    Template(String),
    /// The rendered text does not hold one marker a page.
    #[error("the chat template rendered {rendered} image markers for {expected} pages")]
    ImageMarkers {
        /// Markers in the rendered text.
        rendered: usize,
        /// Pages in the turns.
        expected: usize,
    },
    /// The tokenizer made a control token out of words.
    #[error("the tokenizer turns words of the row into the control token {0}")]
    Control(u32),
    /// The tokenizer refuses the text.
    #[error("the tokenizer refuses the text: {0}")]
    Tokenizer(String),
    /// Truncation would cut a page.
    #[error("the image block ends at token {end}, beyond max_seq_len {max_seq_len}; raise `data.max_seq_len`")]
    ImageCut {
        /// Tokens up to and with `<end_of_image>`.
        end: usize,
        /// The limit.
        max_seq_len: usize,
    },
    /// Truncation leaves nothing to learn from.
    #[error("of {len} tokens the first {max_seq_len} hold nothing that `loss_on` supervises; raise `data.max_seq_len`")]
    NothingSupervised {
        /// Tokens before truncation.
        len: usize,
        /// The limit.
        max_seq_len: usize,
    },
}

/// Why a page could not be turned into pixels.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// No bytes at all.
    #[error("0 bytes")]
    Empty,
    /// Another format.
    #[error("neither PNG nor JPEG by its first bytes")]
    Format,
    /// A page of no or of absurd size.
    #[error("{width} x {height} pixels; at least 1, at most {max_side} a side and {max_pixels} in all are read")]
    Size {
        /// Pixels a row.
        width: usize,
        /// Rows.
        height: usize,
        /// Longest side read.
        max_side: usize,
        /// Most pixels read.
        max_pixels: usize,
    },
    /// The decoder refuses the bytes, or panicked on them.
    #[error("{format} is damaged: {reason}")]
    Damaged {
        /// `PNG` or `JPEG`.
        format: &'static str,
        /// What the decoder said.
        reason: String,
    },
}
