//! From a table to the typed config, through every problem: what is wrong is noted and replaced, and the search goes on.
//! It never hands out a config in which anything was replaced.

use std::ops::Range;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::source::Problem;
use super::{Config, checks};

/// A config that is fine, for the values that stand in where one is missing or of the wrong type.
const FINE: &str = include_str!("../../../configs/tiny.toml");
/// More problems than a config has keys; the search ends there whatever happens.
const MAX_PROBLEMS: usize = 1000;

/// [`FINE`], with places behind those of every document, so that no place is taken for another's.
pub(super) struct Spare {
    begin: usize,
    text: String,
}

impl Spare {
    pub(super) fn behind(begin: usize) -> Self {
        Self { begin, text: format!("{}{FINE}", " ".repeat(begin)) }
    }

    fn has(&self, place: &Range<usize>) -> bool {
        place.start >= self.begin
    }
}

/// The typed config; none if there is a problem. Of an unknown key, a value of the wrong type and a missing key every one
/// is found; and every rule that is broken, but for those about a value that could not be read.
pub(super) fn typed<'a>(
    mut table: Spanned<DeTable<'a>>,
    spare: &'a Spare,
    problems: &mut Vec<Problem>,
) -> Option<Config> {
    let fine = DeTable::parse(&spare.text).ok()?;
    // Keys that unknown ones stand for: that they are missing need not be said, too.
    let mut meant = Vec::new();
    let mut replaced: Vec<String> = Vec::new();
    let config = loop {
        let error = match Config::deserialize(toml::Deserializer::from(table.clone())) {
            Ok(config) => break config,
            Err(error) => error,
        };
        let place = error.span().unwrap_or(0..0);
        let said = Said::of(error.message());
        if !matches!(said, Said::Missing(key) if meant.iter().any(|meant| meant == key)) {
            problems.push((place.clone(), said.in_our_words()));
        }
        let mended = match said {
            Said::UnknownKey { nearest, .. } => {
                meant.extend(nearest.map(str::to_owned));
                remove_key(table.get_mut(), &place)
            }
            Said::Missing(key) => fill_in(table.get_mut(), fine.get_ref(), key, &place),
            Said::UnknownValue { .. } | Said::Other(_) => {
                let path: Vec<String> = path_of(table.get_ref(), &place).into_iter().map(str::to_owned).collect();
                replaced.extend(path.last().cloned());
                replace(table.get_mut(), fine.get_ref(), &path)
            }
        };
        if !mended || problems.len() > MAX_PROBLEMS {
            return None;
        }
    };
    let unread = |problem: &str| {
        replaced.iter().any(|key| [format!("`{key}`"), format!("{key} =")].iter().any(|name| problem.contains(name)))
    };
    for (key, problem) in checks::problems(&config) {
        let place = place_of(&table, key);
        if !spare.has(&place) && !unread(problem) {
            let last = key.rsplit('.').next().unwrap_or(key);
            problems.push((place, format!("`{last}` {problem}")));
        }
    }
    problems.is_empty().then_some(config)
}

/// What serde says about a key or a value.
enum Said<'a> {
    UnknownKey { key: &'a str, known: Vec<&'a str>, nearest: Option<&'a str> },
    UnknownValue { value: &'a str, known: Vec<&'a str>, nearest: Option<&'a str> },
    Missing(&'a str),
    Other(&'a str),
}

impl<'a> Said<'a> {
    fn of(message: &'a str) -> Self {
        let mut quoted = message.split('`').skip(1).step_by(2);
        let Some(found) = quoted.next() else { return Self::Other(message) };
        let known: Vec<&str> = quoted.collect();
        let alike = |name: &str| strsim::jaro_winkler(name, found);
        let nearest = known.iter().copied().max_by(|a, b| alike(a).total_cmp(&alike(b)));
        let nearest = nearest.filter(|nearest| alike(nearest) > 0.75);
        match message {
            _ if message.starts_with("unknown field") => Self::UnknownKey { key: found, known, nearest },
            _ if message.starts_with("unknown variant") => Self::UnknownValue { value: found, known, nearest },
            _ if message.starts_with("missing field") => Self::Missing(found),
            _ => Self::Other(message),
        }
    }

    /// In the words of TOML, with the nearest name that exists.
    fn in_our_words(&self) -> String {
        let (kind, found, known, nearest) = match self {
            Self::Missing(key) => return format!("the key `{key}` is missing"),
            Self::Other(message) => return (*message).to_owned(),
            Self::UnknownKey { key, known, nearest } => ("key", key, known, nearest),
            Self::UnknownValue { value, known, nearest } => ("value", value, known, nearest),
        };
        match nearest {
            Some(nearest) => format!("unknown {kind} `{found}`; did you mean `{nearest}`?"),
            None => format!("unknown {kind} `{found}`; known here: {}", known.join(", ")),
        }
    }
}

/// Takes out the entry whose key is at `span`.
fn remove_key(table: &mut DeTable, span: &Range<usize>) -> bool {
    if let Some(key) = table.keys().find(|key| key.span() == *span).cloned() {
        return table.remove(key.get_ref().as_ref()).is_some();
    }
    table.iter_mut().any(|(_, value)| match value.get_mut() {
        DeValue::Table(inner) => remove_key(inner, span),
        _ => false,
    })
}

/// Puts a missing key of a fine config into the section at `place`, or into the file itself.
fn fill_in<'a>(table: &mut DeTable<'a>, fine: &DeTable<'a>, key: &str, place: &Range<usize>) -> bool {
    let section = table.iter_mut().find(|(_, value)| value.get_ref().is_table() && value.span() == *place);
    let (table, fine) = match section {
        Some((name, value)) => match (value.get_mut(), fine.get(name.get_ref().as_ref()).map(Spanned::get_ref)) {
            (DeValue::Table(section), Some(DeValue::Table(fine))) => (section, fine),
            _ => return false,
        },
        None => (table, fine),
    };
    match fine.get_key_value(key) {
        Some((name, value)) if !table.contains_key(key) => table.insert(name.clone(), value.clone()).is_none(),
        _ => false,
    }
}

/// The keys that lead to the innermost value around `place`.
fn path_of<'t>(table: &'t DeTable, place: &Range<usize>) -> Vec<&'t str> {
    for (key, value) in table {
        // A section's own place is its head alone, so every table is looked into.
        let mut path = value.get_ref().as_table().map_or_else(Vec::new, |inner| path_of(inner, place));
        let around = value.span().start <= place.start && place.end <= value.span().end;
        if around || !path.is_empty() {
            path.insert(0, key.get_ref().as_ref());
            return path;
        }
    }
    Vec::new()
}

/// Puts a fine value in place of the one at `path`; takes out one that a fine config need not have.
fn replace<'a>(table: &mut DeTable<'a>, fine: &DeTable<'a>, path: &[String]) -> bool {
    let Some((first, rest)) = path.split_first() else { return false };
    let fine = fine.get(first.as_str());
    let inner = table.get_mut(first.as_str()).map(Spanned::get_mut);
    if let (Some(DeValue::Table(inner)), Some(DeValue::Table(fine)), false) =
        (inner, fine.map(Spanned::get_ref), rest.is_empty())
    {
        return replace(inner, fine, rest);
    }
    match (table.get_mut(first.as_str()), fine) {
        (Some(value), Some(fine)) => *value = fine.clone(),
        _ => return table.remove(first.as_str()).is_some(),
    }
    true
}

/// Where the value of `section.key` is; where it is absent, its section; the beginning for a section that is absent.
fn place_of(root: &Spanned<DeTable>, key: &str) -> Range<usize> {
    let (mut table, mut place) = (Some(root.get_ref()), 0..0);
    for part in key.split('.') {
        let Some(value) = table.and_then(|table| table.get(part)) else { break };
        place = value.span();
        table = value.get_ref().as_table();
    }
    place
}
