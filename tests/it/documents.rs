//! What the documents say is so: their commands are understood, the quickstart's run, their links, keys and messages exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Parser;
use launch::cli::Cli;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// README, the pages of docs/, and the heads of configs and job scripts: whatever shows a user what to type.
fn documents() -> Vec<(PathBuf, String)> {
    let root = Path::new(ROOT);
    let mut paths = vec![root.join("README.md")];
    for folder in ["docs", "configs", "configs/jobs"] {
        let entries = fs::read_dir(root.join(folder)).unwrap();
        paths.extend(entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()));
    }
    paths.sort();
    let read = |path: PathBuf| (path.clone(), fs::read_to_string(path).unwrap());
    paths.into_iter().map(read).collect()
}

/// Lines of indented or fenced code; one that ends in `\` goes on in the next.
fn code(text: &str) -> Vec<String> {
    let (mut lines, mut fenced, mut open) = (Vec::<String>::new(), false, false);
    for line in text.lines() {
        if line.starts_with("```") {
            fenced = !fenced;
            continue;
        }
        let Some(line) = line.strip_prefix("    ").or(fenced.then_some(line)).or(line.strip_prefix("#   ")) else {
            open = false;
            continue;
        };
        let (line, goes_on) = match line.trim_end().strip_suffix('\\') {
            Some(line) => (line, true),
            None => (line, false),
        };
        match (open, lines.last_mut()) {
            (true, Some(last)) => last.push_str(&format!(" {}", line.trim())),
            _ => lines.push(line.trim().to_owned()),
        }
        open = goes_on;
    }
    lines
}

/// A line's words as a shell has them, up to a comment.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[test]
fn every_command_that_a_document_shows_is_understood() {
    let mut n_commands = 0;
    for (path, text) in documents() {
        for line in code(&text) {
            let words = words(&line);
            // `srun ecg-train ...` and `cargo run -- ...` are commands of the program, too.
            let Some(at) = words.iter().position(|word| word == "ecg-train") else { continue };
            if words[..at].iter().any(|word| word == "bench_step.py" || word.contains("install"))
                || at + 1 == words.len()
            {
                continue;
            }
            let end =
                words.iter().position(|word| ["|", "&&", ">", ";"].contains(&word.as_str())).unwrap_or(words.len());
            // What stands for a value of the reader's own.
            let filled = words[at..end.max(at)].iter().filter(|word| *word != "...").map(|word| match word.as_str() {
                "N" | "R" | "W" => "1".to_owned(),
                word => word.replace("EVAL_DIR...", "eval"),
            });
            if let Err(error) = Cli::try_parse_from(filled)
                && ![clap::error::ErrorKind::DisplayHelp, clap::error::ErrorKind::DisplayVersion]
                    .contains(&error.kind())
            {
                panic!("{}: `{line}` is not understood: {error}", path.display());
            }
            n_commands += 1;
        }
    }
    assert!(n_commands > 30, "{n_commands} commands were found");
}

#[test]
fn the_quickstart_runs_as_it_stands() {
    let text = fs::read_to_string(Path::new(ROOT).join("docs/quickstart.md")).unwrap();
    let commands: Vec<String> = code(&text).into_iter().filter(|line| !line.starts_with("cargo")).collect();
    assert!(commands.len() >= 7, "{commands:?}");
    let dir = tempfile::tempdir().unwrap();
    let bin = dir.path().join("bin");
    fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_ecg-train-under-test"), bin.join("ecg-train")).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    for command in commands {
        let output =
            Command::new("sh").args(["-euc", &command]).current_dir(dir.path()).env("PATH", &path).output().unwrap();
        let (said, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "`{command}` ended with {}:\n{said}\n{told}", output.status);
        assert!(!said.is_empty() || !told.is_empty(), "`{command}` says nothing");
    }
    for left in ["runs/first/checkpoint-12/adapter_model.safetensors", "merged/config.json"] {
        assert!(dir.path().join(left).exists(), "{left}");
    }
}

/// What stands between a pair of marks, wherever it does.
fn between<'a>(text: &'a str, open: &str, close: &str) -> Vec<&'a str> {
    text.split(open).skip(1).filter_map(|rest| rest.split_once(close).map(|(inner, _)| inner)).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut broken = Vec::new();
    for (path, text) in documents().into_iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "md")) {
        for target in between(&text, "](", ")").into_iter().filter(|target| !target.starts_with("http")) {
            let file = target.split('#').next().unwrap_or(target);
            if !file.is_empty() && !path.parent().unwrap().join(file).exists() {
                broken.push(format!("{}: {target}", path.display()));
            }
        }
    }
    assert_eq!(broken, Vec::<String>::new());
}

#[test]
fn every_configuration_key_that_a_document_names_exists() {
    let tiny = fs::read_to_string(Path::new(ROOT).join("configs/tiny.toml")).unwrap();
    let mut keys = BTreeSet::new();
    for (_, text) in documents() {
        for span in text.split('`').skip(1).step_by(2) {
            let name = span.split([' ', '=']).next().unwrap_or(span);
            let is_key = |section: &str| {
                let key = name.strip_prefix(section).and_then(|rest| rest.strip_prefix('.'));
                key.is_some_and(|key| !key.is_empty() && key.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
            };
            if ["model", "data", "lora", "train", "checkpoint", "log"].into_iter().any(is_key) && !name.ends_with(".rs")
            {
                keys.insert(name.to_owned());
            }
        }
    }
    assert!(keys.len() > 20, "{keys:?}");
    for key in keys {
        let refused = trainer::Config::parse("tiny.toml", &tiny, &[format!("{key}=[]")]).unwrap_err().to_string();
        assert!(!refused.contains("unknown key"), "{key} is no key: {refused}");
    }
}

/// All of the program's own texts.
fn sources(dir: &Path, all: &mut String) {
    for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        match entry.is_dir() {
            true => sources(&entry, all),
            false if entry.ends_with("tests.rs") => {}
            false => all.push_str(&fs::read_to_string(&entry).unwrap_or_default()),
        }
    }
}

#[test]
fn every_message_that_is_explained_is_the_programs() {
    let mut program = String::new();
    for room in ["launch", "trainer", "data", "lora", "model", "remote"] {
        sources(&Path::new(ROOT).join(room).join("src"), &mut program);
    }
    let text = fs::read_to_string(Path::new(ROOT).join("docs/troubleshooting.md")).unwrap();
    let headings: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    assert!(headings.len() > 15, "{headings:?}");
    for heading in headings {
        assert!(program.contains(heading), "the program never says {heading:?}");
    }
}
