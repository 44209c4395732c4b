//! `ecg-train generate`: answers about pages given on the command line, in a conversation, or of a whole data set.
//! It never trains, and writes its answers where it was told to and nowhere else.

mod answers;
mod conversation;
mod rows;
mod terminal;

use std::path::{Path, PathBuf};

use data::Template;
use model::engine::{Device, Precision, Work};
use model::generate::{Answer as Tokens, GenerateRequest, Generator};
use model::{GenerationConfig, ModelConfig, Ops, Sampling};

use crate::cli::{GenerateArgs, SamplingArgs};
use crate::{Error, places};

pub use answers::Answer;
pub use conversation::Markers;
use conversation::{Conversation, Pages};
use rows::Questions;

/// Answers one prompt or conversation on stdout, or everything that is asked into `--out`.
///
/// # Errors
/// A model folder, page or row that cannot be used; the file of answers then keeps its previous content.
pub fn run(args: &GenerateArgs) -> Result<(), Error> {
    Device::first(args.gpus.is_some(), args.backend)?.run(Precision::F32, Asked(args))?
}

/// Everything that is asked, without an engine.
struct Asked<'a>(&'a GenerateArgs);

impl Work for Asked<'_> {
    type Done = Result<(), Error>;

    fn on<O: Ops>(self, ops: O) -> Self::Done {
        run_on(self.0, ops)
    }
}

/// A page of a file as a model with this side sees it.
///
/// # Errors
/// The file cannot be read or is no page.
pub(crate) fn page(path: &Path, size: usize) -> Result<Vec<u8>, Error> {
    Pages { size }.read(path)
}

fn run_on<O: Ops>(args: &GenerateArgs, ops: O) -> Result<(), Error> {
    let folders = Folders::find(args)?;
    let config = ModelConfig::open(&folders.model)?;
    let pages = Pages { size: config.vision.image_size };
    // What was typed is looked at before the weights are read, which takes longest.
    let given = args.image.iter().map(|path| pages.read(path)).collect::<Result<Vec<_>, _>>()?;
    let asked = match (&args.prompt, &args.messages) {
        (Some(prompt), _) if args.images.is_none() => {
            Some(Conversation::of_prompt(args.system.as_deref(), prompt, given.clone())?)
        }
        (_, Some(file)) => Some(Conversation::of_file(file, &pages, given.clone())?),
        _ => None,
    };
    let questions = match (&args.data, &args.images, &args.prompt) {
        (Some(data), ..) => Some(Questions::of_data(data, &config)?),
        (_, Some(images), Some(prompt)) => Some(Questions::of_pages(images, args.system.as_deref(), prompt)?),
        _ => None,
    };
    let defaults = GenerationConfig::open(&folders.model, &config)?;
    let answerer = Answerer {
        template: Template::open(&folders.model, trainer::template_options(&config, false))?,
        sampling: sampling(&args.sampling, &defaults),
        max_new_tokens: args.max_new_tokens as usize,
        generator: Generator::open(ops, &folders.model, folders.adapter.as_deref())?,
        pages,
    };
    match (asked, questions, &args.out) {
        (Some(asked), ..) => terminal::answer(&answerer, &asked, args.json, args.quiet),
        (_, Some(questions), Some(out)) => rows::answer(&answerer, &folders, &questions, out, args),
        _ => terminal::chat(&answerer, args.system.as_deref(), given, args.quiet),
    }
}

/// Where model and adapter lie.
struct Folders {
    model: PathBuf,
    adapter: Option<PathBuf>,
}

impl Folders {
    fn find(args: &GenerateArgs) -> Result<Self, Error> {
        let adapter = args.adapter.as_deref().map(places::adapter).transpose()?;
        Ok(Self { model: places::model(&args.model)?, adapter })
    }
}

/// How tokens are drawn: as the options say, and where they say nothing, the model's folder.
fn sampling(args: &SamplingArgs, defaults: &GenerationConfig) -> Option<Sampling> {
    args.temperature.map(|temperature| Sampling {
        temperature,
        top_k: args.top_k.map_or(defaults.top_k, |k| k as usize),
        top_p: args.top_p.unwrap_or(defaults.top_p),
        seed: args.seed,
    })
}

/// A model with its template, ready to answer conversations.
struct Answerer<O: Ops> {
    template: Template,
    generator: Generator<O>,
    sampling: Option<Sampling>,
    max_new_tokens: usize,
    pages: Pages,
}

impl<O: Ops> Answerer<O> {
    fn request(&self, asked: &Conversation) -> Result<GenerateRequest, data::Fault> {
        Ok(GenerateRequest { input_ids: self.template.prompt(&asked.messages)?, pages: asked.pages.clone() })
    }

    fn answer(
        &self,
        requests: &[GenerateRequest],
        on_token: &mut dyn FnMut(usize, u32),
    ) -> Result<Vec<Tokens>, model::Error> {
        self.generator.answer(requests, self.max_new_tokens, self.sampling.as_ref(), on_token)
    }
}

#[cfg(test)]
mod tests;
