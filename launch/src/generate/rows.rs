//! Answers to every row of a data set, or about every page of a folder, in batches, into one file.
//! It never skips a row: one that cannot be asked ends the command with its id, and the answers so far are kept.

use std::path::{Path, PathBuf};

use data::{Dataset, Fault, Message, Role, Row, Sources};
use indicatif::{ProgressBar, ProgressStyle};
use model::generate::GenerateRequest;
use model::{ModelConfig, Ops};

use super::answers::{Answer, Unfinished};
use super::conversation::{self, Conversation};
use super::{Answerer, Folders};
use crate::cli::GenerateArgs;
use crate::{Error, say, stores};

/// What is asked.
pub enum Questions {
    /// The first question of every row.
    Rows(Dataset),
    /// The same question about every page.
    Pages { files: Vec<PathBuf>, asked: Vec<Message>, prompt: String },
}

/// A question ready to be asked, and what its line of the file says beside the answer.
struct Question {
    request: GenerateRequest,
    id: String,
    text: String,
    expected: String,
}

impl Questions {
    /// Of a prepared folder, parquet or JSON files.
    pub fn of_data(data: &str, config: &ModelConfig) -> Result<Self, Error> {
        let files = vec![PathBuf::from(data)];
        let dataset =
            stores::open(&Sources { files, image_folder: None, include: String::new(), keep_image_marker: false })?;
        dataset.require_image_size(config.vision.image_size)?;
        Ok(Self::Rows(dataset))
    }

    /// About the pages of a folder, in the order of their names.
    pub fn of_pages(folder: &Path, system: Option<&str>, prompt: &str) -> Result<Self, Error> {
        let entries = std::fs::read_dir(folder).map_err(Error::file(folder, "list"))?;
        let is_page = |path: &PathBuf| {
            let end = path.extension().unwrap_or_default().to_ascii_lowercase();
            ["png", "jpg", "jpeg"].iter().any(|page| end == *page)
        };
        let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(is_page).collect();
        files.sort();
        if files.is_empty() {
            return Err(Error::NoPages(folder.to_owned()));
        }
        let parts = conversation::parts(prompt, 1).map_err(Error::Markers)?;
        let mut asked = conversation::begin(system);
        asked.push(Message { role: Role::User, parts });
        Ok(Self::Pages { files, asked, prompt: prompt.to_owned() })
    }

    fn len(&self) -> usize {
        match self {
            Self::Rows(dataset) => dataset.len(),
            Self::Pages { files, .. } => files.len(),
        }
    }

    /// What decides the answers, beside the model.
    fn hash(&self, hasher: &mut blake3::Hasher) {
        match self {
            Self::Rows(dataset) => {
                hasher.update(dataset.fingerprint().as_bytes());
            }
            Self::Pages { files, asked, .. } => {
                hasher.update(format!("{asked:?}").as_bytes());
                files.iter().for_each(|file| stamp(file, hasher));
            }
        }
    }

    fn question<O: Ops>(&self, answerer: &Answerer<O>, i: usize) -> Result<Question, Error> {
        match self {
            Self::Rows(dataset) => of_row(answerer, &dataset.row(i)?),
            Self::Pages { files, asked, prompt } => {
                let page = answerer.pages.read(&files[i])?;
                let asked = Conversation { messages: asked.clone(), pages: vec![page] };
                let request = answerer.request(&asked).map_err(Error::Prompt)?;
                let id = files[i].file_name().unwrap_or_default().to_string_lossy().into_owned();
                Ok(Question { request, id, text: prompt.clone(), expected: String::new() })
            }
        }
    }
}

/// The first question of a row.
fn of_row<O: Ops>(answerer: &Answerer<O>, row: &Row) -> Result<Question, Error> {
    let of_row = |fault| Error::Data(row.error(fault));
    let (prompt, answers) = row.at_first_answer();
    let page = data::page(&row.image, answerer.pages.size).map_err(|error| of_row(Fault::Page(error)))?;
    let asked = Conversation { messages: prompt.to_vec(), pages: vec![page] };
    Ok(Question {
        request: answerer.request(&asked).map_err(of_row)?,
        id: row.id.clone(),
        text: prompt.last().map(Message::words).unwrap_or_default(),
        expected: answers.first().map(Message::words).unwrap_or_default(),
    })
}

/// Answers all of them, in their order; an earlier try's answers are taken as they are.
pub fn answer<O: Ops>(
    answerer: &Answerer<O>,
    folders: &Folders,
    questions: &Questions,
    out: &Path,
    args: &GenerateArgs,
) -> Result<(), Error> {
    let (mut answers, done) = Unfinished::open(out, &identity(answerer, folders, questions))?;
    if done > 0 {
        say(&format!("{done} of {} are answered already: going on", questions.len()));
    }
    let style = ProgressStyle::with_template("{pos}/{len} answered, {eta} left");
    let bar = ProgressBar::new(questions.len() as u64)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        .with_position(done as u64);
    bar.reset_eta();
    let batch_size = args.batch_size as usize;
    for begin in (done..questions.len()).step_by(batch_size) {
        let batch = begin..questions.len().min(begin + batch_size);
        let batch = batch.map(|i| questions.question(answerer, i)).collect::<Result<Vec<_>, _>>()?;
        let (requests, lines): (Vec<_>, Vec<_>) =
            batch.into_iter().map(|Question { request, id, text, expected }| (request, (id, text, expected))).unzip();
        let tokens = answerer.answer(&requests, &mut |_, _| {})?;
        let line = |((id, question, expected), tokens): (_, &super::Tokens)| {
            let (answer, ended) = (answerer.template.decode(&tokens.tokens), tokens.ended);
            Answer { id, question, answer, ended, expected }
        };
        answers.add(&lines.into_iter().zip(&tokens).map(line).collect::<Vec<_>>())?;
        bar.inc(tokens.len() as u64);
    }
    bar.finish_and_clear();
    answers.publish(out)?;
    if !args.quiet {
        say(&format!("{} answers: {}", questions.len(), out.display()));
    }
    Ok(())
}

/// A hash of everything that decides the answers; of the weights, of their files' sizes and times.
fn identity<O: Ops>(answerer: &Answerer<O>, folders: &Folders, questions: &Questions) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(format!("{:?} {}\n", answerer.sampling, answerer.max_new_tokens).as_bytes());
    for folder in [Some(&folders.model), folders.adapter.as_ref()].into_iter().flatten() {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut files: Vec<PathBuf> = entries.filter(|path| path.is_file()).collect();
        files.sort();
        files.iter().for_each(|file| stamp(file, &mut hasher));
        hasher.update(b"\n");
    }
    questions.hash(&mut hasher);
    hasher.finalize()
}

/// Name, size and time of a file.
fn stamp(file: &Path, hasher: &mut blake3::Hasher) {
    let known = std::fs::metadata(file).ok().map(|data| (data.len(), data.modified().ok()));
    hasher.update(format!("{file:?} {known:?}\n").as_bytes());
}
