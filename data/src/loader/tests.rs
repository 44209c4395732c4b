use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use proptest::prelude::*;

use super::*;
use crate::{TemplateOptions, fixtures};

fn micro(first: u64) -> MicroPlan {
    MicroPlan { rows: vec![first as usize], first_position: first }
}

fn empty(micro: &MicroPlan) -> Batch {
    Batch::collate(Vec::new(), Vec::new(), micro.first_position)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn batches_come_in_the_order_of_the_plan(n in 0_u64..40, threads in 0_usize..6, slow in 1_u64..5) {
        let loader = Loader::start(threads, DEADLINE, (0..n).map(micro), move |micro| {
            thread::sleep(Duration::from_micros(micro.first_position * 7919 % slow * 300));
            Ok(empty(micro))
        });
        let positions: Vec<u64> = loader.map(|batch| batch.unwrap().first_position).collect();
        prop_assert_eq!(positions, (0..n).collect::<Vec<_>>());
    }
}

#[test]
fn an_error_or_a_panic_is_handed_out_in_its_place() {
    let loader = Loader::start(3, DEADLINE, (0..6).map(micro), |micro| match micro.first_position {
        2 => Err(Error::OutOfRange { row: 2, n_rows: 2 }),
        4 => panic!("a decoder met {}", micro.first_position),
        _ => Ok(empty(micro)),
    });
    for (i, batch) in loader.enumerate() {
        match (i, batch) {
            (2, Err(Error::OutOfRange { row: 2, .. })) => {}
            (4, Err(Error::Thread { rows, .. })) => assert_eq!(rows, [4]),
            (i, batch) => assert_eq!(batch.unwrap().first_position, i as u64),
        }
    }
}

#[test]
fn a_plan_that_panics_is_not_taken_for_its_end() {
    let plan = (0..5).map(|i| if i == 3 { panic!("a defect of the plan") } else { micro(i) });
    let batches: Vec<_> = Loader::start(2, DEADLINE, plan, |micro| Ok(empty(micro))).collect();
    assert_eq!(batches.iter().filter(|b| b.is_ok()).count(), 3);
    assert!(matches!(batches.last(), Some(Err(Error::Thread { .. }))));
}

#[test]
fn few_batches_are_in_memory_and_dropping_the_loader_stops_the_threads() {
    const THREADS: usize = 3;
    let made = Arc::new(AtomicUsize::new(0));
    let count = made.clone();
    let mut loader = Loader::start(THREADS, DEADLINE, (0..).map(micro), move |micro| {
        count.fetch_add(1, Ordering::SeqCst);
        Ok(empty(micro))
    });
    for taken in 1..20 {
        loader.next().unwrap().unwrap();
        thread::sleep(Duration::from_millis(2)); // Time enough to run ahead, were it allowed.
        assert!(made.load(Ordering::SeqCst) <= taken + THREADS + 1);
    }
    drop(loader);
    assert_eq!(Arc::strong_count(&made), 1, "no thread holds the work any more");
}

#[test]
fn a_decoding_thread_that_sleeps_for_ever_is_an_error_and_keeps_nobody() {
    let sleep = |micro: &MicroPlan| {
        if micro.first_position == 1 {
            thread::sleep(Duration::from_secs(3600));
        }
        Ok(empty(micro))
    };
    let mut loader = Loader::start(1, Duration::from_millis(200), (0..3).map(micro), sleep);
    assert!(loader.next().unwrap().is_ok());
    let late = loader.next().unwrap().unwrap_err();
    assert!(matches!(late, Error::Late { .. }) && late.to_string().contains("reading and decoding rows"), "{late}");
    assert!(loader.next().is_none());
}

#[test]
fn waiting_is_measured() {
    let slow = |micro: &MicroPlan| {
        thread::sleep(Duration::from_millis(20));
        Ok(empty(micro))
    };
    let mut loader = Loader::start(1, DEADLINE, (0..3).map(micro), slow);
    assert_eq!(loader.by_ref().count(), 3);
    assert!(loader.waited() >= Duration::from_millis(50), "{:?}", loader.waited());
}

#[test]
fn real_rows_become_the_same_batches_on_any_number_of_threads() {
    let Some(train) = fixtures::mini("train") else { return };
    let options =
        TemplateOptions { mm_tokens_per_image: 4, image_token_index: 700, boi_token_index: 698, double_bos: false };
    let template = Arc::new(Template::open(&fixtures::path("case_a/base"), options).unwrap());
    let sources =
        crate::Sources { files: vec![train], image_folder: None, include: ".png".into(), keep_image_marker: false };
    let data = Arc::new(Dataset::open(&sources).unwrap());
    let batches = |threads: usize| -> Vec<Batch> {
        let options = LoaderOptions { loss_on: LossOn::Assistant, max_seq_len: 2048, threads };
        let plan = (0..6).map(|i| MicroPlan { rows: vec![i * 2, i * 2 + 1], first_position: i as u64 * 2 });
        Loader::spawn(data.clone(), template.clone(), 56, options, plan).collect::<Result<_>>().unwrap()
    };
    let one = batches(1);
    assert_eq!(one, batches(4));
    assert_eq!(one.len(), 6);
    for (i, batch) in one.iter().enumerate() {
        assert_eq!((batch.lengths.len(), &batch.shown[..], batch.first_position), (2, &[0, 1][..], i as u64 * 2));
        assert_eq!(batch.pages.len(), 2 * 56 * 56 * 3);
        assert_eq!(batch.row_ids[0], data.row_id(i * 2).unwrap());
        assert_eq!(batch.pages[56 * 56 * 3..], page(&data.row(i * 2 + 1).unwrap().image, 56).unwrap());
    }
}

#[test]
fn a_page_shown_twice_is_decoded_once() {
    let (page_a, page_b) = (fixtures::path("image/page_1100x850.png"), fixtures::path("image/exact_56.png"));
    let [a, b] = [page_a, page_b].map(|path| std::fs::read(path).unwrap());
    let mut pages = Decoded::default();
    let taken: Vec<u32> = [&a, &b, &a, &b, &a].map(|page| pages.take(page.clone(), 56).unwrap()).into();
    assert_eq!(taken, [0, 1, 0, 1, 0]);
    assert_eq!(pages.pixels, [page(&a, 56).unwrap(), page(&b, 56).unwrap()].concat());
}

#[test]
fn a_bad_row_is_named_in_its_place() {
    let Some(faults) = fixtures::mini("faults") else { return };
    let options =
        TemplateOptions { mm_tokens_per_image: 4, image_token_index: 700, boi_token_index: 698, double_bos: false };
    let template = Arc::new(Template::open(&fixtures::path("case_a/base"), options).unwrap());
    let sources =
        crate::Sources { files: vec![faults], image_folder: None, include: String::new(), keep_image_marker: false };
    let data = Arc::new(Dataset::open(&sources).unwrap());
    let options = LoaderOptions { loss_on: LossOn::Assistant, max_seq_len: 2048, threads: 2 };
    let plan = (0..data.len()).map(|i| MicroPlan { rows: vec![i], first_position: i as u64 });
    let mut good = Vec::new();
    for (i, batch) in Loader::spawn(data.clone(), template, 56, options, plan).enumerate() {
        let id = data.row_id(i).unwrap();
        match batch {
            Ok(batch) => good.extend(batch.row_ids),
            Err(refused) => {
                let said = refused.to_string();
                assert!(said.contains(&format!("row {i} (id {id})")) && said.contains("faults.parquet"), "{said}");
                assert!(!said.contains("What is the rhythm"), "an error never repeats a row's text: {said}");
            }
        }
    }
    assert_eq!(good, ["ok", "no_image_token", "two_image_tokens", "image_token_in_answer", "special_token_in_text"]);
}
