//! Whose ECG a row shows, told from its id and image path, and what two splits of a data set have in common.
//! It never looks at a page or a text: keys and paths only, and it names rows by id.

use std::collections::HashMap;
use std::hash::Hash;

use crate::{Dataset, PageKey, Result};

/// Row ids that a report names at most, of each kind.
const SHOWN: usize = 10;

/// What is known of a row without reading its page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowKeys {
    /// The row's id.
    pub id: String,
    /// `source/patient`, where id or path tell it.
    pub patient: Option<String>,
    /// `source/record`: one recording, however often it was drawn.
    pub record: Option<String>,
    /// The page's key, where the data set is prepared.
    pub page: Option<PageKey>,
}

impl RowKeys {
    /// Patient and record by the conventions of ECGInstruct's sources:
    ///
    /// - MIMIC-IV-ECG: `mimic/p1127/p11273115/s44111511/44111511-0.png`: the patient (`p` and eight digits) and the study
    ///   (`s` and eight digits, and the file's name); id `mimic-44111511`.
    /// - PTB-XL: `ptb-xl/records500/07000/07190_hr-0.png`: the `ecg_id`; its patient stands only in `ptbxl_database.csv`.
    /// - CODE-15%: `code15_v4/1234/1234567-0.png`: the `exam_id`; its patient stands only in `exams.csv`.
    /// - Any other: the file's name without extension and the number of its drawing (`E07507-101.png`: `E07507`).
    ///
    /// Versions of one source (`mimic_v4`) are that source.
    #[must_use]
    pub fn new(id: &str, image_path: Option<&str>, page: Option<PageKey>) -> Self {
        let (patient, record) = image_path.filter(|path| !path.is_empty()).map_or_else(|| of_id(id), of_path);
        Self { id: id.to_owned(), patient, record, page }
    }
}

impl Dataset {
    /// What is known of every row without reading its page. Of a prepared folder this reads the small file `rows.index`,
    /// of parquet files the columns of ids and image paths, where there are any, and no page key.
    ///
    /// # Errors
    /// Damage, with file and place named.
    pub fn row_keys(&self) -> Result<Vec<RowKeys>> {
        let ids = self.ids()?;
        let paths = self.image_paths().unwrap_or_else(|_| vec![None; ids.len()]);
        let pages = self.pages().map_or_else(|_| vec![None; ids.len()], |keys| keys.into_iter().map(Some).collect());
        let rows = ids.iter().zip(&paths).zip(pages);
        Ok(rows.map(|((id, path), page)| RowKeys::new(id, path.as_deref(), page)).collect())
    }
}

fn of_path(path: &str) -> (Option<String>, Option<String>) {
    let parts: Vec<&str> = path.split(['/', '\\']).filter(|part| !part.is_empty() && *part != ".").collect();
    let Some((file, folders)) = parts.split_last() else { return (None, None) };
    let source = folders.first().map_or("", |first| source(first));
    let name = file.rsplit_once('.').map_or(*file, |(name, _)| name);
    let key = |what: &str| (!what.is_empty()).then(|| format!("{source}/{what}"));
    let numbered = |letter: char| {
        folders.iter().find(|part| part.strip_prefix(letter).is_some_and(|n| n.len() == 8 && is_number(n))).copied()
    };
    match source {
        "mimic" => {
            let study = numbered('s').map(|study| &study[1..]).or_else(|| Some(digits(name)).filter(|n| !n.is_empty()));
            (numbered('p').and_then(key), study.and_then(key))
        }
        "ptb-xl" | "code15" if !digits(name).is_empty() => (None, key(digits(name).trim_start_matches('0'))),
        _ => (None, key(without_drawing(name))),
    }
}

/// `source-number...` of the known sources; any other id says nothing.
fn of_id(id: &str) -> (Option<String>, Option<String>) {
    let found = ["mimic", "mimic_v4", "ptb-xl", "ptbxl", "code15", "code15_v4"].into_iter().find_map(|name| {
        let number = digits(id.strip_prefix(name)?.strip_prefix(['-', '_', '/'])?);
        (!number.is_empty()).then(|| format!("{}/{}", source(name), number.trim_start_matches('0')))
    });
    (None, found)
}

/// One name for all versions of a source.
fn source(folder: &str) -> &str {
    let base = folder.split_once("_v").filter(|(_, version)| is_number(version)).map_or(folder, |(base, _)| base);
    match base {
        "ptbxl" | "ptb_xl" => "ptb-xl",
        "mimic-iv-ecg" | "mimic_iv_ecg" => "mimic",
        "code-15" | "code15%" => "code15",
        base => base,
    }
}

/// The digits a text begins with.
fn digits(text: &str) -> &str {
    text.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default()
}

/// `E07507-101` drawn the 101st time is `E07507`; `00002_hr` is `00002`.
fn without_drawing(name: &str) -> &str {
    let name =
        name.rsplit_once('-').filter(|(base, n)| is_number(n) && !base.is_empty()).map_or(name, |(base, _)| base);
    name.strip_suffix("_hr").or_else(|| name.strip_suffix("_lr")).unwrap_or(name)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// What rows of two splits share.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leaks {
    /// The same patient.
    pub patients: Shared,
    /// The same recording.
    pub records: Shared,
    /// The same page, byte for byte.
    pub pages: Shared,
    /// Rows, of both splits, whose patient neither id nor path tells: of PTB-XL and CODE-15% only their tables do.
    pub without_patient: usize,
    /// Rows, of both splits, of which not even the recording is known.
    pub without_record: usize,
}

/// Keys that stand in both splits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shared {
    /// Distinct keys.
    pub n_keys: usize,
    /// Rows of the training split that have one of them.
    pub n_train_rows: usize,
    /// Rows of the evaluation split that have one of them.
    pub n_eval_rows: usize,
    /// Ids of a training and an evaluation row with the same key, in the order of the evaluation rows; ten at most.
    pub examples: Vec<(String, String)>,
}

impl Leaks {
    /// Compares all rows of `train` with all of `eval`; linear in their number.
    #[must_use]
    pub fn between(train: &[RowKeys], eval: &[RowKeys]) -> Self {
        let without = |lacks: fn(&RowKeys) -> bool| train.iter().chain(eval).filter(|row| lacks(row)).count();
        Self {
            patients: Shared::between(train, eval, |row| row.patient.as_deref()),
            records: Shared::between(train, eval, |row| row.record.as_deref()),
            pages: Shared::between(train, eval, |row| row.page),
            without_patient: without(|row| row.patient.is_none()),
            without_record: without(|row| row.record.is_none()),
        }
    }

    /// Nothing that is known of a row of one split is true of one of the other.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        [&self.patients, &self.records, &self.pages].iter().all(|shared| shared.n_keys == 0)
    }
}

impl Shared {
    fn between<'a, K: Hash + Eq + Copy>(
        train: &'a [RowKeys],
        eval: &'a [RowKeys],
        key: impl Fn(&'a RowKeys) -> Option<K>,
    ) -> Self {
        // Of each key of the smaller side: rows of each side, and the training row that is named.
        let mut seen: HashMap<K, (usize, usize, Option<&str>)> = HashMap::new();
        eval.iter().filter_map(&key).for_each(|key| seen.entry(key).or_default().1 += 1);
        for row in train {
            if let Some((n, _, first)) = key(row).and_then(|key| seen.get_mut(&key)) {
                *n += 1;
                first.get_or_insert(&row.id);
            }
        }
        let shared = seen.values().filter(|(n_train, ..)| *n_train > 0);
        let (n_keys, n_train_rows, n_eval_rows) =
            shared.fold((0, 0, 0), |(k, t, e), (n_train, n_eval, _)| (k + 1, t + n_train, e + n_eval));
        let mut examples = Vec::new();
        for row in eval {
            let taken = key(row).and_then(|key| seen.get_mut(&key)).and_then(|(.., first)| first.take());
            if let (Some(first), true) = (taken, examples.len() < SHOWN) {
                examples.push((first.to_owned(), row.id.clone()));
            }
        }
        Self { n_keys, n_train_rows, n_eval_rows, examples }
    }
}

#[cfg(test)]
mod tests;
