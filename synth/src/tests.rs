use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;

use crate::*;
use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

const SEED: u64 = 7;

/// Few patients, two files' worth of rows where asked, so that the tests stay fast.
fn spec(n_train: usize, n_threads: usize) -> DemoSpec {
    DemoSpec { n_train, n_test: 5, ..DemoSpec::full(SEED, NonZeroUsize::new(n_threads).unwrap()) }
}

/// Every file below a folder, by its path in it.
fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for folder in ["base", "data"] {
        for entry in fs::read_dir(dir.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            files.insert(format!("{folder}/{}", path.file_name().unwrap().to_str().unwrap()), fs::read(&path).unwrap());
        }
    }
    files
}

fn written(spec: &DemoSpec) -> (tempfile::TempDir, DemoFiles) {
    let dir = tempfile::tempdir().unwrap();
    let files = write_demo(dir.path(), spec, &mut |_| {}).unwrap();
    (dir, files)
}

/// A row as read back: id, path, page, turns as (from, value).
type ReadRow = (String, String, Vec<u8>, Vec<(String, String)>);

fn read(path: &Path) -> Vec<ReadRow> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(fs::File::open(path).unwrap()).unwrap().build().unwrap();
    reader.flat_map(|batch| read_batch(&batch.unwrap())).collect()
}

fn read_batch(batch: &RecordBatch) -> Vec<ReadRow> {
    let text = |name: &str| batch.column_by_name(name).unwrap().as_string::<i32>();
    let (ids, paths) = (text("id"), text("image_path"));
    let image = batch.column_by_name("image").unwrap().as_struct();
    let pages = image.column_by_name("bytes").unwrap().as_binary::<i32>();
    let conversations = batch.column_by_name("conversations").unwrap().as_list::<i32>();
    let row = |i: usize| {
        let turns = conversations.value(i);
        let part = |name: &str| turns.as_struct().column_by_name(name).unwrap().as_string::<i32>().clone();
        let strings = |name: &str| part(name).iter().map(|s| s.unwrap().to_owned()).collect::<Vec<_>>();
        let turns = strings("from").into_iter().zip(strings("value")).collect();
        (ids.value(i).to_owned(), paths.value(i).to_owned(), pages.value(i).to_vec(), turns)
    };
    (0..batch.num_rows()).map(row).collect()
}

#[test]
fn the_same_spec_gives_the_same_bytes_on_any_number_of_threads() {
    let (one, _) = written(&spec(13, 1));
    let (three, _) = written(&spec(13, 3));
    assert!(contents(one.path()) == contents(three.path()));

    let (other, _) = written(&DemoSpec { seed: SEED + 1, ..spec(13, 1) });
    let changed = |name: &str| contents(one.path())[name] != contents(other.path())[name];
    assert!(changed("base/model.safetensors") && changed("data/held-out.parquet"));
    assert!(!changed("base/tokenizer.json"), "the vocabulary does not depend on the seed");
}

#[test]
fn writing_again_replaces_the_files_and_progress_reaches_its_end() {
    let (dir, files) = written(&spec(3, 2));
    let mut seen = Vec::new();
    let again = write_demo(dir.path(), &spec(3, 2), &mut |progress| seen.push(progress)).unwrap();
    assert_eq!(again, files);
    let expected: Vec<_> = (1..=8).map(|n_done| Progress { n_done, n_pages: 8 }).collect();
    assert_eq!(seen, expected);
}

#[test]
fn training_rows_are_conversations_with_every_question_once_and_true_answers() {
    let (_dir, files) = written(&spec(1030, 2));
    assert_eq!(files.train.len(), 2);
    let rows: Vec<_> = files.train.iter().flat_map(|path| read(path)).collect();
    assert_eq!(rows.len(), 1030);
    let mut orders = BTreeSet::new();
    for (index, (id, path, page, turns)) in rows.iter().enumerate() {
        assert_eq!((id, path), (&format!("synthetic-{index:07}"), &format!("synthetic/{index:07}.png")));
        assert_eq!(image::load_from_memory(page).unwrap().to_rgb8().dimensions(), (112, 112));
        let patient = Patient::new(SEED, index as u64);
        let mut order = Vec::new();
        for (turn, pair) in turns.chunks(2).enumerate() {
            let [(human, asked), (gpt, answer)] = pair else { panic!("{id}: a question without an answer") };
            assert_eq!((human.as_str(), gpt.as_str()), ("human", "gpt"));
            assert_eq!(asked.starts_with("<image>\n"), turn == 0, "{id}: only the first question carries the page");
            let asked = asked.trim_start_matches("<image>\n");
            let question = Question::ALL.into_iter().find(|question| question.text() == asked).unwrap();
            assert_eq!(answer, question.answer(&patient), "{id}");
            order.push(question);
        }
        orders.insert(order);
    }
    assert_eq!(orders.len(), 24, "all orders of four questions occur");
    assert!(orders.iter().all(|order| BTreeSet::from_iter(order).len() == 4));
}

#[test]
fn held_out_files_differ_in_their_pages_only_and_share_no_patient_with_training() {
    let spec = spec(20, 2);
    let (_dir, files) = written(&spec);
    let (own, blank, wrong) = (read(&files.held_out), read(&files.held_out_blank), read(&files.held_out_wrong_page));
    let expected = held_out(&spec);
    assert_eq!(expected.len(), 20);
    let trained: BTreeSet<_> = files.train.iter().flat_map(|path| read(path)).map(|row| row.1).collect();
    for (i, row) in expected.iter().enumerate() {
        let turns = vec![
            ("human".to_owned(), format!("<image>\n{}", row.question.text())),
            ("gpt".to_owned(), row.answer.to_owned()),
        ];
        for file in [&own, &blank, &wrong] {
            assert_eq!((&file[i].0, &file[i].3), (&row.id, &turns));
        }
        let patient = row.id.trim_end_matches(&format!("-{}", row.question.key()));
        assert_eq!(own[i].1, format!("{}.png", patient.replace('-', "/")));
        assert!(!trained.contains(&own[i].1));
        assert_eq!((&wrong[i].1, &wrong[i].2), (&own[(i + 4) % 20].1, &own[(i + 4) % 20].2), "the next patient's page");
        assert_ne!(wrong[i].2, own[i].2);
        assert_eq!(image::load_from_memory(&blank[i].2).unwrap().to_rgb8(), draw(None, 112));
    }
}

#[test]
fn attributes_are_balanced_and_tell_nothing_about_each_other() {
    const N: usize = 20_000;
    let patients: Vec<_> = (0..N as u64).map(|index| Patient::new(SEED, index)).collect();
    for a in Question::ALL {
        for b in Question::ALL.into_iter().filter(|&b| b != a) {
            let mut counts = BTreeMap::new();
            for patient in &patients {
                *counts.entry((a.answer(patient), b.answer(patient))).or_insert(0_usize) += 1;
            }
            let n_pairs = a.answers().len() * b.answers().len();
            assert_eq!(counts.len(), n_pairs);
            // Five standard deviations of a count: with 23 pairs, chance alone gets here once in 70,000 seeds.
            let p = 1.0 / n_pairs as f64;
            let margin = 5.0 * (N as f64 * p * (1.0 - p)).sqrt();
            for (pair, count) in counts {
                assert!((count as f64 - N as f64 * p).abs() < margin, "{pair:?}: {count} of {N}");
            }
        }
    }
}

#[test]
fn normal_numbers_have_mean_zero_and_variance_one() {
    let mut random = random::Random::new(SEED, "test", 0);
    let numbers: Vec<f64> = (0..100_000).map(|_| random.normal()).collect();
    let mean = numbers.iter().sum::<f64>() / 1e5;
    let variance = numbers.iter().map(|x| x * x).sum::<f64>() / 1e5;
    assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.02, "mean {mean}, variance {variance}");
    let beyond_two = numbers.iter().filter(|x| x.abs() > 2.0).count() as f64 / 1e5;
    assert!((beyond_two - 0.0455).abs() < 0.005, "{beyond_two} beyond two standard deviations");
}

/// How far, in millivolt, the trace of `lead` reaches up and down.
fn reach(ecg: &Ecg, lead: Lead) -> (f32, f32) {
    ecg.lead(lead).iter().fold((0.0, 0.0), |(up, down), &mv| (mv.max(up), (-mv).max(down)))
}

#[test]
fn signals_show_what_the_attributes_say() {
    let patient = Patient { rate: Rate::Normal, atrial_fibrillation: false, axis: Axis::Normal, st_elevation: false };
    for index in 0..50 {
        let ecg = |patient: &Patient| Ecg::new(SEED, index, patient);
        let n_beats = |rate| {
            let v4 = ecg(&Patient { rate, ..patient }).lead(Lead::V4).to_vec();
            v4.windows(2).filter(|pair| pair[0] < 0.7 && pair[1] >= 0.7).count()
        };
        let [slow, normal, fast] = [Rate::Slow, Rate::Normal, Rate::Fast].map(n_beats);
        assert!((5..=10).contains(&slow) && (10..=17).contains(&normal) && (17..=26).contains(&fast));

        let upright = |axis, lead| {
            let (up, down) = reach(&ecg(&Patient { axis, ..patient }), lead);
            up > down
        };
        for (axis, in_i, in_avf) in [(Axis::Left, true, false), (Axis::Normal, true, true), (Axis::Right, false, true)]
        {
            assert_eq!((upright(axis, Lead::I), upright(axis, Lead::AvF)), (in_i, in_avf), "patient {index}, {axis:?}");
        }

        let mean = |ecg: Ecg| ecg.lead(Lead::V2).iter().sum::<f32>() / ecg.lead(Lead::V2).len() as f32;
        let lifted = mean(ecg(&Patient { st_elevation: true, ..patient })) - mean(ecg(&patient));
        assert!(lifted > 0.02, "patient {index}: ST lifts V2 by {lifted} mV on average");
    }
}

#[test]
fn a_page_is_blank_when_asked_and_inked_otherwise_at_any_size() {
    let patient = Patient::new(SEED, 0);
    let ecg = Ecg::new(SEED, 0, &patient);
    for size in [56, 112, 448, 1000] {
        let (blank, page) = (draw(None, size), draw(Some(&ecg), size));
        let dark = |page: &image::RgbImage| page.pixels().filter(|pixel| pixel.0[0] < 128).count();
        assert_eq!(dark(&blank), 0);
        assert!(dark(&page) >= 3 * size as usize, "{size}: the four traces cross every column");
        let changed = |y: u32| (0..size).any(|x| blank.get_pixel(x, y) != page.get_pixel(x, y));
        assert!((0..size).any(|y| !changed(y)), "{size}: there is paper between the rows");
        assert_eq!(image::load_from_memory(&png(&page).unwrap()).unwrap().to_rgb8(), page, "PNG keeps every pixel");
    }
}

#[test]
fn scores_count_exact_answers() {
    let row =
        |question: Question, which: usize| HeldOut { id: String::new(), question, answer: question.answers()[which] };
    let rows = [row(Question::Rate, 2), row(Question::Axis, 0), row(Question::Rate, 1), row(Question::Rate, 1)];
    let answers = ["The heart rate is fast.\n", "The axis is deviated", "The heart rate is fast."].map(str::to_owned);
    assert_eq!(accuracy(&rows, &answers), BTreeMap::from([(Question::Rate, 1.0 / 3.0), (Question::Axis, 0.0)]));
    let expected = [
        (Question::Rate, ("The heart rate is normal.", 2.0 / 3.0)),
        (Question::Axis, ("The axis is deviated left.", 1.0)),
    ];
    assert_eq!(best_constant(&rows), BTreeMap::from(expected));
}

#[test]
fn a_spec_that_cannot_be_met_is_refused_by_name() {
    let good = spec(1, 1);
    for (spec, name) in [
        (DemoSpec { n_train: 0, ..good.clone() }, "n_train"),
        (DemoSpec { n_test: 1, ..good.clone() }, "n_test"),
        (DemoSpec { image_size: 100, ..good.clone() }, "image_size"),
        (DemoSpec { image_size: 0, ..good.clone() }, "image_size"),
        (DemoSpec { questions: vec![], ..good.clone() }, "questions"),
        (DemoSpec { questions: vec![Question::Rate; 2], ..good.clone() }, "questions"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let error = write_demo(dir.path(), &spec, &mut |_| {}).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is written");
    }
}
