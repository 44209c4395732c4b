//! One row as the model is taught it: the text with special tokens visible, what is learned marked, and its page as a
//! thumbnail. It is shown to whoever asks for it at a terminal, and written to no log.

use std::path::PathBuf;

use data::{Dataset, Fault, IGNORE, Template};
use trainer::Config;

use super::Subject;
use crate::Error;

/// Pixels of the thumbnail, a side.
const THUMBNAIL: usize = 448;
const GREEN: [&str; 2] = ["\x1b[32m", "\x1b[0m"];
/// Where there are no colours.
const BRACKETS: [&str; 2] = ["[[", "]]"];

/// The row that was asked for, or the first that was looked at; none if nothing could be opened.
pub(super) fn row(subject: &Subject, colours: bool) -> Result<Option<String>, Error> {
    let (Some(config), Some(rows), Some(template)) = (&subject.config, &subject.rows, &subject.template) else {
        return Ok(None);
    };
    let asked = subject.args.show_row.map(|row| row as usize);
    let Some(index) = asked.or_else(|| subject.looked.first().map(|looked| looked.row)) else { return Ok(None) };
    shown(config, rows, template, index, colours).map(Some)
}

fn shown(config: &Config, rows: &Dataset, template: &Template, index: usize, colours: bool) -> Result<String, Error> {
    let row = rows.row(index)?;
    let fault = |fault| row.error(fault);
    let page = data::decode(&row.image).map_err(|error| fault(Fault::from(error)))?;
    let thumbnail = thumbnail(index);
    let png = page.thumbnail(THUMBNAIL).map_err(|error| fault(Fault::from(error)))?;
    storage::publish_private_file(&thumbnail, &png)?;
    let example = template.encode(&row.messages, config.data.loss_on.into(), config.data.max_seq_len).map_err(fault)?;
    let marks = if colours { GREEN } else { BRACKETS };
    let learned: Vec<bool> = example.labels.iter().map(|&label| label != IGNORE).collect();
    let told = if colours { "green" } else { "between [[ and ]]" };
    let (n, n_learned) = (learned.len(), learned.iter().filter(|&&learned| learned).count());
    Ok(format!(
        "row {index} (id {}): {n} tokens, {n_learned} learned ({told})\npage: {}\n{}\n",
        row.id,
        thumbnail.display(),
        spelled(template, &example.input_ids, &learned, marks)
    ))
}

fn thumbnail(index: usize) -> PathBuf {
    std::env::temp_dir().join(format!("ecg-train-check-row-{index}.png"))
}

/// The text of all tokens, those that are learned between `marks`; a run of one token is written once, with its count.
fn spelled(template: &Template, ids: &[u32], learned: &[bool], marks: [&str; 2]) -> String {
    let mut text = String::new();
    let mut at = 0;
    for part in learned.chunk_by(|a, b| a == b) {
        let tokens = &ids[at..at + part.len()];
        at += part.len();
        let begin_and_end = if part[0] { marks } else { [""; 2] };
        text.push_str(begin_and_end[0]);
        text.push_str(&without_repeats(template, tokens));
        text.push_str(begin_and_end[1]);
    }
    text
}

fn without_repeats(template: &Template, ids: &[u32]) -> String {
    let runs: Vec<&[u32]> = ids.chunk_by(|a, b| a == b).collect();
    let mut text = String::new();
    let mut words: Vec<u32> = Vec::new();
    for run in runs {
        if run.len() < 8 {
            words.extend(run);
            continue;
        }
        text.push_str(&template.spell(&words));
        words.clear();
        text.push_str(&format!("{} x {}", template.spell(&run[..1]), run.len()));
    }
    text + &template.spell(&words)
}
