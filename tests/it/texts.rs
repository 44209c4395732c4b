//! Texts that users read, kept as files beside this one: a change of one is seen in a review, and meant.
//! `INSTA_UPDATE=always cargo test --workspace --test it -- texts::` writes them anew.

use std::fs;
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
