//! `merge --verify`: whether the merged model says what base + adapter say, on one page.
//! It holds one model at a time, and judges by the base: a merge that is no nearer than that has lost its adapter.

use std::path::Path;

use data::{Message, Part, Role, Template};
use model::ModelConfig;
use model::engine::{Cpu, Precision};
use model::generate::{GenerateRequest, Generator};

use crate::Error;

const QUESTION: &str = "What does this ECG show?";
/// Of the synthetic page.
const WIDTH: u32 = 1100;

/// How far two models are from each other at the positions of one prompt.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Distance {
    /// Over all logits.
    rms: f64,
    largest: f64,
    /// Share of positions with the same most likely token.
    same_top: f64,
}

/// Compares the logits of three models; returns what to say of them.
///
/// # Errors
/// A model or page that cannot be used; the merged model is no nearer to base + adapter than the base is.
pub(super) fn run(base: &Path, adapter: &Path, merged: &Path, image: Option<&Path>) -> Result<String, Error> {
    let request = request(merged, image)?;
    let logits = |dir: &Path, adapter: Option<&Path>| {
        let generator = Generator::open(Cpu::new(Precision::F32), dir, adapter)?;
        Ok::<_, Error>((generator.logits(&request)?, generator.config().text.vocab_size))
    };
    let (adapted, vocab_size) = logits(base, Some(adapter))?;
    let of_merged = distance(&logits(merged, None)?.0, &adapted, vocab_size);
    let of_base = distance(&logits(base, None)?.0, &adapted, vocab_size);
    judge(of_merged, of_base)
}

fn request(model: &Path, image: Option<&Path>) -> Result<GenerateRequest, Error> {
    let config = ModelConfig::open(model)?;
    let size = config.vision.image_size;
    let page = match image {
        Some(path) => crate::generate::page(path, size)?,
        None => {
            let patient = synth::Patient::new(1, 0);
            let png = synth::png(&synth::draw(Some(&synth::Ecg::new(1, 0, &patient)), WIDTH))
                .map_err(|source| Error::from(synth::Error::Page { path: "the synthetic page".to_owned(), source }))?;
            data::page(&png, size).map_err(|source| Error::Page { path: "the synthetic page".into(), source })?
        }
    };
    let template = Template::open(model, trainer::template_options(&config, false))?;
    let parts = vec![Part::Image, Part::Text(QUESTION.to_owned())];
    let input_ids = template.prompt(&[Message { role: Role::User, parts }]).map_err(Error::Prompt)?;
    Ok(GenerateRequest { input_ids, pages: vec![page] })
}

fn distance(found: &[f32], expected: &[f32], vocab_size: usize) -> Distance {
    let differences = || found.iter().zip(expected).map(|(x, y)| f64::from(x - y).abs());
    let top = |row: &[f32]| (0..row.len()).max_by(|&i, &j| row[i].total_cmp(&row[j]));
    let rows = || found.chunks(vocab_size).zip(expected.chunks(vocab_size));
    Distance {
        rms: (differences().map(|d| d * d).sum::<f64>() / found.len() as f64).sqrt(),
        largest: differences().fold(0.0, f64::max),
        same_top: rows().filter(|(x, y)| top(x) == top(y)).count() as f64 / rows().count() as f64,
    }
}

fn judge(merged: Distance, base: Distance) -> Result<String, Error> {
    let lost = merged.rms > 0.0 && merged.rms >= base.rms;
    if lost || !merged.rms.is_finite() {
        return Err(Error::NotMerged { merged: merged.rms, base: base.rms });
    }
    let percent = |share: f64| 100.0 * share;
    Ok(format!(
        "verified on a page: logits of the merged model are {:.1e} from base + adapter (rms; largest {:.1e}), those of the base alone {:.1e}; the most likely token is the same at {:.1} % of positions (base alone: {:.1} %)",
        merged.rms,
        merged.largest,
        base.rms,
        percent(merged.same_top),
        percent(base.same_top)
    ))
}

#[cfg(test)]
mod tests;
