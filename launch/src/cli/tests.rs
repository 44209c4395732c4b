use clap::{CommandFactory, Parser};

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split_whitespace())
}

fn check_refused(line: &str, because: &str) {
    let error = parse(line).expect_err(line);
    assert_eq!(error.exit_code(), 2, "{line}");
    assert!(error.to_string().contains(because), "{line}: {error}");
}

#[test]
fn the_definition_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_ends_with_two_examples_and_fits_eighty_columns() {
    let mut command = Cli::command();
    command.build();
    let all: Vec<_> = std::iter::once(command.clone()).chain(command.get_subcommands().cloned()).collect();
    for mut command in all {
        let help = command.clone().term_width(80).render_long_help().to_string();
        let (_, examples) = help.rsplit_once("Examples:").unwrap_or_else(|| panic!("{}", command.get_name()));
        assert_eq!(examples.lines().filter(|l| l.contains("ecg-train ")).count(), 2, "{examples}");
        for line in command.render_help().to_string().lines() {
            assert!(line.chars().count() <= 80, "{}: {line}", command.get_name());
        }
    }
}

#[test]
fn what_does_not_exist_is_not_listed() {
    let command = Cli::command();
    let listed: Vec<_> = command.get_subcommands().filter(|c| !c.is_hide_set()).map(clap::Command::get_name).collect();
    assert_eq!(
        listed,
        [
            "demo",
            "prepare",
            "check",
            "launch",
            "merge",
            "generate",
            "eval",
            "report",
            "push",
            "bench",
            "completions",
            "man"
        ]
    );
}

#[test]
fn launch_needs_a_config_and_one_kind_of_device() {
    check_refused("ecg-train launch --cpus 2", "--config");
    check_refused("ecg-train launch --config c.toml", "--cpus");
    check_refused("ecg-train launch --config c.toml --cpus 2 --gpus 2", "cannot be used with");
    check_refused("ecg-train launch --config c.toml --cpus 0", "1..=1024");
    assert!(parse("ecg-train launch --config c.toml --cpus 2 --set a.b=1 --set c=d").is_ok());
}

#[test]
fn generate_asks_one_prompt_or_a_data_set() {
    check_refused("ecg-train generate --model m", "--prompt");
    check_refused("ecg-train generate --model m --data d", "--out");
    check_refused("ecg-train generate --model m --data d --out o --prompt p", "cannot be used with");
    check_refused("ecg-train generate --model m --data d --out o --image i", "cannot be used with");
    check_refused("ecg-train generate --model m --images d --prompt p", "--out");
    check_refused("ecg-train generate --model m --images d --out o", "--prompt");
    check_refused("ecg-train generate --model m --chat --prompt p", "cannot be used with");
    check_refused("ecg-train generate --model m --messages f --system s", "cannot be used with");
    check_refused("ecg-train generate --model m --prompt p --temperature 0", "leave it out for greedy answers");
    check_refused("ecg-train generate --model m --prompt p --top-p 0.9", "--temperature");
    check_refused("ecg-train generate --model m --prompt p --temperature 1 --top-p 1.1", "from 0 to 1");
    check_refused("ecg-train generate --model m --prompt p --gpus 2", "2");
    assert!(parse("ecg-train generate --model m --image i --image j --prompt p").is_ok());
    assert!(parse("ecg-train generate --model m --chat --image i --temperature 1 --top-k 0 --seed 3").is_ok());
    assert!(parse("ecg-train generate --model m --images d --prompt p --out o").is_ok());
    assert!(parse("ecg-train generate --model m --data d --out o --batch-size 4").is_ok());
}

#[test]
fn a_worker_has_orders_on_stdin_or_a_config() {
    let run = |line| match parse(line).map(|cli| cli.command) {
        Ok(Command::Worker(args)) => args.config,
        other => panic!("{other:?}"),
    };
    assert!(run("ecg-train worker").is_none());
    assert!(run("ecg-train worker --config c.toml --gpu").is_some());
    check_refused("ecg-train worker --gpu", "--config");
}

#[test]
fn times_are_read_in_seconds() {
    assert_eq!(
        (parse_seconds("30"), parse_seconds("0.5")),
        (Ok(Duration::from_secs(30)), Ok(Duration::from_millis(500)))
    );
    for text in ["", "-1", "nan", "inf", "1h", "1e9"] {
        assert!(parse_seconds(text).is_err(), "{text}");
    }
}

#[test]
fn sizes_are_read_in_decimal_units() {
    for (text, expected) in [("5GB", 5_000_000_000), ("500mb", 500_000_000), ("4096", 4096), ("7B", 7), ("2KB", 2000)] {
        assert_eq!(parse_bytes(text), Ok(expected));
    }
    for text in ["", "GB", "5TB", "-1GB", "0", "1.5GB", "99999999999GB", "5 GB x"] {
        assert!(parse_bytes(text).is_err(), "{text}");
    }
}
