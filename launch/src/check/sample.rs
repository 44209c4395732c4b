//! Some rows, spread over the data set, read as the run reads them: decoded, rendered, tokenized, labelled.
//! It names rows by id and never by text; what a row says is `shown`'s, for whoever asks to see it.

use data::{Dataset, Error as DataError, Example, Fault, IGNORE, Learn};

use super::spread::on_all_cores;
use super::{Finding, Subject};
use crate::counted;

/// Bad rows that are named.
const SHOWN: usize = 3;
/// Bars of the histogram, and columns of the longest.
const N_BARS: usize = 6;
const BAR: usize = 24;

/// A row that a run can learn from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Looked {
    /// Its index.
    pub row: usize,
    /// Its tokens, before any are cut off.
    len: usize,
    /// Tokens that are learned, of those that are left.
    supervised: usize,
}

/// Bad rows, lengths beside `max_seq_len`, and the share of tokens that is learned.
pub(super) fn check(subject: &mut Subject) -> Vec<Finding> {
    let (Some(config), Some(rows), Some(template)) = (&subject.config, &subject.rows, &subject.template) else {
        return Vec::new();
    };
    let learn = trainer::learn(config, template.clone());
    let n = (subject.args.rows as usize).min(rows.len());
    if n == 0 {
        return Vec::new();
    }
    let looked = match on_all_cores(rows, n, "looking at rows", |row| look(rows, &learn, row)) {
        Ok(looked) => looked,
        Err(error) => return vec![Finding::error(error)],
    };
    let (good, bad): (Vec<_>, Vec<_>) = looked.into_iter().partition(Result::is_ok);
    let good: Vec<Looked> = good.into_iter().flatten().collect();
    let bad: Vec<DataError> = bad.into_iter().filter_map(Result::err).collect();
    let listed: usize = rows.manifests().map(|manifest| manifest.bad_rows.len()).sum();
    let mut found = vec![Finding::ok(format!("{} of {} read, decoded and rendered", n, counted(rows.len(), "row")))];
    if listed > 0 {
        found.push(Finding::ok(format!("{} left out when they were prepared", counted(listed, "bad row"))));
    }
    found.extend(bad_rows(bad, config.data.max_bad_rows));
    if !good.is_empty() {
        let page = subject.model.as_ref().map_or(0, |model| model.mm_tokens_per_image);
        found.extend(lengths(&good, page, learn.max_seq_len));
        let (supervised, all) =
            good.iter().fold((0, 0), |(s, all), l| (s + l.supervised, all + l.len.min(learn.max_seq_len)));
        let share = 100.0 * supervised as f64 / all as f64;
        found.push(Finding::ok(format!("{share:.1} % of their tokens are learned")));
    }
    subject.looked = good;
    found
}

/// A row, fine or with what is wrong with it.
fn look(rows: &Dataset, learn: &Learn, index: usize) -> Result<Looked, DataError> {
    let row = rows.row(index)?;
    let encode = |max_seq_len| learn.template.encode(&row.messages, learn.loss_on, max_seq_len);
    let looked = || -> Result<Looked, Fault> {
        data::decode(&row.image)?;
        let len = encode(usize::MAX)?.input_ids.len();
        let Example { labels, .. } = encode(learn.max_seq_len)?;
        Ok(Looked { row: index, len, supervised: labels.iter().filter(|&&label| label != IGNORE).count() })
    };
    looked().map_err(|fault| row.error(fault))
}

/// The first bad rows; errors where the config allows none.
fn bad_rows(bad: Vec<DataError>, allowed: Option<u64>) -> Vec<Finding> {
    let more = bad.len().saturating_sub(SHOWN);
    let one = |error: DataError| match allowed {
        None => Finding::error(error),
        Some(max) => Finding::warning(error.to_string(), format!("it is left out; data.max_bad_rows = {max} in all")),
    };
    let mut found: Vec<Finding> = bad.into_iter().take(SHOWN).map(one).collect();
    if more > 0 {
        found.push(Finding::warning(format!("and {} of those looked at", counted(more, "bad row")), "see --rows"));
    }
    found
}

fn lengths(looked: &[Looked], page: usize, max_seq_len: usize) -> Vec<Finding> {
    let mut lengths: Vec<usize> = looked.iter().map(|looked| looked.len).collect();
    lengths.sort_unstable();
    let (least, most) = (lengths[0], lengths[lengths.len() - 1]);
    let at = |share: f64| lengths[((lengths.len() - 1) as f64 * share).round() as usize];
    let mut text = format!(
        "tokens a row: {least} to {most}, median {}, 95 % have at most {}; {page} are the page",
        at(0.5),
        at(0.95)
    );
    let width = (most + 1 - least).div_ceil(N_BARS);
    let counts: Vec<usize> =
        (0..N_BARS).map(|bar| lengths.iter().filter(|&&len| (len - least) / width == bar).count()).collect();
    let highest = counts.iter().copied().max().unwrap_or(1);
    for (bar, &n) in counts.iter().enumerate().filter(|(bar, _)| least + bar * width <= most) {
        let begin = least + bar * width;
        let range = format!("{begin}-{}", begin + width - 1);
        text.push_str(&format!("\n{range:>11} {:<BAR$} {n}", "#".repeat((n * BAR).div_ceil(highest))));
    }
    let mut found = vec![Finding::ok(text)];
    let cut = lengths.iter().filter(|&&len| len > max_seq_len).count();
    if cut > 0 {
        let what = format!("{} of {} are longer than {max_seq_len} tokens and lose their end", cut, lengths.len());
        found.push(Finding::warning(what, format!("{most} tokens would hold them all")).at("data.max_seq_len"));
    }
    found
}
