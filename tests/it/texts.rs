//! Texts that users read, kept as files beside this one: a change of one is seen in a review, and meant.
//! `INSTA_UPDATE=always cargo test --workspace --test it -- texts::` writes them anew.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use clap::CommandFactory;
use launch::cli::Cli;

use crate::journey::{Run, program};

/// Every command but hidden ones.
fn commands() -> Vec<String> {
    let command = Cli::command();
    command.get_subcommands().filter(|c| !c.is_hide_set()).map(|c| c.get_name().to_owned()).collect()
}

fn said(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    format!("exit code {}\n{}", output.status.code().unwrap(), String::from_utf8(text).unwrap().trim_end())
        .replace("ecg-train-under-test", "ecg-train")
}

#[test]
fn help() {
    insta::assert_snapshot!("help", said(&program(&["--help"])));
    for command in commands() {
        insta::assert_snapshot!(format!("help-{command}"), said(&program(&[&command, "--help"])));
    }
}

#[test]
fn what_is_typed_wrong() {
    let lines = [
        "",
        "lanch --cpus 2",
        "launch --config c.toml",
        "launch --cpus 0 --config c.toml",
        "launch --cpus 2 --config c.toml",
        "launch --cpus 2 --gpus 2 --config c.toml",
        "launch --cpus 2 --config c.toml --nnodes 1:4",
        "launch --cpus 2 --config c.toml --node-rank 1",
        "merge --base b --adapter a --out o",
        "merge --base b --adapter a --out o --dtype fp8",
        "generate --model m",
        "generate --model m --image p.png --prompt ?",
        "check --config c.toml --show-row x",
        "prepare --out d",
        "eval --task ptb-test",
        "report nothing",
        "completions tcsh",
    ];
    let dir = tempfile::tempdir().unwrap();
    let all: Vec<String> = lines
        .iter()
        .map(|line| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_ecg-train-under-test"));
            let output = command.args(line.split_whitespace()).current_dir(dir.path()).output().unwrap();
            assert_ne!(output.status.code(), Some(0), "{line}");
            format!("$ ecg-train {line}\n{}", said(&output))
        })
        .collect();
    insta::assert_snapshot!("typed-wrong", all.join("\n\n"));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
}

#[test]
fn a_broken_config() {
    let run = Run::synthetic();
    let text = fs::read_to_string(run.path("config.toml")).unwrap();
    let broken =
        text.replace("learning_rate", "learning_rte").replace("\"cosine\"", "\"cosin\"").replace("r = 4", "r = 0");
    storage::publish_file(run.path("broken.toml").as_ref(), broken.as_bytes()).unwrap();
    let output = program(&["launch", "--cpus", "2", "--config", &run.path("broken.toml"), "--set", "seed=x"]);
    insta::assert_snapshot!("broken-config", said(&output).replace(&run.path(""), "DIR/"));
}

/// Each number as `#` and each hash as `HASH`: they differ between machines and runs, and are no text.
fn without_numbers(text: &str) -> String {
    let (mut out, mut rest) = (String::new(), text);
    while let Some(first) = rest.chars().next() {
        let length = |of: fn(char) -> bool| rest.find(|c| !of(c)).unwrap_or(rest.len());
        let (hex, digits) = (length(|c| c.is_ascii_hexdigit()), length(|c| c.is_ascii_digit() || c == '.'));
        let (taken, text) = match first.is_ascii_digit() {
            _ if hex >= 16 => (hex, "HASH"),
            true => (digits - usize::from(rest[..digits].ends_with('.')), "#"),
            false => (first.len_utf8(), &rest[..first.len_utf8()]),
        };
        out.push_str(text);
        rest = &rest[taken..];
    }
    out
}

/// A command line and what it says, with `DIR/` for the run's folder.
fn told(run: &Run, line: &str) -> String {
    let dir = run.path("");
    let line = line.replace("DIR/", &dir);
    let output = program(&line.split_whitespace().collect::<Vec<_>>());
    let said = said(&output).replace(&dir, "DIR/");
    let (code, text) = said.split_once('\n').expect("the exit code comes first");
    format!("$ ecg-train {line}\n{code}\n{}", without_numbers(text)).replace(&dir, "DIR/")
}

#[test]
fn what_a_run_says_from_check_to_merge() {
    let run = Run::synthetic();
    let eval = "--set data.eval=DIR/data/held-out.parquet --set data.eval_every=2";
    let adapter = "DIR/run/checkpoint-3";
    let lines = [
        "prepare --config DIR/config.toml --out DIR/prepared".to_owned(),
        "prepare --config DIR/config.toml --out DIR/prepared".to_owned(),
        "prepare --verify DIR/prepared".to_owned(),
        format!("check --cpus 2 --config DIR/config.toml --set train.max_steps=3 {eval}"),
        format!("launch --cpus 2 --config DIR/config.toml --set train.max_steps=3 {eval}"),
        format!("launch --cpus 1 --config DIR/config.toml --set train.max_steps=3 {eval}"),
        "launch --cpus 1 --config DIR/config.toml --set train.max_steps=3 --from-scratch".to_owned(),
        format!("merge --base DIR/base --adapter {adapter} --out DIR/merged"),
        format!("merge --base DIR/base --adapter {adapter} --out DIR/merged"),
        "report DIR/run --out DIR/report.html".to_owned(),
    ];
    let all: Vec<String> = lines.iter().map(|line| told(&run, line)).collect();
    insta::assert_snapshot!("a-run", all.join("\n\n"));
}

/// What happens to a file.
enum Harm {
    None,
    /// One byte in its middle becomes another.
    Damaged,
    /// It ends in its middle.
    Torn,
    Gone,
    /// It has this text.
    Is(&'static str),
}

impl Harm {
    fn befall(&self, path: &Path) {
        let publish = |bytes: &[u8]| storage::publish_file(path, bytes).unwrap();
        match self {
            Self::None => {}
            Self::Damaged => {
                let mut bytes = fs::read(path).unwrap();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 0x55;
                publish(&bytes);
            }
            Self::Torn => {
                let bytes = fs::read(path).unwrap();
                publish(&bytes[..bytes.len() / 2]);
            }
            Self::Gone => fs::remove_file(path).unwrap(),
            Self::Is(text) => publish(text.as_bytes()),
        }
    }
}

#[test]
fn broken_inputs_and_folders() {
    use Harm::{Damaged, Gone, Is, None, Torn};
    const LAUNCH: &str = "launch --cpus 1 --config DIR/config.toml";
    const STEP: &str = "launch --cpus 1 --config DIR/config.toml --set train.max_steps=1";
    const ROWS: &str = "launch --cpus 1 --config DIR/config.toml --set data.train=DIR/rows.jsonl";
    const PREPARED: &str = "launch --cpus 1 --config DIR/config.toml --set data.train=DIR/prepared";
    const MERGE: &str = "merge --base DIR/base --adapter DIR/run/checkpoint-1 --out DIR/merged";
    const UNANSWERED: &str = r#"{"id": "a", "image": "a.png", "conversations": [{"from": "human", "value": "?"}]}"#;
    const NO_PAGE: &str = r#"{"id": "a", "image": "b.png", "conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": "!"}]}"#;
    const ELSEWHERE: &str = r#"{"id": "a", "image": "../a.png", "conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": "!"}]}"#;
    let cases = [
        ("data/train-00000-of-00001.parquet", Torn, LAUNCH),
        ("rows.jsonl", None, ROWS),
        ("rows.jsonl", Is("<html>404</html>"), ROWS),
        ("rows.jsonl", Is(UNANSWERED), ROWS),
        ("rows.jsonl", Is(NO_PAGE), ROWS),
        ("rows.jsonl", Is(ELSEWHERE), ROWS),
        ("prepared/part-00000.parquet", Gone, PREPARED),
        ("prepared/part-00000.parquet", Damaged, PREPARED),
        ("prepared/part-00000.parquet", Damaged, "prepare --verify DIR/prepared"),
        ("prepared/manifest.json", Torn, PREPARED),
        ("base/tokenizer.json", Torn, LAUNCH),
        ("base/config.json", Gone, LAUNCH),
        ("base/model.safetensors", Torn, LAUNCH),
        ("base/model.safetensors", Damaged, MERGE),
        ("run/checkpoint-1/adapter_model.safetensors", Damaged, STEP),
        ("run/checkpoint-1/adapter_model.safetensors", Gone, MERGE),
        ("run/journal.jsonl", Damaged, STEP),
        ("run", None, "launch --cpus 1 --config DIR/config.toml --set output_dir=DIR/config.toml"),
        ("run", None, "launch --cpus 1 --config DIR/config.toml --set output_dir=/proc/run"),
    ];
    let page = synth::png(&synth::draw(Option::None, 64)).unwrap();
    let all: Vec<String> = cases
        .iter()
        .map(|(file, harm, line)| {
            let run = Run::synthetic();
            storage::publish_file(run.path("a.png").as_ref(), &page).unwrap();
            if line.contains("DIR/prepared") {
                assert!(told(&run, "prepare --config DIR/config.toml --out DIR/prepared").contains("exit code 0"));
            }
            if file.starts_with("run/") || *line == MERGE {
                assert!(told(&run, STEP).contains("exit code 0"));
            }
            harm.befall(run.path(file).as_ref());
            let harm = match harm {
                None => "as it is",
                Damaged => "has another byte",
                Torn => "ends in its middle",
                Gone => "is gone",
                Is(text) => text,
            };
            format!("{file}: {harm}\n{}", told(&run, line))
        })
        .collect();
    insta::assert_snapshot!("broken-inputs", all.join("\n\n"));
}

#[test]
fn manual_pages_say_what_help_says() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().display().to_string();
    assert!(program(&["man", "--dir", &path]).status.success());
    for command in commands() {
        let page = fs::read_to_string(dir.path().join(format!("ecg-train-{command}.1"))).unwrap();
        assert!(page.contains(&format!("ecg\\-train\\-{command}")) && page.contains("Examples:"), "{command}: {page}");
    }
    let whole = String::from_utf8(program(&["man"]).stdout).unwrap();
    assert_eq!(whole, fs::read_to_string(dir.path().join("ecg-train.1")).unwrap());
    assert!(commands().iter().all(|command| whole.contains(&format!("ecg\\-train\\-{command}(1)"))), "{whole}");
}

#[test]
fn completions_know_every_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = String::from_utf8(program(&["completions", shell]).stdout).unwrap();
        commands().iter().for_each(|command| assert!(script.contains(command.as_str()), "{shell}: {command}"));
    }
}
