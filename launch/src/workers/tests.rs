use super::*;

fn check_tail(log: &str, expected: &str) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rank-0.log");
    File::create(&path).unwrap().write_all(log.as_bytes()).unwrap();
    assert_eq!(tail(&path, 0), expected);
}

#[test]
fn the_end_of_a_log_is_shown() {
    check_tail("", "  (nothing)");
    check_tail("one\ntwo\n", "  | one\n  | two");
    let long: String = (0..10_000).map(|i| format!("line {i}\n")).collect();
    let expected: Vec<String> = (9992..10_000).map(|i| format!("  | line {i}")).collect();
    check_tail(&long, &expected.join("\n"));
}

#[test]
fn earlier_attempts_are_not_shown() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rank-0.log");
    File::create(&path).unwrap().write_all(b"thread panicked at x\nnow\n").unwrap();
    assert_eq!(tail(&path, 21), "  | now");
}

#[test]
fn a_panic_is_shown_from_its_message_on() {
    let backtrace: String = (0..20).map(|i| format!("  {i}: frame\n")).collect();
    let log = format!("before\nthread 'main' panicked at src/x.rs:1:1:\nthe reason\n{backtrace}");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rank-0.log");
    File::create(&path).unwrap().write_all(log.as_bytes()).unwrap();
    let shown = tail(&path, 0);
    assert!(shown.starts_with("  | thread 'main' panicked at src/x.rs:1:1:\n  | the reason\n"), "{shown}");
    assert_eq!(shown.lines().count(), TAIL_LINES);
}

#[test]
fn a_log_that_is_gone_is_no_second_error() {
    assert_eq!(tail(Path::new("/no/such/log"), 0), "  (nothing)");
}
