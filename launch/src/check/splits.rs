//! What the rows of `data.train` and `data.eval` have in common: patients, recordings, pages.
//! It reads keys of all rows, and decodes a few pages where no `prepare` has seen them all; it names rows by id.

use std::collections::HashSet;
use std::fmt;

use data::{Dataset, Leaks, NearPages, PageHash, RowKeys, Shared};
use trainer::Config;

use super::spread::on_all_cores;
use super::{Finding, Subject};
use crate::stores::Access;
use crate::{Error, counted, places};

/// Row ids that one finding names at most.
const SHOWN: usize = 3;

/// Errors for what is shared, a warning for pages that look alike; all are warnings with `--allow-leaks`.
pub(super) fn check(subject: &mut Subject) -> Vec<Finding> {
    let (Some(config), Some(train)) = (&subject.config, &subject.rows) else { return Vec::new() };
    let Some(eval) = &config.data.eval else { return Vec::new() };
    if eval.iter().any(|name| places::is_hub_data(name)) {
        return vec![super::inputs::on_the_hub("data.eval")];
    }
    let found = open(eval, config).and_then(|eval| {
        let keys = |rows: &Dataset| rows.row_keys().map_err(Error::from);
        let (train_keys, eval_keys) = (keys(train)?, keys(&eval)?);
        let mut found = leaks(&Leaks::between(&train_keys, &eval_keys), subject.args.allow_leaks);
        found.push(alike((train, &train_keys), (&eval, &eval_keys), subject.args.pages as usize)?);
        Ok(found)
    });
    found.unwrap_or_else(|error| vec![Finding::error(error)])
}

fn open(eval: &[String], config: &Config) -> Result<Dataset, Error> {
    let files: Vec<_> = eval.iter().map(Into::into).collect();
    let store = Access::of_shell().for_data(&config.data).store(&files)?;
    Ok(Dataset::open_in(store, &trainer::sources(config, &files))?)
}

/// One finding for each kind of thing that is shared, or one that nothing is.
fn leaks(leaks: &Leaks, allowed: bool) -> Vec<Finding> {
    let kinds = [("patients", &leaks.patients), ("recordings", &leaks.records), ("pages", &leaks.pages)];
    let mut found: Vec<Finding> = kinds
        .into_iter()
        .filter(|(_, shared)| shared.n_keys > 0)
        .map(|(what, shared)| {
            let error = Error::Leak { what, shared: describe(shared) };
            match allowed {
                true => Finding::warning(error.to_string(), "nothing: --allow-leaks was given"),
                false => Finding::error(error),
            }
        })
        .collect();
    if found.is_empty() {
        found.push(Finding::ok("data.train and data.eval share no patient, recording or page that is known"));
    }
    let (patient, record) = (leaks.without_patient, leaks.without_record);
    if patient > 0 {
        let all = if record > 0 { format!(", of {record} not even the recording") } else { String::new() };
        found.push(Finding::ok(format!("of {patient} rows neither id nor path tells the patient{all}")));
    }
    found
}

fn describe(shared: &Shared) -> String {
    let Shared { n_keys, n_train_rows, n_eval_rows, examples } = shared;
    let ids: Vec<String> = examples.iter().take(SHOWN).map(|(train, eval)| format!("{train} and {eval}")).collect();
    format!("{n_keys} ({n_train_rows} and {n_eval_rows} rows), for example rows {}", ids.join(", "))
}

type Split<'a> = (&'a Dataset, &'a [RowKeys]);

/// Compares what pages of both splits show; those of equal key are one page and were reported as such.
fn alike(train: Split, eval: Split, n: usize) -> Result<Finding, Error> {
    let (train_pages, eval_pages) = (Pages::of(train, n)?, Pages::of(eval, n)?);
    let index = NearPages::new(train_pages.shown.iter().map(|(_, look)| *look).collect());
    let (mut n_near, mut examples) = (0, Vec::new());
    for (row, look) in &eval_pages.shown {
        for (at, bits) in index.near(*look) {
            let (of_train, of_eval) = (&train.1[train_pages.shown[at].0], &eval.1[*row]);
            if of_train.page.is_none() || of_train.page != of_eval.page {
                n_near += 1;
                if examples.len() < SHOWN {
                    examples.push(format!("{} and {} ({bits} of 256 bits differ)", of_train.id, of_eval.id));
                }
            }
        }
    }
    let compared = format!("{train_pages} of data.train with {eval_pages} of data.eval");
    Ok(match n_near {
        0 => Finding::ok(format!("{compared}: none look alike")),
        _ => Finding::warning(
            format!("{compared}: pairs that look alike: {n_near}, for example rows {}", examples.join(", ")),
            "look at them; take one out if they show the same recording",
        ),
    })
}

/// What distinct pages of a split show, each with a row that has it.
struct Pages {
    shown: Vec<(usize, PageHash)>,
    are_all: bool,
}

impl Pages {
    /// Of prepared folders all pages, as `prepare` has seen them; of other sources `n` rows' pages, spread evenly, which
    /// are decoded now: one that does not decode is left out here.
    fn of((rows, keys): Split, n: usize) -> Result<Self, Error> {
        if let Ok(looks) = rows.looks() {
            let mut seen = HashSet::new();
            let is_first = |(row, _): &(usize, PageHash)| keys[*row].page.is_none_or(|key| seen.insert(key));
            return Ok(Self { shown: looks.into_iter().enumerate().filter(is_first).collect(), are_all: true });
        }
        let of_row = |row: usize| Ok(PageHash::of(&rows.row(row)?.image).ok().map(|look| (row, look)));
        let found: Result<Vec<_>, data::Error> =
            on_all_cores(rows, n.min(rows.len()), "comparing pages", of_row)?.into_iter().collect();
        Ok(Self { shown: found?.into_iter().flatten().collect(), are_all: false })
    }
}

impl fmt::Display for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", counted(self.shown.len(), "page"), if self.are_all { " (all)" } else { "" })
    }
}
