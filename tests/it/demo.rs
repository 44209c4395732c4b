//! The README's first command, in its small form: a frozen random base learns to read synthetic ECGs through LoRA.

use crate::journey::program;

/// Each question beats the best constant answer, a blank page and another patient's page by 20 points; `demo` itself
/// computes the table and ends with an error otherwise.
#[test]
fn the_small_demo_learns_to_read_pages() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("demo").display().to_string();
    let output = program(&["demo", "--small", "--dir", &at]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "demo ended with {}:\n{told}", output.status);
    assert_eq!(
        told.matches("pass").count() - told.matches("passed").count(),
        4,
        "three questions and the rule:\n{told}"
    );
}
