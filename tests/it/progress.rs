//! What `launch` says of a run that goes well, where stderr is no terminal.

use crate::journey::{Run, program};

/// The lines on stderr of a run of 10 steps.
fn said(options: &[&str]) -> Vec<String> {
    let run = Run::synthetic();
    let config = run.path("config.toml");
    let output = program(&[&["launch", "--cpus", "1", "--config", &config], options].concat());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    said.lines().map(str::to_owned).collect()
}

#[test]
fn steps_are_lines_of_eighty_columns() {
    let lines = said(&[]);
    let steps: Vec<&String> = lines.iter().filter(|line| line.contains("/10 ep ")).collect();
    assert_eq!(steps.len(), 10, "{lines:?}");
    assert!(steps.iter().all(|line| line.chars().count() <= 80 && !line.contains("tokens/s")), "{lines:?}");
    assert!(lines.iter().all(|line| !line.contains('\u{1b}')), "no colours and no cursor movements: {lines:?}");
}

#[test]
fn quiet_says_nothing_and_verbose_all() {
    assert_eq!(said(&["--quiet"]), Vec::<String>::new());
    let lines = said(&["--verbose"]);
    let last = lines.iter().find(|line| line.starts_with("10/10 ")).unwrap();
    for part in [" tokens/s, ", "data wait ", "RSS ", "answers ", "entropy "] {
        assert!(last.contains(part), "{part:?} is not in {last}");
    }
}
