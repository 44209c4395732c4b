//! `ecg-train generate` through the real program: however a question is asked, the answer is the same one; and it is the
//! one that transformers gives.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::fixture;
use crate::journey::{Run, draw, program, succeed};

/// case_a's base and adapter, whose answers are long and never the same.
fn model() -> Vec<String> {
    let folder = |name| fixture::path(name).display().to_string();
    vec!["--model".into(), folder("case_a/base"), "--adapter".into(), folder("case_a/adapter_final")]
}

fn page(name: &str) -> PathBuf {
    fixture::path("image").join(name)
}

const PAGES: [&str; 2] = ["page_1100x850.png", "tall_37x211.png"];
const PROMPT: &str = "What is the heart rate?";

fn with_model<'a>(model: &'a [String], args: &[&'a str]) -> Vec<&'a str> {
    ["generate"].into_iter().chain(model.iter().map(String::as_str)).chain(args.iter().copied()).collect()
}

fn generate(args: &[&str]) -> String {
    let model = model();
    succeed(&with_model(&model, args))
}

/// The program must refuse with `code` and name every text.
#[track_caller]
fn check_refused(args: &[&str], code: i32, named: &[&str]) {
    let model = model();
    let output = program(&with_model(&model, args));
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?} said:\n{told}");
    named.iter().for_each(|text| assert!(told.contains(text), "{args:?} does not name {text}:\n{told}"));
}

fn lines(file: &Path) -> Vec<Value> {
    std::fs::read_to_string(file).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_question_has_one_answer_however_it_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let first = page(PAGES[0]);
    let short = ["--max-new-tokens", "12"];
    let ask = |args: &[&str]| generate(&[args, &short].concat());
    let aloud = ask(&["--image", text(&first), "--prompt", PROMPT]);
    assert!(aloud.len() > 3, "{aloud:?}");

    let document: Value = serde_json::from_str(&ask(&["--image", text(&first), "--prompt", PROMPT, "--json"])).unwrap();
    assert_eq!(format!("{}\n", document["answer"].as_str().unwrap()), aloud);
    assert_eq!(
        (&document["ended"], &document["new_tokens"], &document["sampling"]),
        (&json!(false), &json!(12), &Value::Null)
    );
    assert!(document["first_token_seconds"].as_f64() > Some(0.0) && document["tokens_per_second"].as_f64() > Some(0.0));

    assert_eq!(ask(&["--image", text(&first), "--prompt", &format!("<image>{PROMPT}")]), aloud);
    let messages = dir.path().join("messages.json");
    let write = |content: Value| storage::publish_file(&messages, content.to_string().as_bytes()).unwrap();
    let question = |image: Value| json!([{"role": "user", "content": [image, {"type": "text", "text": PROMPT}]}]);
    write(question(json!({"type": "image", "image": first})));
    assert_eq!(ask(&["--messages", text(&messages)]), aloud);
    write(json!({"messages": question(json!({"type": "image"}))}));
    assert_eq!(ask(&["--messages", text(&messages), "--image", text(&first)]), aloud);

    // Each page of a folder, together and one by one.
    let pages = dir.path().join("pages");
    std::fs::create_dir(&pages).unwrap();
    for name in PAGES {
        std::fs::copy(page(name), pages.join(name)).unwrap();
    }
    storage::publish_file(&pages.join("notes.txt"), b"no page").unwrap();
    let out = dir.path().join("answers.jsonl");
    for batch_size in ["1", "8"] {
        let batch = ["--images", text(&pages), "--prompt", PROMPT, "--out", text(&out), "--batch-size", batch_size];
        assert_eq!(ask(&batch), "");
        let found = lines(&out);
        assert_eq!(found.iter().map(|line| &line["id"]).collect::<Vec<_>>(), PAGES.as_slice());
        assert_eq!(format!("{}\n", found[0]["answer"].as_str().unwrap()), aloud);
        assert!(!dir.path().join("answers.jsonl.unfinished").exists());
    }
}

#[test]
fn a_conversation_on_the_terminal_is_the_one_in_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let model = model();
    let mut chat = Command::new(env!("CARGO_BIN_EXE_ecg-train-under-test"))
        .arg("generate")
        .args(&model)
        .args(["--chat", "--quiet", "--max-new-tokens", "8", "--system", "Be brief.", "--image", text(&page(PAGES[0]))])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let second = page(PAGES[1]);
    let typed =
        format!("{PROMPT}\n/image /no/page.png\n/image {}\nAnd <image> and <image>?\nAnd here?\n", second.display());
    chat.stdin.take().unwrap().write_all(typed.as_bytes()).unwrap();
    let output = chat.wait_with_output().unwrap();
    let (said, told) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{told}");
    assert!(told.contains("/no/page.png") && told.contains("2 times and there are 1 pages"), "{told}");
    let answers: Vec<&str> = said.lines().collect();
    assert_eq!(answers.len(), 2, "{said}");

    let messages = dir.path().join("messages.json");
    let turns = json!([
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "image", "path": page(PAGES[0])}, {"type": "text", "text": PROMPT}]},
        {"role": "assistant", "content": answers[0]},
        {"role": "user", "content": [{"type": "image", "url": second}, {"type": "text", "text": "And here?"}]},
    ]);
    storage::publish_file(&messages, turns.to_string().as_bytes()).unwrap();
    assert_eq!(generate(&["--messages", text(&messages), "--max-new-tokens", "8"]), format!("{}\n", answers[1]));
}

#[test]
fn drawn_answers_are_those_of_their_seed() {
    let ask = |more: &[&str]| {
        let page = page(PAGES[0]);
        let args =
            ["--image", text(&page), "--prompt", PROMPT, "--max-new-tokens", "12", "--json", "--temperature", "0.8"];
        let document: Value = serde_json::from_str(&generate(&[&args, more].concat())).unwrap();
        (document["answer"].as_str().unwrap().to_owned(), document["sampling"].clone())
    };
    let (answer, sampling) = ask(&["--seed", "1"]);
    assert_eq!(
        sampling,
        json!({"temperature": 0.8_f32, "top_k": 50, "top_p": 1.0, "seed": 1}),
        "transformers' defaults"
    );
    assert_eq!(ask(&["--seed", "1"]).0, answer);
    assert_ne!(ask(&["--seed", "2"]).0, answer);
    assert_eq!(
        ask(&["--top-k", "1", "--seed", "1"]).0,
        ask(&["--top-p", "0", "--seed", "2"]).0,
        "the most likely token alone"
    );
}

#[test]
fn a_killed_batch_goes_on_and_ends_as_if_nothing_had_happened() {
    let dir = tempfile::tempdir().unwrap();
    let (base, rows) = draw(dir.path());
    let data = format!("{}/train-*.parquet", rows.display());
    let command = |out: &Path, tokens: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ecg-train-under-test"));
        command.args(["generate", "--model", text(&base), "--data", &data, "--out", text(out)]);
        command.args(["--max-new-tokens", tokens, "--batch-size", "4"]).stderr(Stdio::piped());
        command
    };
    let (whole, cut) = (dir.path().join("whole.jsonl"), dir.path().join("cut.jsonl"));
    assert!(command(&whole, "24").status().unwrap().success());
    assert_eq!(lines(&whole).len(), 60);
    assert!(lines(&whole).iter().all(|line| !line["expected"].as_str().unwrap().is_empty()));

    let rest = dir.path().join("cut.jsonl.unfinished");
    let mut killed = command(&cut, "24").spawn().unwrap();
    let answered = || std::fs::read_to_string(&rest).map_or(0, |text| text.lines().count().saturating_sub(1));
    while answered() < 8 && killed.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    let n = answered();
    assert!((8..60).contains(&n), "killed on the way: {n} answers");
    assert!(!cut.exists());
    // A line that was cut off, as a power cut leaves it.
    let mut text = std::fs::read_to_string(&rest).unwrap();
    text.push_str("{\"id\": \"half");
    storage::publish_file(&rest, text.as_bytes()).unwrap();

    let other = command(&cut, "23").output().unwrap();
    let told = String::from_utf8_lossy(&other.stderr).into_owned();
    assert!(
        other.status.code() == Some(2) && told.contains("cut.jsonl.unfinished") && told.contains("options"),
        "{told}"
    );
    let resumed = command(&cut, "24").output().unwrap();
    let told = String::from_utf8_lossy(&resumed.stderr).into_owned();
    assert!(resumed.status.success() && told.contains(&format!("{n} of 60 are answered already")), "{told}");
    assert_eq!(std::fs::read(&cut).unwrap(), std::fs::read(&whole).unwrap());
    assert!(!rest.exists());
}

#[test]
fn a_run_folder_stands_for_its_newest_good_checkpoint() {
    let run = Run::synthetic();
    run.must_launch(1, &["train.max_steps=6", "checkpoint.every_steps=2", "checkpoint.keep=3"]);
    let base = run.path("base");
    let page = page(PAGES[0]);
    let ask = |adapter: &str| {
        let args = ["generate", "--model", &base, "--adapter", adapter, "--image", text(&page), "--prompt", "Rate?"];
        program(&[&args[..], &["--max-new-tokens", "6"]].concat())
    };
    let of_4 = ask(&run.path("run/checkpoint-4")).stdout;
    let of_6 = ask(&run.path("run/checkpoint-6")).stdout;
    assert_eq!(ask(&run.path("run")).stdout, of_6);
    let weights = run.path("run/checkpoint-6/adapter_model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    storage::publish_file(Path::new(&weights), &bytes).unwrap();
    let output = ask(&run.path("run"));
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.stdout, of_4, "{told}");
    assert!(told.contains("checkpoint-6") && told.contains("adapter_model.safetensors"), "{told}");
    let none = ask(&run.path("data"));
    let told = String::from_utf8_lossy(&none.stderr);
    assert!(
        none.status.code() == Some(2) && told.contains("neither adapter_config.json nor a good checkpoint"),
        "{told}"
    );
}

#[test]
fn what_cannot_be_asked_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let page = page(PAGES[0]);
    let file = |name: &str, content: &str| {
        storage::publish_file(&dir.path().join(name), content.as_bytes()).unwrap();
        dir.path().join(name).display().to_string()
    };
    check_refused(&["--prompt", "<image> or <image>?", "--image", text(&page)], 2, &["2 times and there are 1 pages"]);
    let torn = file("torn.png", "no page");
    check_refused(&["--prompt", "?", "--image", &torn], 3, &["torn.png", "PNG or JPEG"]);
    check_refused(&["--prompt", "?", "--image", "/no/page.png"], 6, &["/no/page.png"]);
    let out = dir.path().join("o.jsonl").display().to_string();
    check_refused(&["--images", text(dir.path()), "--prompt", "?", "--out", &out], 3, &["torn.png"]);
    assert!(!dir.path().join("o.jsonl.unfinished").exists(), "nothing was answered");
    let empty = tempfile::tempdir().unwrap();
    check_refused(&["--images", text(empty.path()), "--prompt", "?", "--out", &out], 2, &["no PNG or JPEG file"]);
    let messages = |content: &str, code, named: &[&str]| {
        check_refused(&["--messages", &file("m.json", content)], code, &[&["m.json"], named].concat());
    };
    messages("{", 2, &["line 1"]);
    messages("3", 2, &["neither a list"]);
    messages(r#"[{"role": "nurse", "content": "?"}]"#, 2, &["message 0", "role"]);
    messages(r#"[{"role": "user", "content": [{"type": "video"}]}]"#, 2, &["message 0", "text nor image"]);
    messages(r#"[{"role": "user", "content": [{"type": "image"}]}]"#, 2, &["message 0", "no --image is left"]);
    messages(r#"[{"role": "user", "content": [{"type": "image", "url": "https://x/y.png"}]}]"#, 2, &["download it"]);
    messages(r#"[{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]"#, 2, &["the last message"]);
    let text_alone = file("m.json", r#"[{"role": "user", "content": "?"}]"#);
    check_refused(&["--messages", &text_alone, "--image", text(&page)], 2, &["fewer pages than --image gives"]);
    check_refused(&["--prompt", "?", "--gpus", "1", "--backend", "cuda"], 2, &["--features cuda"]);
}

/// Several turns, several pages, base + adapter: the same tokens as transformers and PEFT from the same files.
#[test]
fn transformers_gives_the_same_answer_to_several_turns_and_pages() {
    let Some(python) = std::env::var_os("ECG_TRAIN_PYTHON") else {
        eprintln!("skipped: transformers itself on the same messages; ECG_TRAIN_PYTHON names no Python that has it");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let image = |name| json!({"type": "image", "image": page(name)});
    let words = |text: &str| json!({"type": "text", "text": text});
    let conversations = [
        json!([{"role": "user", "content": [words("Compare"), image(PAGES[0]), words("with"), image(PAGES[1])]}]),
        json!([
            {"role": "system", "content": [words("Be brief.")]},
            {"role": "user", "content": [image(PAGES[1]), words("What is the rate?")]},
            {"role": "assistant", "content": [words("It is fast.")]},
            {"role": "user", "content": [image(PAGES[0]), words("And here?")]},
        ]),
        json!([{"role": "user", "content": [words("No page at all?")]}]),
    ];
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/reference/generate.py");
    for (i, turns) in conversations.iter().enumerate() {
        let messages = dir.path().join(format!("{i}.json"));
        storage::publish_file(&messages, turns.to_string().as_bytes()).unwrap();
        let ours: Value =
            serde_json::from_str(&generate(&["--messages", text(&messages), "--max-new-tokens", "24", "--json"]))
                .unwrap();
        let model = model();
        let output = Command::new(&python)
            .args([script, &model[1], &model[3], text(&messages), "24"])
            .env("HF_HUB_OFFLINE", "1")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let theirs: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(ours["prompt_tokens"], theirs["prompt_tokens"], "conversation {i}");
        assert_eq!(ours["answer"], theirs["answer"], "conversation {i}");
        assert_eq!(ours["new_tokens"], theirs["new_tokens"], "conversation {i}");
    }
}
