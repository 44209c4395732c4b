use super::*;
use crate::fixtures;
use std::fs;

fn check_refused(case: &str, damage: impl FnOnce(&Path), expected: &[&str]) {
    let dir = fixtures::copy(&format!("{case}/base"));
    damage(dir.path());
    let message = Base::open(dir.path()).unwrap_err().to_string();
    for part in expected {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}

const NORM: &str = "language_model.model.norm.weight";
const SHARD_2: &str = "model-00002-of-00003.safetensors";

#[test]
fn a_folder_is_read_whole_or_sharded() {
    for (case, n_tensors) in [("case_a", 7 * 13 + 2 + 2 * 16 + 5 + 2), ("case_b", 3 * 13 + 2 + 3 * 16 + 5 + 2)] {
        let dir = fixtures::path(&format!("{case}/base"));
        let base = Base::open(&dir).unwrap();
        assert_eq!(base.tensors().len(), n_tensors);
        let mut compared = 0;
        for file in fs::read_dir(&dir)
            .unwrap()
            .map(|e| e.unwrap().path())
            .filter(|p| p.extension().is_some_and(|e| e == "safetensors"))
        {
            for (name, (dtype, shape, numbers)) in fixtures::read(&file) {
                let info = &base.tensors()[&name];
                assert_eq!(
                    (info.dtype, &info.shape, info.file.as_str()),
                    (dtype, &shape, file.file_name().unwrap().to_str().unwrap())
                );
                assert_eq!(base.read_f32(&name).unwrap(), numbers);
                compared += 1;
            }
        }
        assert_eq!(compared, n_tensors);
        assert!(base.read_f32("no.such.tensor").unwrap_err().to_string().contains("missing: no.such.tensor"));
    }
}

#[test]
fn every_generation_of_names_gives_the_same_tensors() {
    let renames: [&dyn Fn(&str) -> String; 2] = [
        &|k| match k.strip_prefix("language_model.model.") {
            Some(rest) => format!("model.language_model.{rest}"),
            None => format!("model.{k}"),
        },
        &|k| match k.strip_prefix("language_model.model.") {
            Some(rest) => format!("model.language_model.{rest}"),
            None => format!("model.{}", k.replace("vision_model.", "")),
        },
    ];
    let expected = Base::open(&fixtures::path("case_b/base")).unwrap();
    for rename in renames {
        let dir = fixtures::copy("case_b/base");
        fixtures::edit_tensors(&dir.path().join(SINGLE_FILE), |tensors| {
            *tensors = tensors.iter().map(|(k, v)| (rename(k), v.clone())).collect();
            tensors.insert("lm_head.weight".to_owned(), tensors["model.language_model.embed_tokens.weight"].clone());
        });
        let base = Base::open(dir.path()).unwrap();
        assert!(base.tensors().keys().eq(expected.tensors().keys()), "the tied head is left out");
        for name in base.tensors().keys() {
            assert_eq!(base.read_bytes(name).unwrap(), expected.read_bytes(name).unwrap(), "{name}");
        }
    }
}

#[test]
fn every_tensor_that_does_not_fit_is_listed_at_once() {
    check_refused(
        "case_b",
        |dir| {
            fixtures::edit_tensors(&dir.join(SINGLE_FILE), |tensors| {
                let norm = tensors.remove(NORM).unwrap();
                let up = tensors["language_model.model.layers.0.mlp.up_proj.weight"].clone();
                tensors.insert("model.language_model.layers.0.mlp.up_proj.weight".to_owned(), up);
                tensors.insert("language_model.model.layers.3.input_layernorm.weight".to_owned(), norm.clone());
                tensors.insert("score.weight".to_owned(), norm);
                let empty = (Dtype::F32, vec![72, 0], Vec::new());
                tensors.insert("language_model.model.layers.0.mlp.down_proj.weight".to_owned(), empty);
                let gate = tensors.get_mut("language_model.model.layers.0.mlp.gate_proj.weight").unwrap();
                gate.1 = vec![gate.2.len()];
            });
        },
        &[
            "6 of its tensors",
            "layers.0.mlp.down_proj.weight: shape [72, 0], expected [out, in]",
            "layers.0.mlp.gate_proj.weight: shape [7200], expected [out, in]",
            "missing: language_model.model.norm.weight",
            "unexpected: language_model.model.layers.3.input_layernorm.weight",
            "unexpected: score.weight",
            "doubled: model.language_model.layers.0.mlp.up_proj.weight in model.safetensors and language_model.model.layers.0",
        ],
    );
}

#[test]
fn a_head_of_its_own_is_refused() {
    let own_head = |dir: &Path| {
        fixtures::edit_tensors(&dir.join(SINGLE_FILE), |tensors| {
            let mut head = tensors[names::EMBEDDING].clone();
            head.2[100] += 1.0;
            tensors.insert("lm_head.weight".to_owned(), head);
        });
    };
    check_refused("case_b", own_head, &["lm_head.weight: differs from", "only a tied head"]);
}

#[test]
fn an_index_that_does_not_hold_is_refused() {
    let edit_index = |from: &'static str, to: &'static str| {
        move |dir: &Path| fixtures::edit(&dir.join(INDEX_FILE), |text| text.replace(from, to))
    };
    let missing_shard = |dir: &Path| fs::remove_file(dir.join(SHARD_2)).unwrap();
    check_refused("case_a", missing_shard, &["missing shard: model-00002-of-00003.safetensors"]);
    let renamed = edit_index("model.norm.weight\"", "model.norm.weights\"");
    check_refused(
        "case_a",
        renamed,
        &[
            "model.norm.weights: the index says model-00002",
            "model.norm.weight: in model-00002-of-00003.safetensors, but",
        ],
    );
    check_refused("case_a", edit_index(SHARD_2, "../x.safetensors"), &["\"../x.safetensors\" is no safetensors file"]);
    check_refused("case_a", edit_index("weight_map", "weights"), &["index.json", "weight_map"]);
    let two_roads = |dir: &Path| {
        fs::copy(dir.join(SHARD_2), dir.join(SINGLE_FILE)).unwrap();
    };
    check_refused("case_a", two_roads, &["has both"]);
    check_refused("case_b", |dir| fs::remove_file(dir.join(SINGLE_FILE)).unwrap(), &["has neither"]);
}

#[test]
fn a_config_without_its_layers_is_refused() {
    let edit = |from: &'static str, to: &'static str| {
        move |dir: &Path| fixtures::edit(&dir.join(CONFIG_FILE), |text| text.replace(from, to))
    };
    check_refused(
        "case_b",
        edit("\"num_hidden_layers\"", "\"layers\""),
        &["config.json: text_config.num_hidden_layers is null"],
    );
    check_refused("case_b", edit("\"num_hidden_layers\": 3", "\"num_hidden_layers\": 1000000000"), &["is 1000000000"]);
    check_refused(
        "case_b",
        edit("\"num_hidden_layers\": 3", "\"num_hidden_layers\": 2"),
        &["unexpected: language_model.model.layers.2"],
    );
}

#[test]
fn a_header_that_does_not_hold_is_refused() {
    let with_header = |header: &'static str| {
        move |dir: &Path| {
            let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
            bytes.extend_from_slice(header.as_bytes());
            bytes.extend_from_slice(&[0; 16]);
            storage::publish_file(&dir.join(SINGLE_FILE), &bytes).unwrap();
        }
    };
    for (header, expected) in [
        (r#"{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, "but its header says"),
        (r#"{"x":{"dtype":"F32","shape":[4],"data_offsets":[8,24]}}"#, "does not hold"),
        (
            r#"{"x":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"y":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}"#,
            "does not hold",
        ),
        (r#"{"x":{"dtype":"F32","shape":[3],"data_offsets":[0,16]}}"#, "does not hold"),
        (r#"{"x":{"dtype":"F32","shape":[9999999999999,9999999999999],"data_offsets":[0,16]}}"#, "does not hold"),
        (r#"{"x":"#, "does not hold"),
    ] {
        check_refused("case_b", with_header(header), &["model.safetensors", expected]);
    }
    let foreign = with_header(r#"{"x":{"dtype":"I64","shape":[2],"data_offsets":[0,16]}}"#);
    check_refused("case_b", foreign, &["x: dtype I64, expected F32, BF16 or F16"]);
    let huge = |dir: &Path| storage::publish_file(&dir.join(SINGLE_FILE), &u64::MAX.to_le_bytes()).unwrap();
    check_refused("case_b", huge, &["a header of 18446744073709551615 bytes in a file of 8"]);
}

#[track_caller]
fn check_fits(shape: &[usize], expected: [usize; 2], ok: bool) {
    assert_eq!(fits(shape, expected), ok, "{shape:?} for {expected:?}");
}

#[test]
fn a_tensor_fits_by_rows_and_count() {
    check_fits(&[20], [1, 20], true);
    check_fits(&[1, 20], [1, 20], true); // The position table of a page of one patch.
    check_fits(&[6, 3, 14, 14], [6, 588], true);
    check_fits(&[20, 6], [20, 6], true);
    check_fits(&[6, 20], [20, 6], false); // The same count, transposed.
    check_fits(&[120], [20, 6], false);
    check_fits(&[20, 7], [20, 6], false);
    check_fits(&[], [1, 20], false);
}
