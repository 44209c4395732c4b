//! An eval through the real program: answers kept row by row, resumed to the same bytes, scored as published, with controls,
//! likelihoods and a judge's files.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use synth::{Ecg, Patient};

use crate::fixture;
use crate::journey::{program, succeed};

/// A folder with ECGBench's rows as PULSE's scripts lay them out (a JSON file a task, pages below `images/`).
struct Bench(tempfile::TempDir);

const N_PAGES: usize = 5;

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("rows/images")).unwrap();
        for page in 0..N_PAGES {
            let ecg = Ecg::new(1, page as u64, &Patient::new(1, page as u64));
            let png = synth::png(&synth::draw(Some(&ecg), 112)).unwrap();
            storage::publish_file(&dir.path().join(format!("rows/images/{page}.png")), &png).unwrap();
        }
        Self(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Writes the rows of a task; each row's conversations are given.
    fn rows(&self, task: &str, conversations: &[Value]) {
        let row = |(i, turns): (usize, &Value)| json!({"id": format!("{task}-{i}"), "image": format!("{}.png", i % N_PAGES), "conversations": turns});
        let rows: Vec<Value> = conversations.iter().enumerate().map(row).collect();
        storage::publish_file(&self.path(&format!("rows/{task}.json")), json!(rows).to_string().as_bytes()).unwrap();
    }

    /// Questions with gold answers in turn.
    fn asked(&self, task: &str, n: usize, golds: &[&str]) {
        let turns = |i: usize| {
            let question = format!("<image>\nQuestion {i}? Options: a, b");
            json!([{"from": "human", "value": question}, {"from": "gpt", "value": golds[i % golds.len()]}])
        };
        self.rows(task, &(0..n).map(turns).collect::<Vec<_>>());
    }

    fn args(&self, out: &str, more: &[&str]) -> Vec<String> {
        let (base, rows) = (fixture::path("case_a/base").display().to_string(), self.text("rows"));
        let out = self.text(out);
        let fixed = ["eval", "--model", &base, "--data", &rows, "--out", &out, "--resamples", "20"];
        let short = ["--max-new-tokens", "4", "--batch-size", "2"];
        fixed.iter().chain(&short).chain(more).map(|arg| (*arg).to_owned()).collect()
    }

    fn eval(&self, out: &str, more: &[&str]) -> Output {
        let args = self.args(out, more);
        program(&args.iter().map(String::as_str).collect::<Vec<_>>())
    }

    #[track_caller]
    fn must_eval(&self, out: &str, more: &[&str]) -> String {
        let output = self.eval(out, more);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{more:?} ended with {}:\n{told}", output.status);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    fn lines(&self, name: &str) -> Vec<Value> {
        String::from_utf8(self.bytes(name)).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn entries(&self, out: &str) -> Vec<Value> {
        let results: Value = serde_json::from_slice(&self.bytes(&format!("{out}/results.json"))).unwrap();
        results["entries"].as_array().unwrap().clone()
    }
}

fn value<'a>(entries: &'a [Value], [task, pages, basis]: [&str; 3], metric: &str) -> &'a Value {
    let is = |entry: &&Value| entry["task"] == task && entry["pages"] == pages && entry["basis"] == basis;
    let entry = entries.iter().find(is).unwrap_or_else(|| panic!("{task}, {pages}, {basis}"));
    entry["metrics"].as_array().unwrap().iter().find(|found| found["name"] == metric).unwrap()
}

#[track_caller]
fn check_refused(output: &Output, exit_code: i32, because: &str) {
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(exit_code), "{told}");
    assert!(told.contains(because), "{told}");
}

#[test]
fn a_killed_eval_goes_on_to_the_same_bytes() {
    let bench = Bench::new();
    bench.asked("ptb-test", 21, &["NORM", "MI, CD"]);
    let options = ["--task", "ptb-test", "--likelihood"];
    bench.must_eval("whole", &options);
    let files = ["ptb-test/answers.jsonl", "ptb-test/likelihood.jsonl", "results.json"];
    let whole = files.map(|file| bench.bytes(&format!("whole/{file}")));
    let lines = bench.lines("whole/ptb-test/answers.jsonl");
    assert_eq!(lines.len(), 21);
    assert_eq!(lines[20]["id"], "ptb-test-20");
    assert_eq!(lines[1]["gold"], "MI, CD");
    assert_eq!(lines[1]["question"], "Question 1? Options: a, b");

    // A real kill, once there is a first window (8 rows).
    let args = bench.args("cut", &options);
    let mut child = Command::new(env!("CARGO_BIN_EXE_ecg-train-under-test")).args(&args).spawn().unwrap();
    let answers = bench.path("cut/ptb-test/answers.jsonl");
    while !std::fs::metadata(&answers).is_ok_and(|file| file.len() > 0) {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it answered");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // And what a kill may leave at any byte.
    for torn in [None, Some(0), Some(whole[0].len() / 2), Some(whole[0].len() - 1)] {
        if let Some(torn) = torn {
            storage::publish_file(&answers, &whole[0][..torn]).unwrap();
        }
        bench.must_eval("cut", &options);
        assert_eq!(files.map(|file| bench.bytes(&format!("cut/{file}"))), whole, "cut at {torn:?}");
    }
}

#[test]
fn a_folder_of_another_model_adapter_data_or_option_is_refused() {
    let bench = Bench::new();
    bench.asked("csn-test-no-cot", 4, &["B. x"]);
    bench.must_eval("out", &["--task", "csn-test"]);
    let before = bench.bytes("out/csn-test-no-cot/answers.jsonl");
    let adapter = fixture::path("case_a/adapter_init").display().to_string();
    check_refused(&bench.eval("out", &["--task", "csn-test", "--adapter", &adapter]), 2, "another adapter: none, now");
    check_refused(&bench.eval("out", &["--task", "csn-test", "--seed", "3"]), 2, "another --seed: 0, now 3");
    bench.asked("csn-test-no-cot", 4, &["C. x"]);
    check_refused(&bench.eval("out", &["--task", "csn-test"]), 2, "another data of csn-test-no-cot");
    assert_eq!(bench.bytes("out/csn-test-no-cot/answers.jsonl"), before);
    // Another task may join; a task without rows may not begin.
    bench.asked("csn-test-no-cot", 4, &["B. x"]);
    bench.asked("g12-test-no-cot", 3, &["A. x"]);
    bench.must_eval("out", &["--task", "g12-test"]);
    assert_eq!(bench.entries("out").len(), 4, "two tasks, each read in two ways");
    check_refused(&bench.eval("out", &["--task", "g12-test,mmmu-ecg"]), 3, "no rows of mmmu-ecg there");
}

#[test]
fn controls_show_other_pages_and_stand_beside() {
    let bench = Bench::new();
    bench.asked("ptb-test", 8, &["NORM", "MI"]);
    let out = bench.must_eval(
        "out",
        &["--task", "ptb-test", "--likelihood", "--control", "blank-page,shuffled-page", "--scoring", "strict"],
    );
    let entries = bench.entries("out");
    assert_eq!(entries.len(), 6, "strict and likelihood on three kinds of pages: {out}");
    let log_probs = |control: &str| {
        let lines = bench.lines(&format!("out/ptb-test/likelihood{control}.jsonl"));
        lines.iter().map(|line| line["log_probs"].clone()).collect::<Vec<_>>()
    };
    let (own, blank, shuffled) = (log_probs(""), log_probs(".blank-page"), log_probs(".shuffled-page"));
    assert!(own.iter().zip(&blank).all(|(own, blank)| own != blank), "what is shown is what is seen");
    assert!(own.iter().zip(&shuffled).all(|(own, other)| own != other), "every row has another's page");
    assert_ne!(blank, shuffled);
    let auc = value(&entries, ["ptb-test", "own", "likelihood"], "macro_roc_auc");
    assert!((0.0..=1.0).contains(&auc["value"].as_f64().unwrap()) && auc["interval"].is_array());
    assert!(value(&entries, ["ptb-test", "shuffled", "strict"], "hamming_loss")["value"].is_number());
}

#[test]
fn a_dialogue_is_asked_with_its_own_answers_and_judged() {
    let bench = Bench::new();
    let turns = |i: usize| {
        let turn = |n: usize| json!({"question": format!("Question {i}.{n}?"), "answer": format!("Gold {i}.{n}.")});
        Value::Array((0..=i % 2).map(turn).collect())
    };
    bench.rows("arena", &(0..3).map(turns).collect::<Vec<_>>());
    bench.must_eval("out", &["--task", "arena"]);
    let lines = bench.lines("out/arena/answers.jsonl");
    let asked: Vec<_> = lines.iter().map(|line| (line["id"].as_str().unwrap(), line["turn"].as_u64())).collect();
    assert_eq!(asked, [("arena-0", None), ("arena-1", None), ("arena-1", Some(1)), ("arena-2", None)]);
    assert_eq!(lines[2]["gold"], "Gold 1.1.");
    let before = bench.bytes("out/arena/answers.jsonl");
    storage::publish_file(&bench.path("out/arena/answers.jsonl"), &before[..before.len() - 1]).unwrap();
    bench.must_eval("out", &["--task", "arena"]);
    assert_eq!(bench.bytes("out/arena/answers.jsonl"), before, "a dialogue that was cut is asked again");

    let requests = bench.lines("out/arena/judge-requests.jsonl");
    assert_eq!(requests.len(), 4);
    let words = requests[2]["body"]["messages"][1]["content"].as_str().unwrap();
    assert!(words.contains("Question 1.1?") && words.contains("Gold 1.1."));
    let reply = |id: &str, score: i64| {
        let said =
            json!({"Accuracy": score, "Completeness": {"Score": score}, "Instruction Adherence": 10}).to_string();
        let body = json!({"choices": [{"message": {"content": said}}]});
        json!({"custom_id": id, "response": {"status_code": 200, "body": body}, "error": null}).to_string()
    };
    let write = |lines: &[String]| storage::publish_file(&bench.path("replies.jsonl"), lines.join("\n").as_bytes());
    let (answers, replies, out) =
        (bench.text("out/arena/answers.jsonl"), bench.text("replies.jsonl"), bench.text("out"));
    let judged = ["eval", "--answers", &answers, "--task", "arena", "--judge-replies", &replies, "--out", &out];
    let good: Vec<String> = (1..=4).map(|n| reply(&format!("arena-{n}"), n)).collect();
    write(&good).unwrap();
    succeed(&judged);
    let entries = bench.entries("out");
    // Means of 1, 2, 3, 4 twice and 10: (2.5 + 2.5 + 10) / 3 times 10.
    assert_eq!(value(&entries, ["arena", "own", "judge"], "score")["value"], 50.0);
    assert_eq!(value(&entries, ["arena", "own", "judge"], "instruction_adherence")["value"], 10.0);

    write(&good[..3]).unwrap();
    check_refused(&program(&judged), 3, "1 answers have no reply: arena-4");
    write(&[good[0].clone(), reply("arena-2", 11)]).unwrap();
    check_refused(
        &program(&judged),
        3,
        "replies.jsonl:2: the judge's words on arena-2 have no score from 0 to 10 for Accuracy",
    );
    write(&[good[0].clone(), good[0].clone()]).unwrap();
    check_refused(&program(&judged), 3, "replies.jsonl:2: arena-1 has a reply already");
}

/// What the program says of the reference's answers, to the last digit.
#[test]
fn kept_answers_are_scored_as_published() {
    let bench = Bench::new();
    let cases = fixture::path("eval_parity/cases.jsonl");
    let expected: Value =
        serde_json::from_slice(&std::fs::read(fixture::path("eval_parity/expected.json")).unwrap()).unwrap();
    // ECG-QA's options are in its questions.
    let options = |case: &mut Value| {
        let options: Vec<String> = serde_json::from_value(case["options"].take()).unwrap_or_default();
        case["question"] = format!("Which? Options: {}", options.join(", ")).into();
    };
    let mut lines = String::new();
    for line in std::fs::read_to_string(cases).unwrap().lines() {
        let mut case: Value = serde_json::from_str(line).unwrap();
        options(&mut case);
        lines.push_str(&format!("{case}\n"));
    }
    storage::publish_file(&bench.path("answers.jsonl"), lines.as_bytes()).unwrap();
    let (answers, out) = (bench.text("answers.jsonl"), bench.text("out"));
    for task in ["ptb-test", "cpsc-test", "code15-test", "csn-test", "ecgqa-test"] {
        succeed(&["eval", "--answers", &answers, "--task", task, "--out", &out, "--resamples", "20"]);
    }
    let entries = bench.entries("out");
    let metrics =
        [("macro_f1", "macro_f1"), ("macro_auc_of_binary_predictions", "macro_auc"), ("hamming_loss", "hamming")];
    for task in ["ptb-test", "cpsc-test", "code15-test"] {
        for (ours, theirs) in metrics {
            assert_eq!(
                value(&entries, [task, "own", "parity"], ours)["value"],
                expected[task][theirs],
                "{task}: {ours}"
            );
        }
    }
    let accuracy = &value(&entries, ["csn-test-no-cot", "own", "parity"], "accuracy")["value"];
    assert_eq!(*accuracy, expected["csn-test-no-cot"]["accuracy_unreadable_is_wrong"]);
    let accuracy = &value(&entries, ["ecgqa-test", "own", "parity"], "exact_set_accuracy")["value"];
    assert_eq!(*accuracy, expected["ecgqa-test"]["exact_set_accuracy"]);
}

#[test]
fn answers_of_other_programs_take_their_gold_from_the_data() {
    let bench = Bench::new();
    bench.asked("csn-test-no-cot", 3, &["A. x", "B. y"]);
    let pulse = ["A", "B", "C"].iter().enumerate().map(|(i, said)| {
        json!({"question_id": format!("csn-test-no-cot-{i}"), "prompt": "p", "text": said, "answer_id": "z"})
            .to_string()
    });
    storage::publish_file(&bench.path("pulse.jsonl"), pulse.collect::<Vec<_>>().join("\n").as_bytes()).unwrap();
    let (file, rows) = (bench.text("pulse.jsonl"), bench.text("rows"));
    let score = |more: &[&str]| program(&[&["eval", "--answers", &file, "--task", "csn-test"], more].concat());
    check_refused(
        &score(&[]),
        3,
        "pulse.jsonl:1: row csn-test-no-cot-0: has no gold answer; give the task's rows with --data",
    );
    let out = score(&["--data", &rows]);
    assert!(out.status.success());
    let table = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(
        table.lines().any(|line| line.contains("parity") && line.contains("accuracy ") && line.contains("66.7")),
        "{table}"
    );
    let told = String::from_utf8_lossy(&out.stderr);
    assert!(told.contains("3 rows here and 1611 as published"), "{told}");
}

/// The hub's layout: a folder a task, a parquet file in it.
#[test]
fn parquet_rows_lie_in_a_folder_of_the_tasks_name() {
    let bench = Bench::new();
    let spec = synth::DemoSpec { n_train: 1, n_test: 2, ..synth::DemoSpec::small(3, std::num::NonZeroUsize::MIN) };
    let files = synth::write_demo(&bench.path("drawn"), &spec, &mut |_| {}).unwrap();
    let folder = bench.path("rows/ptb-test-report");
    std::fs::create_dir_all(&folder).unwrap();
    let rows = std::fs::read(files.held_out).unwrap();
    storage::publish_file(&folder.join("test-00000-of-00001.parquet"), &rows).unwrap();
    bench.must_eval("out", &["--task", "ptb-test-report"]);
    assert_eq!(bench.lines("out/ptb-test-report/answers.jsonl").len(), 6, "two patients, three questions");
    assert_eq!(bench.lines("out/ptb-test-report/judge-requests.jsonl").len(), 6);
    assert!(Path::new(&bench.text("out/eval.json")).exists());
}

/// Chromium says whatever it refuses or cannot do on its console.
pub fn chromium(page: &Path) -> Option<Output> {
    let found = ["chromium", "chromium-browser", "google-chrome"].into_iter().find_map(|name| {
        let mut command = Command::new(name);
        command.args(["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]);
        command.arg(format!("file://{}", page.display())).output().ok()
    });
    if found.is_none() {
        eprintln!("skipped: there is no chromium here; `apt install chromium` brings one");
    }
    found
}

/// A page refers to nothing outside of itself.
#[track_caller]
pub fn must_load_nothing(html: &str) {
    for foreign in ["http:", "https:", "url(", "@import", "<link", "<iframe", "script src", "src=\"/", "import("] {
        assert!(!html.contains(foreign), "{foreign}");
    }
    assert!(html.split("src=\"").skip(1).all(|source| source.starts_with("data:image/png;base64,")));
    assert!(html.contains("default-src 'none'"), "nor may it");
}

#[test]
fn the_page_of_results_holds_everything_and_loads_nothing() {
    let bench = Bench::new();
    bench.asked("csn-test-no-cot", 6, &["B. secret words", "C. secret words"]);
    bench.asked("ptb-test", 6, &["NORM", "MI, CD"]);
    bench.must_eval("out", &["--task", "ptb-test,csn-test", "--control", "blank-page", "--likelihood"]);
    let page = bench.path("report.html");
    succeed(&["report", &bench.text("out"), "--out", &page.display().to_string()]);
    let html = std::fs::read_to_string(&page).unwrap();
    must_load_nothing(&html);
    let links = html.match_indices("href=\"").filter(|(at, _)| !html[at + 6..].starts_with("#s")).count();
    assert_eq!(links, 0, "links lead to sections alone");
    let told =
        ["Not a medical device", "PULSE-7B", "2410.19008", "blank-page", "macro ROC AUC", "ptb-test-0", "82.4", "74.8"];
    assert!(told.iter().all(|words| html.contains(words)), "{told:?}");
    assert!(!html.contains("secret words"), "no row's text stands in the page");
    if let Some(output) = chromium(&page) {
        let (dom, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(dom.contains("Beside published models"), "{told}");
        assert!(!told.contains("CONSOLE"), "{told}");
    }
    check_refused(&program(&["report", &bench.text("rows")]), 2, "neither a run (journal.jsonl) nor an eval");
}
