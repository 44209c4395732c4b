//! Bad input ends with a message that names file, row or key, the documented exit code, and nothing half-written.

use std::path::Path;

use crate::damage::{self, spoil};
use crate::fixture;
use crate::journey::{Run, program, real_rows};

/// Launches with `changes`, which must end with `code` and a message that holds every text of `named`.
#[track_caller]
fn check(run: &Run, changes: &[&str], code: i32, named: &[&str]) {
    let output = run.launch(2, changes);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{changes:?} said:\n{told}");
    for text in named {
        assert!(told.contains(text), "{changes:?} does not name {text}:\n{told}");
    }
    let left = run.path("run");
    let found = std::fs::read_dir(&left).into_iter().flatten().flatten();
    let names: Vec<String> = found.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    let half = names.iter().find(|name| name.starts_with("checkpoint") || name.contains("unfinished"));
    assert_eq!(half, None, "{changes:?} left something in the run folder");
}

/// A model folder like case_a's, changed by `change`.
fn model(dir: &Path, change: impl FnOnce(&Path)) -> String {
    std::fs::create_dir_all(dir).unwrap();
    for entry in std::fs::read_dir(fixture::path("case_a/base")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, dir.join(path.file_name().unwrap())).unwrap();
    }
    change(dir);
    format!("model.path={}", dir.display())
}

#[test]
fn a_config_that_cannot_run_is_refused_before_any_worker_starts() {
    let run = Run::new(Path::new("/no/rows"));
    check(&run, &["train.learning_rte=1e-3"], 2, &["learning_rte", "learning_rate"]);
    check(&run, &["train.micro_batch_size=4"], 2, &["micro_batch_size", "6"]);
    check(&run, &["lora.r=0", "lora.dropout=1.5"], 2, &["lora.r", "dropout"]); // Both at once.
    check(&run, &["train.precision=fp16"], 2, &["precision", "bf16"]);
    assert!(!Path::new(&run.path("run/journal.jsonl")).exists());
}

#[test]
fn a_model_folder_that_would_be_computed_wrongly_is_refused() {
    let rows = tempfile::tempdir().unwrap();
    let run = Run::new(rows.path());
    check(&run, &["model.path=/no/model"], 2, &["/no/model"]);
    let dir = tempfile::tempdir().unwrap();
    let capped = model(&dir.path().join("capped"), |dir| {
        let config = std::fs::read_to_string(dir.join("config.json")).unwrap();
        let capped =
            config.replace("\"query_pre_attn_scalar\"", "\"final_logit_softcapping\": 30.0, \"query_pre_attn_scalar\"");
        storage::publish_file(&dir.join("config.json"), capped.as_bytes()).unwrap();
    });
    check(&run, &[&capped], 2, &["final_logit_softcapping", "30"]);
}

/// Fault 15.
#[test]
fn every_tensor_of_a_base_that_does_not_fit_is_listed_at_once() {
    let run = Run::synthetic();
    let base = run.path("damaged");
    damage::copy(Path::new(&run.path("base")), Path::new(&base), |tensors| {
        let norm = tensors.remove("language_model.model.norm.weight").unwrap();
        tensors.insert("score.weight".to_owned(), norm);
        tensors.get_mut("language_model.model.layers.0.self_attn.k_proj.weight").unwrap().1.reverse();
        let (dtype, shape, bytes) = tensors.get_mut("vision_tower.vision_model.post_layernorm.bias").unwrap();
        *dtype = safetensors::Dtype::F64;
        *bytes = vec![0; 8 * shape[0]];
        spoil(tensors.get_mut("language_model.model.layers.1.mlp.up_proj.weight").unwrap(), 7);
        spoil(tensors.get_mut("multi_modal_projector.mm_input_projection_weight").unwrap(), 0);
    });
    let listed = [
        "6 of its tensors do not fit",
        "missing: language_model.model.norm.weight",
        "unexpected: score.weight",
        "language_model.model.layers.0.self_attn.k_proj.weight: shape",
        "vision_tower.vision_model.post_layernorm.bias: dtype F64, expected F32, BF16 or F16",
        "language_model.model.layers.1.mlp.up_proj.weight: element 7 is not finite",
        "multi_modal_projector.mm_input_projection_weight: element 0 is not finite",
    ];
    let model = format!("model.path={base}");
    check(&run, &[&model], 2, &listed);
    assert!(!Path::new(&run.path("run/journal.jsonl")).exists());
    let output = program(&["check", "--read-base", "--config", &run.path("config.toml"), "--set", &model]);
    assert_eq!(output.status.code(), Some(2));
    let page = String::from_utf8(output.stdout).unwrap();
    let flat = page.split_whitespace().collect::<Vec<_>>().join(" ");
    listed.iter().for_each(|text| assert!(flat.contains(text), "check does not say {text}:\n{page}"));
}

/// Fault 27, for a run: one number of the base is another than when the run began.
#[test]
fn a_run_does_not_go_on_with_another_base() {
    let run = Run::synthetic();
    let base = run.path("own");
    damage::copy(Path::new(&run.path("base")), Path::new(&base), |_| {});
    let model = format!("model.path={base}");
    run.must_launch(2, &[&model, "train.max_steps=1"]);
    std::fs::remove_dir_all(&base).unwrap();
    damage::copy(Path::new(&run.path("base")), Path::new(&base), |tensors| {
        *tensors.get_mut("language_model.model.layers.1.mlp.up_proj.weight").unwrap().2.last_mut().unwrap() ^= 1;
    });
    let output = run.launch(2, &[&model, "train.max_steps=1"]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{told}");
    for text in ["is not the base", "checkpoint-1", "1 tensors differ", "layers.1.mlp.up_proj.weight: other numbers"] {
        assert!(told.contains(text), "{text:?} is not said:\n{told}");
    }
}

#[test]
fn rows_that_are_missing_or_damaged_are_named() {
    let nothing = tempfile::tempdir().unwrap();
    let run = Run::new(nothing.path());
    check(&run, &[], 3, &["train-*.parquet"]);
    let Some(rows) = real_rows() else { return };
    let faults = rows.parent().unwrap().join("faults/faults.parquet");
    let damaged = format!("data.train={}", faults.display());
    check(&Run::new(&rows), &[&damaged], 3, &["faults.parquet", "row"]);
    let cut = nothing.path().join("train-cut.parquet");
    let whole = std::fs::read(rows.join("train-00000-of-00004.parquet")).unwrap();
    storage::publish_file(&cut, &whole[..whole.len() / 2]).unwrap();
    check(&run, &[], 3, &["train-cut.parquet"]);
}
