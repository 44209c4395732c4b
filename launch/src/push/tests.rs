use super::*;

/// Of a folder with these files those that are pushed.
fn check(there: &[&str], all: bool, expected: Option<&[&str]>) {
    let dir = tempfile::tempdir().unwrap();
    there.iter().for_each(|name| storage::publish_file(&dir.path().join(name), b"x").unwrap());
    let found = files(dir.path(), all);
    match expected {
        Some(expected) => assert_eq!(found.unwrap(), expected, "{there:?}"),
        None => assert!(found.unwrap_err().to_string().contains("no weights"), "{there:?}"),
    }
}

#[test]
fn what_belongs_to_a_model_is_pushed_and_what_belongs_to_a_run_is_not() {
    let checkpoint = [
        "adapter_config.json",
        "adapter_model.safetensors",
        "base_hashes.json",
        "manifest.json",
        "optimizer.safetensors",
        "trainer_state.json",
    ];
    check(&checkpoint, false, Some(&checkpoint[..3]));
    check(&checkpoint, true, Some(&checkpoint));
    check(
        &[&checkpoint[..], &["README.md", ".hidden"]].concat(),
        false,
        Some(&["README.md", checkpoint[0], checkpoint[1], checkpoint[2]]),
    );
    let merged = ["chat_template.jinja", "config.json", "model-1.safetensors", "model.safetensors.index.json"];
    check(&[&merged[..], &["notes.pdf", "trainer_state.json"]].concat(), false, Some(&merged));
    check(&["tokenizer.model", "config.json"], false, None);
    check(&["optimizer.safetensors"], true, None);
}
