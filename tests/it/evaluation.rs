//! Evaluation during training: the numbers of the model room on the held-out rows, the same bits whatever happens.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use data::{Dataset, IGNORE, Loader, LoaderOptions, LossOn, MicroPlan, Role, Sources, Template};
use lora::{Layout, Targets};
use model::engine::{Cpu, Precision};
use model::generate::{GenerateRequest, Generator};
use model::{Input, MedGemma, ModelConfig};
use trainer::evaluation::{self, Evaluation};

use crate::journey::{Run, program};

/// A synthetic run and its settings: 10 steps, evaluated after 4, 8 and 10.
fn run() -> (Run, Vec<String>) {
    let run = Run::synthetic();
    let rows = format!("data.eval={}", run.path("data/held-out.parquet"));
    (run, vec![rows, "data.eval_every=4".into(), "data.shuffle=true".into(), "lora.dropout=0.1".into()])
}

#[track_caller]
fn launch(run: &Run, cpus: usize, settings: &[String]) {
    run.must_launch(cpus, &settings.iter().map(String::as_str).collect::<Vec<_>>());
}

/// The evaluations in a run folder, without what is measured.
pub fn bits(run_dir: &Path) -> Vec<Evaluation> {
    let lines = evaluation::read(&run_dir.join("eval.jsonl")).unwrap();
    lines.into_iter().map(|line| Evaluation { rows_per_second: 0.0, ..line }).collect()
}

/// The steps after which there was an evaluation.
#[track_caller]
pub fn must_be_after(steps: &[u64], run_dir: &Path) {
    assert_eq!(bits(run_dir).iter().map(|line| line.step).collect::<Vec<_>>(), steps);
}

#[test]
fn evaluations_have_the_same_bits_on_any_number_of_workers_and_after_a_resume() {
    let (alone, settings) = run();
    launch(&alone, 1, &settings);
    let expected = bits(alone.path("run").as_ref());
    must_be_after(&[4, 8, 10], alone.path("run").as_ref());
    assert!(expected.iter().all(|line| (line.n_rows, line.answers.len()) == (6, 4)), "{expected:?}");
    assert!(expected[2].loss < expected[0].loss, "it learns: {expected:?}");
    for cpus in [2, 3] {
        let (run, settings) = run();
        launch(&run, cpus, &settings);
        assert_eq!(
            (bits(run.path("run").as_ref()), run.bits(10)),
            (expected.clone(), alone.bits(10)),
            "{cpus} workers"
        );
        // Steps 6 to 10 again, on another number of workers, with one evaluation that was never written.
        std::fs::remove_dir_all(run.path("run/checkpoint-10")).unwrap();
        let file = run.path("run/eval.jsonl");
        let text = std::fs::read_to_string(&file).unwrap();
        let two = text.split_inclusive('\n').take(2).collect::<String>();
        storage::publish_file(file.as_ref(), two.as_bytes()).unwrap();
        launch(&run, cpus - 1, &settings);
        assert_eq!(bits(run.path("run").as_ref()), expected, "{cpus} workers, then one less");
    }
}

#[test]
fn prompts_and_answers_are_told_apart() {
    let (run, mut settings) = run();
    settings.extend(["train.max_steps=2".into(), "data.eval_every=2".into()]);
    launch(&run, 1, &settings);
    let evaluation = bits(run.path("run").as_ref()).remove(0);
    let steps = run.journal().into_iter();
    let told = steps.map(|l| (l.mean_token_accuracy, l.answer_token_accuracy, l.prompt_token_accuracy));
    let of_evaluation =
        (evaluation.mean_token_accuracy, evaluation.answer_token_accuracy, evaluation.prompt_token_accuracy);
    for (all, answers, prompts) in told.chain([of_evaluation]) {
        let prompts = prompts.expect("prompts are learned, too");
        assert!((answers.min(prompts)..=answers.max(prompts)).contains(&all), "{all} of {answers} and {prompts}");
    }
    std::fs::remove_dir_all(run.path("run")).unwrap();
    settings.push("data.loss_on=assistant".into());
    launch(&run, 1, &settings);
    for line in run.journal() {
        assert_eq!((line.prompt_token_accuracy, line.answer_token_accuracy), (None, line.mean_token_accuracy));
    }
    let text = std::fs::read_to_string(run.path("run/journal.jsonl")).unwrap();
    assert!(!text.contains("prompt_token_accuracy"), "{text}");
}

#[test]
fn an_evaluation_that_comes_out_otherwise_ends_the_run() {
    let (run, settings) = run();
    launch(&run, 1, &settings);
    std::fs::remove_dir_all(run.path("run/checkpoint-10")).unwrap();
    let file = run.path("run/eval.jsonl");
    let text = std::fs::read_to_string(&file).unwrap();
    let other = text.replacen("\"step\":8,", "\"step\":8, ", 1).replace("\"answer\":\"", "\"answer\":\"x");
    storage::publish_file(file.as_ref(), other.as_bytes()).unwrap();
    let output = run.launch(1, &settings.iter().map(String::as_str).collect::<Vec<_>>());
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains("eval.jsonl: step 8 had answers"), "{said}");
}

#[test]
fn a_finished_run_that_is_given_held_out_rows_is_evaluated_once() {
    let (run, settings) = run();
    launch(&run, 1, &settings[2..]);
    launch(&run, 2, &settings);
    must_be_after(&[10], run.path("run").as_ref());
    launch(&run, 1, &settings);
    must_be_after(&[10], run.path("run").as_ref());
}

#[test]
fn a_bad_held_out_row_ends_the_run_before_its_first_step() {
    let (run, mut settings) = run();
    let rows = r#"[{"id": "torn-page", "image": "torn.png", "conversations": [
        {"from": "human", "value": "<image>\nIs it?"}, {"from": "gpt", "value": "It is."}]}]"#;
    std::fs::create_dir(run.path("held-out")).unwrap();
    storage::publish_file(run.path("held-out/rows.json").as_ref(), rows.as_bytes()).unwrap();
    storage::publish_file(run.path("held-out/torn.png").as_ref(), b"no page").unwrap();
    settings[0] = format!("data.eval={}", run.path("held-out/rows.json"));
    let output = run.launch(2, &settings.iter().map(String::as_str).collect::<Vec<_>>());
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("torn-page"), "{said}");
    assert!(!Path::new(&run.path("run/journal.jsonl")).exists());
}

/// A model folder with the run's last adapter, as anybody would load it.
fn adapted(run: &Run) -> MedGemma<Cpu> {
    let (ops, base) = (Cpu::new(Precision::F32), run.path("base"));
    let config = ModelConfig::open(base.as_ref()).unwrap();
    let mut model = MedGemma::load(&ops, &config, &config.open_base(base.as_ref()).unwrap()).unwrap();
    let layout = Layout::new(Targets::AllLinear.select(&config.modules()).unwrap(), 4);
    let (flat, _) = lora::read_adapter(run.path("run/checkpoint-10").as_ref(), &layout).unwrap();
    model.adapt(&ops, &layout, &flat, 2.0, 0.0); // alpha / r of the run's config.
    model
}

/// Summed loss in nats, supervised and correct tokens of rows one by one, from nothing but the model's logits.
fn by_logits(model: &MedGemma<Cpu>, dataset: Arc<Dataset>, template: Arc<Template>) -> (f64, u64, u64) {
    let ops = Cpu::new(Precision::F32);
    let rows = dataset.len();
    let plan = (0..rows).map(|row| MicroPlan { rows: vec![row], first_position: row as u64 });
    let options = LoaderOptions { loss_on: LossOn::All, max_seq_len: 512, threads: NonZeroUsize::MIN.get() };
    let size = model.config.vision.image_size;
    let (mut loss, mut supervised, mut correct) = (0.0, 0, 0);
    for batch in Loader::spawn(dataset, template, size, options, plan.collect::<Vec<_>>().into_iter()) {
        let batch = batch.unwrap();
        let input = Input {
            lengths: &batch.lengths,
            input_ids: &batch.input_ids,
            labels: &batch.labels,
            answers: &batch.answers,
            pages: &batch.pages,
            shown: &batch.shown,
        };
        let logits = model::Ops::download(&ops, &model.logits(&ops, &input, &mut |_, _| {}).unwrap());
        let vocab_size = model.config.text.vocab_size;
        for (logits, &label) in logits.chunks(vocab_size).zip(&batch.labels[1..]).filter(|(_, label)| **label != IGNORE)
        {
            let target = label as usize;
            let sum: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
            loss += sum.ln() - f64::from(logits[target]);
            supervised += 1;
            let best = logits.iter().copied().fold(f32::MIN, f32::max);
            correct += u64::from(logits.iter().position(|&logit| logit == best) == Some(target));
        }
    }
    (loss, supervised, correct)
}

#[test]
fn an_evaluation_says_what_the_model_says_of_these_rows() {
    let (run, settings) = run();
    launch(&run, 2, &settings);
    let found = bits(run.path("run").as_ref()).remove(2);
    let files = vec![run.path("data/held-out.parquet").into()];
    let sources = Sources { files, image_folder: None, include: String::new(), keep_image_marker: false };
    let dataset = Arc::new(Dataset::open(&sources).unwrap());
    let base = run.path("base");
    let config = ModelConfig::open(base.as_ref()).unwrap();
    let template = Template::open(base.as_ref(), trainer::template_options(&config, false)).unwrap();
    let template = Arc::new(template);
    let (loss, supervised, correct) = by_logits(&adapted(&run), dataset.clone(), template.clone());
    assert_eq!((found.supervised_tokens, found.correct_tokens), (supervised, correct));
    assert!((found.loss - loss / supervised as f64).abs() < 1e-5, "{} for {}", found.loss, loss / supervised as f64);

    // Its answers are those of `Generator`, which is held against transformers (tests/it/interop.rs).
    let adapter = run.path("run/checkpoint-10");
    let generator = Generator::open(Cpu::new(Precision::F32), base.as_ref(), Some(adapter.as_ref())).unwrap();
    let ids = dataset.ids().unwrap();
    for said in &found.answers {
        let row = dataset.row(ids.iter().position(|id| *id == said.id).unwrap()).unwrap();
        let asked = row.messages.iter().position(|message| message.role == Role::Assistant).unwrap();
        let pages = vec![data::page(&row.image, config.vision.image_size).unwrap()];
        let request = GenerateRequest { input_ids: template.prompt(&row.messages[..asked]).unwrap(), pages };
        let answer = generator.generate(&[request], 64, &mut |_, _| {}).unwrap().remove(0);
        assert_eq!(said.answer, template.decode(&answer), "{}", said.id);
    }
    assert!(found.answers.iter().any(|said| !said.answer.is_empty()), "{:?}", found.answers);
}

#[test]
fn an_evaluation_is_said_and_shown_and_its_answers_are_in_no_log() {
    let (run, settings) = run();
    let mut args = vec!["launch".to_owned(), "--cpus".into(), "1".into(), "--config".into(), run.path("config.toml")];
    for setting in settings.iter().map(String::as_str).chain(["log.tensorboard=true"]) {
        args.extend(["--set".to_owned(), setting.to_owned()]);
    }
    let output = program(&args.iter().map(String::as_str).collect::<Vec<_>>());
    let said = String::from_utf8_lossy(&output.stderr);
    let evaluations = evaluation::read(run.path("run/eval.jsonl").as_ref()).unwrap();
    for line in &evaluations {
        assert!(said.contains(&format!("eval after step {}: loss {:.4} acc ", line.step, line.loss)), "{said}");
    }
    let points = crate::tensorboard::read(run.path("run/tensorboard").as_ref());
    let expected: Vec<_> = evaluations.iter().map(|line| (line.step, line.loss as f32)).collect();
    assert_eq!(points["eval/loss"], expected);
    assert!(points.contains_key("eval/mean_token_accuracy"));
    let log = std::fs::read_to_string(run.path("run/logs/rank-0.log")).unwrap();
    let answers = evaluations.iter().flat_map(|line| &line.answers).map(|said| said.answer.trim());
    for answer in answers.filter(|answer| answer.len() > 8) {
        assert!(!log.contains(answer) && !said.contains(answer), "an answer was logged");
    }
}
