//! `ecg-train generate`: greedy answers about pages given on the command line, or about every row of a data set.
//! It never trains, and writes its answers where it was told to and nowhere else.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use data::{Dataset, Fault, Message, Part, Role, Row, Sources, Template};
use indicatif::{ProgressBar, ProgressStyle};
use model::engine::{Cpu, Precision};
use model::generate::{GenerateRequest, Generator};
use model::{ModelConfig, Ops};
use serde::{Deserialize, Serialize};

use crate::cli::GenerateArgs;
use crate::{Error, places, print, say};

/// Rows read ahead, in batches: the more, the fuller the batches of prompts of one length.
const BATCHES_AHEAD: usize = 16;
/// A page on disk is refused above this, before it is read.
const MAX_PAGE_BYTES: u64 = 256 << 20;

/// One line of the file of answers.
#[derive(Debug, Serialize, Deserialize)]
pub struct Answer {
    /// Row id.
    pub id: String,
    /// The row's first question.
    pub question: String,
    /// What the model said.
    pub answer: String,
    /// What the row says.
    pub expected: String,
}

/// Answers one prompt on stdout, or all rows of `--data` into `--out`.
///
/// # Errors
/// A model folder, page or row that cannot be used; the file of answers then keeps its previous content.
pub fn run(args: &GenerateArgs) -> Result<(), Error> {
    let model = places::model(&args.model)?;
    let config = ModelConfig::open(&model)?;
    let template = Template::open(&model, trainer::template_options(&config, false))?;
    let generator = Generator::open(Cpu::new(Precision::F32), &model, args.adapter.as_deref())?;
    let answerer = Answerer { template, generator, max_new_tokens: args.max_new_tokens as usize };
    if let (Some(data), Some(out)) = (&args.data, &args.out) {
        return answerer.answer_rows(data, out, args.batch_size as usize);
    }
    let pages = args.image.iter().map(|path| read_page(path, config.vision.image_size)).collect::<Result<_, _>>()?;
    answerer.answer_aloud(pages, args.prompt.as_deref().unwrap_or_default())
}

struct Answerer<O: Ops> {
    template: Template,
    generator: Generator<O>,
    max_new_tokens: usize,
}

/// A row's first question, ready to be asked.
struct Question {
    row: Row,
    input_ids: Vec<u32>,
    text: String,
    expected: String,
}

impl<O: Ops> Answerer<O> {
    /// One answer, on stdout as it comes.
    fn answer_aloud(&self, pages: Vec<Vec<u8>>, prompt: &str) -> Result<(), Error> {
        let mut parts = vec![Part::Image; pages.len()];
        parts.push(Part::Text(prompt.to_owned()));
        let input_ids = self.template.prompt(&[Message { role: Role::User, parts }]).map_err(Error::Prompt)?;
        let (mut tokens, mut said) = (Vec::new(), String::new());
        self.generator.generate(&[GenerateRequest { input_ids, pages }], self.max_new_tokens, &mut |_, token| {
            tokens.push(token);
            let text = self.template.decode(&tokens);
            // A character may be spread over several tokens; it is shown once it is whole.
            if let Some(new) = text.strip_prefix(&said).filter(|new| !new.ends_with(char::REPLACEMENT_CHARACTER)) {
                print(new.as_bytes());
                said = text;
            }
        })?;
        print(b"\n");
        Ok(())
    }

    /// The first question of every row of `data`, answered in batches; one JSON line a row, in the order of the rows.
    fn answer_rows(&self, data: &str, out: &Path, batch_size: usize) -> Result<(), Error> {
        let files = vec![PathBuf::from(data)];
        let dataset =
            Dataset::open(&Sources { files, image_folder: None, include: String::new(), keep_image_marker: false })?;
        let style = ProgressStyle::with_template("{pos}/{len} rows answered, {eta} left");
        let bar =
            ProgressBar::new(dataset.len() as u64).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        let mut lines = String::new();
        for begin in (0..dataset.len()).step_by(batch_size * BATCHES_AHEAD) {
            let end = dataset.len().min(begin + batch_size * BATCHES_AHEAD);
            let questions = (begin..end).map(|i| self.question(dataset.row(i)?)).collect::<Result<Vec<_>, Error>>()?;
            for (question, answer) in questions.iter().zip(self.answer(&questions, batch_size, &bar)?) {
                let Question { row, text, expected, .. } = question;
                let line = Answer { id: row.id.clone(), question: text.clone(), answer, expected: expected.clone() };
                let _ = writeln!(lines, "{}", serde_json::json!(line)); // A String takes whatever is written.
            }
        }
        bar.finish_and_clear();
        storage::publish_file(out, lines.as_bytes())?;
        say(&format!("{} rows answered: {}", dataset.len(), out.display()));
        Ok(())
    }

    fn question(&self, row: Row) -> Result<Question, Error> {
        let asked = row.messages.iter().position(|m| m.role == Role::Assistant).unwrap_or(row.messages.len());
        let (prompt, answers) = row.messages.split_at(asked);
        let input_ids = self.template.prompt(prompt).map_err(|fault| of_row(&row, fault))?;
        let text = prompt.last().map(words).unwrap_or_default();
        let expected = answers.first().map(words).unwrap_or_default();
        Ok(Question { input_ids, text, expected, row })
    }

    /// Answers in the order of the questions. Prompts of one length are asked together.
    fn answer(&self, questions: &[Question], batch_size: usize, bar: &ProgressBar) -> Result<Vec<String>, Error> {
        let mut by_length: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (i, question) in questions.iter().enumerate() {
            by_length.entry(question.input_ids.len()).or_default().push(i);
        }
        let mut answers = vec![String::new(); questions.len()];
        for batch in by_length.values().flat_map(|same| same.chunks(batch_size)) {
            let requests = batch.iter().map(|&i| self.request(&questions[i])).collect::<Result<Vec<_>, _>>()?;
            let tokens = self.generator.generate(&requests, self.max_new_tokens, &mut |_, _| {})?;
            for (&i, tokens) in batch.iter().zip(&tokens) {
                answers[i] = self.template.decode(tokens);
            }
            bar.inc(batch.len() as u64);
        }
        Ok(answers)
    }

    fn request(&self, question: &Question) -> Result<GenerateRequest, Error> {
        let size = self.generator.config().vision.image_size;
        let page = data::page(&question.row.image, size).map_err(|error| of_row(&question.row, Fault::Page(error)))?;
        Ok(GenerateRequest { input_ids: question.input_ids.clone(), pages: vec![page] })
    }
}

fn of_row(row: &Row, fault: Fault) -> Error {
    let (file, id) = (row.place.file.clone(), row.id.clone());
    Error::Data(data::Error::Row { file, row: row.place.row, id, fault })
}

fn words(message: &Message) -> String {
    let text = |part: &Part| match part {
        Part::Text(text) => Some(text.trim().to_owned()),
        Part::Image => None,
    };
    message.parts.iter().filter_map(text).collect::<Vec<_>>().join("\n")
}

fn read_page(path: &Path, image_size: usize) -> Result<Vec<u8>, Error> {
    let length = std::fs::metadata(path).map_err(Error::file(path, "read"))?.len();
    if length > MAX_PAGE_BYTES {
        return Err(Error::file(path, "read")(std::io::ErrorKind::FileTooLarge.into()));
    }
    let bytes = std::fs::read(path).map_err(Error::file(path, "read"))?;
    data::page(&bytes, image_size).map_err(|source| Error::Page { path: path.to_owned(), source })
}
