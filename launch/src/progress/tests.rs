use super::*;

fn line(step: u64) -> Line {
    let text = format!(
        r#"{{"step":{step},"epoch":0.25,"loss":0.43215,"grad_norm":1.2345,"learning_rate":1.2e-5,"mean_token_accuracy":0.81234,
        "answer_token_accuracy":0.5,"entropy":1.0,"correct_tokens":81,"supervised_tokens":100,"num_tokens":1000,
        "rows_per_second":98.04,"first_position":{},"last_position":{},"digest":"00"}}"#,
        (step - 1) * 192,
        step * 192 - 1
    );
    serde_json::from_str(&text).unwrap()
}

#[test]
fn a_step_fits_eighty_columns() {
    let left = Some(Duration::from_secs(3 * 3600 + 62));
    let text = describe_step(&line(1234), 6022, left);
    assert_eq!(text, "1234/6022 ep 0.25 loss 0.4321 grad 1.23 lr 1.2e-5 acc 81.2% 98.0 rows/s, 3:01:02 left");
    assert!(describe_step(&line(123), 600, Some(Duration::from_secs(42))).chars().count() <= 80);
}

#[test]
fn more_of_a_step_needs_the_step_before_for_its_tokens() {
    let (before, mut after) = (line(7), line(8));
    after.num_tokens = before.num_tokens + 192 * 330;
    let more = describe_more(&after, Some(&before), Some(3 << 30));
    assert_eq!(more, "32353 tokens/s, data wait 0%, RSS 3.00 GiB, answers 50.0%, entropy 1.000");
    after.prompt_token_accuracy = Some(0.25);
    assert!(describe_more(&after, Some(&before), None).contains(", prompts 25.0%, answers 50.0%"));
    after.prompt_token_accuracy = None;
    assert!(describe_more(&after, Some(&line(6)), None).starts_with("data wait 0%, answers"), "{more}");
}

#[test]
fn times_are_read_at_a_glance() {
    for (seconds, expected) in [(0, "0:00"), (61, "1:01"), (3599, "59:59"), (3600, "1:00:00"), (360_061, "100:01:01")] {
        assert_eq!(clock(Duration::from_secs(seconds)), expected);
    }
}

fn progress() -> Progress {
    Progress {
        verbosity: Verbosity::Usual,
        bar: None,
        every_steps: 10,
        output_dir: "runs/x".into(),
        base: "demo/base".to_owned(),
        more_files: vec![("eval.jsonl", "evaluations")],
        begun: None,
        first: None,
        last: None,
        memory: None,
        checkpoint: None,
        differed: None,
        warned: BTreeSet::new(),
    }
}

#[test]
fn a_finished_run_names_its_files_and_the_next_command() {
    let mut progress = progress();
    progress.on_event(0, &Event::Step { line: line(1), total_steps: 2 });
    progress.on_event(0, &Event::Step { line: line(2), total_steps: 2 });
    progress.on_event(0, &Event::Checkpoint { step: 2 });
    let text = progress.describe_run(Outcome::Done);
    assert!(text.starts_with("finished 2 steps: loss 0.4321, "), "{text}");
    assert!(text.contains("runs/x/checkpoint-2"), "{text}");
    assert!(text.contains("  eval.jsonl           evaluations\n"), "{text}");
    assert!(
        text.ends_with("ecg-train merge --base demo/base --adapter runs/x/checkpoint-2 --out runs/x/merged"),
        "{text}"
    );
}

#[test]
fn other_ranks_repeat_nothing() {
    let mut progress = progress();
    progress.on_event(1, &Event::Step { line: line(1), total_steps: 2 });
    progress.on_event(1, &Event::Checkpoint { step: 1 });
    assert!(progress.last.is_none() && progress.checkpoint.is_none());
}

#[test]
fn a_stopped_run_says_how_it_goes_on() {
    let text = progress().describe_run(Outcome::Stopped);
    assert!(text.contains("the same command goes on"), "{text}");
    assert!(!text.contains("merge"), "{text}");
}
