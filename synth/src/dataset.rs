//! Which patients, pages and conversations lie in which file: the training rows and the three held-out files.
//! Held-out patients are never trained on, and nothing but the page differs between the three held-out files.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;

use crate::patient::Patient;
use crate::questions::Question;
use crate::random::Random;
use crate::score::HeldOut;
use crate::signal::Ecg;
use crate::table::{self, Page, Row};
use crate::{DemoSpec, Error, page};

/// Most patients that either side can have.
pub(crate) const MAX_PATIENTS: usize = 1_000_000;
/// Number of the first held-out patient; those of the training set come before it, however many they are.
const FIRST_HELD_OUT: u64 = MAX_PATIENTS as u64;
const ROWS_PER_FILE: usize = 1000;

/// The rows of the three held-out files in their order: every question about every held-out patient, asked alone.
#[must_use]
pub fn held_out(spec: &DemoSpec) -> Vec<HeldOut> {
    let mut rows = Vec::new();
    for index in held_out_patients(spec) {
        let patient = Patient::new(spec.seed, index);
        for &question in &spec.questions {
            let id = format!("{}-{}", patient_id(index), question.key());
            rows.push(HeldOut { id, question, answer: question.answer(&patient) });
        }
    }
    rows
}

/// Writes the training files: one row a patient, all questions in random order.
pub(crate) fn write_train(dir: &Path, spec: &DemoSpec, on_page: &mut dyn FnMut()) -> Result<Vec<PathBuf>, Error> {
    let n_files = spec.n_train.div_ceil(ROWS_PER_FILE);
    let mut paths = Vec::with_capacity(n_files);
    for file in 0..n_files {
        let end = spec.n_train.min((file + 1) * ROWS_PER_FILE);
        let patients = (file * ROWS_PER_FILE) as u64..end as u64;
        let pages = render(spec, patients.clone(), on_page)?;
        let rows = patients.zip(&pages).map(|(index, page)| train_row(spec, index, page)).collect::<Vec<_>>();
        paths.push(publish(dir.join(format!("train-{file:05}-of-{n_files:05}.parquet")), &rows)?);
    }
    Ok(paths)
}

/// Writes the held-out files: with the patient's own page, with blank paper, and with the next patient's page.
pub(crate) fn write_held_out(dir: &Path, spec: &DemoSpec, on_page: &mut dyn FnMut()) -> Result<[PathBuf; 3], Error> {
    let pages = render(spec, held_out_patients(spec), on_page)?;
    let blank = Page::encode("synthetic/blank.png".to_owned(), None, spec)?;
    let own: Vec<&Page> = pages.iter().collect();
    let mut wrong = own.clone();
    wrong.rotate_left(1);

    let rows = held_out(spec);
    let write = |name: &str, shown: Vec<&Page>| {
        let of_patient = rows.chunks(spec.questions.len()).zip(shown);
        let to_rows =
            |(rows, page): (&[HeldOut], _)| rows.iter().map(|row| held_out_row(row, page)).collect::<Vec<_>>();
        publish(dir.join(name), &of_patient.flat_map(to_rows).collect::<Vec<_>>())
    };
    Ok([
        write("held-out.parquet", own)?,
        write("held-out-blank.parquet", vec![&blank; spec.n_test])?,
        write("held-out-wrong-page.parquet", wrong)?,
    ])
}

fn held_out_patients(spec: &DemoSpec) -> Range<u64> {
    FIRST_HELD_OUT..FIRST_HELD_OUT + spec.n_test as u64
}

fn patient_id(index: u64) -> String {
    format!("synthetic-{index:07}")
}

fn train_row<'a>(spec: &DemoSpec, index: u64, page: &'a Page) -> Row<'a> {
    let patient = Patient::new(spec.seed, index);
    let order = Random::new(spec.seed, "questions", index).permutation(spec.questions.len());
    let turn = |question: Question| (question.text(), question.answer(&patient));
    let turns = order.into_iter().map(|i| turn(spec.questions[i])).collect();
    Row { id: patient_id(index), page, turns }
}

fn held_out_row<'a>(row: &HeldOut, page: &'a Page) -> Row<'a> {
    Row { id: row.id.clone(), page, turns: vec![(row.question.text(), row.answer)] }
}

/// The pages of `patients` in their order, drawn by all threads.
fn render(spec: &DemoSpec, patients: Range<u64>, on_page: &mut dyn FnMut()) -> Result<Vec<Page>, Error> {
    let share = (patients.end - patients.start).div_ceil(spec.n_threads.get() as u64);
    thread::scope(|scope| {
        let (done, each_done) = mpsc::channel();
        let draw = |of: Range<u64>, done: mpsc::Sender<()>| {
            of.map(|index| {
                let page = render_page(spec, index)?;
                let _ = done.send(()); // The receiver outlives every worker.
                Ok(page)
            })
            .collect::<Result<Vec<_>, Error>>()
        };
        let shares = patients.clone().step_by(share as usize).map(|start| start..(start + share).min(patients.end));
        let workers: Vec<_> = shares
            .map(|of| {
                let done = done.clone();
                scope.spawn(move || draw(of, done))
            })
            .collect();
        drop(done);
        each_done.iter().for_each(|()| on_page());
        let mut pages = Vec::new();
        for worker in workers {
            pages.extend(worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok(pages)
    })
}

fn render_page(spec: &DemoSpec, index: u64) -> Result<Page, Error> {
    let ecg = Ecg::new(spec.seed, index, &Patient::new(spec.seed, index));
    Page::encode(format!("synthetic/{index:07}.png"), Some(&ecg), spec)
}

impl Page {
    fn encode(path: String, ecg: Option<&Ecg>, spec: &DemoSpec) -> Result<Self, Error> {
        match page::png(&page::draw(ecg, spec.image_size as u32)) {
            Ok(png) => Ok(Self { path, png }),
            Err(source) => Err(Error::Page { path, source }),
        }
    }
}

fn publish(path: PathBuf, rows: &[Row<'_>]) -> Result<PathBuf, Error> {
    let bytes = table::encode(rows).map_err(|source| Error::Rows { path: path.clone(), source })?;
    storage::publish_file(&path, &bytes)?;
    Ok(path)
}
