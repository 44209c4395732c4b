use super::*;
use crate::base::Base;
use crate::{Targets, fixtures, init};
use proptest::prelude::*;
use std::fs;

const CASES: [&str; 2] = ["case_a", "case_b"];

fn linears(case: &str) -> Vec<Module> {
    Base::open(&fixtures::path(&format!("{case}/base"))).unwrap().linears()
}

fn layout(case: &str) -> Layout {
    Layout::new(linears(case), if case == "case_a" { 4 } else { 3 })
}

/// Damages a copy of an adapter; the error must say all of `expected`.
fn check_refused(damage: impl FnOnce(&Path), expected: &[&str]) {
    let dir = fixtures::copy("case_a/adapter_rand");
    damage(dir.path());
    let message = read_adapter(dir.path(), &layout("case_a")).unwrap_err().to_string();
    for part in expected {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}

const A0: &str = "base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.weight";
const B0: &str = "base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_B.weight";

#[test]
fn pefts_adapters_are_read_and_written_byte_for_byte() {
    for case in CASES {
        for name in ["adapter_init", "adapter_rand", "adapter_final"] {
            let dir = fixtures::path(&format!("{case}/{name}"));
            let (flat, config) = read_adapter(&dir, &layout(case)).unwrap();
            let (model, json) = write_adapter(&layout(case), &flat, &config);
            assert_eq!(model, fs::read(dir.join(MODEL_FILE)).unwrap(), "{case}/{name}");
            let written: serde_json::Value = serde_json::from_slice(&json).unwrap();
            let pefts: serde_json::Value = serde_json::from_slice(&fs::read(dir.join(CONFIG_FILE)).unwrap()).unwrap();
            for (field, value) in written.as_object().unwrap() {
                assert_eq!(value, &pefts[field], "{case}/{name}: {field}");
            }
            assert_eq!(written.as_object().unwrap().len(), 9, "the minimal config");
        }
    }
}

#[test]
fn an_adapter_of_any_generation_and_dtype_gives_the_same_numbers() {
    let (expected, _) = read_adapter(&fixtures::path("case_b/adapter_rand"), &layout("case_b")).unwrap();
    let newest = |key: &str| key.replace("vision_tower.vision_model.", "vision_tower.");
    let oldest = |key: &str| {
        key.replace("model.model.language_model.", "model.language_model.model.")
            .replace("model.model.vision", "model.vision")
    };
    for rename in [&newest as &dyn Fn(&str) -> String, &oldest] {
        let dir = fixtures::copy("case_b/adapter_rand");
        fixtures::edit_tensors(&dir.path().join(MODEL_FILE), |tensors| {
            let renamed: fixtures::Tensors = tensors.iter().map(|(k, v)| (rename(k), v.clone())).collect();
            assert_ne!(&renamed, tensors);
            *tensors = renamed;
        });
        assert_eq!(read_adapter(dir.path(), &layout("case_b")).unwrap().0, expected);
    }
    for dtype in [Dtype::Bf16, Dtype::F16] {
        let dir = fixtures::copy("case_b/adapter_rand");
        fixtures::edit_tensors(&dir.path().join(MODEL_FILE), |tensors| tensors.values_mut().for_each(|t| t.0 = dtype));
        let mut rounded = expected.clone();
        dtype.round(&mut rounded);
        assert_eq!(read_adapter(dir.path(), &layout("case_b")).unwrap().0, rounded);
    }
}

#[test]
fn every_key_that_does_not_fit_is_listed_at_once() {
    check_refused(
        |dir| {
            fixtures::edit_tensors(&dir.join(MODEL_FILE), |tensors| {
                let a = tensors.remove(A0).unwrap();
                let b = tensors.get_mut(B0).unwrap();
                b.1.reverse();
                tensors.insert(A0.replace("q_proj", "r_proj"), a.clone());
                tensors
                    .insert("base_model.model.model.language_model.layers.7.mlp.up_proj.lora_A.weight".to_owned(), a);
            });
        },
        &[
            "adapter_model.safetensors: 4 of its tensors",
            &format!("missing: {A0}"),
            &format!("{B0}: shape [4, 96], expected [96, 4]"),
            "unexpected: base_model.model.model.language_model.layers.0.self_attn.r_proj.lora_A.weight",
            "unexpected: base_model.model.model.language_model.layers.7.mlp.up_proj.lora_A.weight",
        ],
    );
}

#[test]
fn a_matrix_that_is_there_in_two_generations_is_refused() {
    let older = A0.replace("model.model.language_model.", "model.language_model.model.");
    let double = |dir: &Path| {
        fixtures::edit_tensors(&dir.join(MODEL_FILE), |tensors| {
            tensors.insert(older.clone(), tensors[A0].clone());
        });
    };
    check_refused(double, &["doubled", A0, &older]);
}

#[test]
fn a_number_that_is_not_finite_is_refused_by_name() {
    for bad in [f32::NAN, f32::INFINITY] {
        let plant = |dir: &Path| {
            fixtures::edit_tensors(&dir.join(MODEL_FILE), |tensors| tensors.get_mut(B0).unwrap().2[17] = bad);
        };
        check_refused(plant, &[B0, "element 17 is not finite"]);
    }
}

#[test]
fn another_rank_is_refused() {
    let set_r = |dir: &Path| fixtures::edit(&dir.join(CONFIG_FILE), |text| text.replace("\"r\": 4", "\"r\": 8"));
    check_refused(set_r, &["adapter_config.json", "r is 8", "the run's rank is 4"]);
    let dir = fixtures::copy("case_a/adapter_rand");
    set_r(dir.path());
    let message = Adapter::open(dir.path(), &linears("case_a")).unwrap_err().to_string();
    assert!(message.contains(&format!("{A0}: shape [4, 64], expected [8, 64]")), "{message}");
}

#[test]
fn an_adapter_that_lost_the_vision_tower_is_refused_though_every_key_it_has_fits() {
    let dir = fixtures::copy("case_a/adapter_rand");
    fixtures::edit_tensors(&dir.path().join(MODEL_FILE), |tensors| tensors.retain(|k, _| !k.contains("vision")));
    let message = Adapter::open(dir.path(), &linears("case_a")).unwrap_err().to_string();
    assert!(
        message.contains("24 of its tensors") && message.contains("missing: base_model.model.model.vision"),
        "{message}"
    );
}

#[test]
fn a_torn_file_is_refused() {
    for length in [0, 5, 8, 4000, 100_000] {
        let tear = |dir: &Path| {
            let file = fs::OpenOptions::new().write(true).open(dir.join(MODEL_FILE)).unwrap();
            file.set_len(length).unwrap();
        };
        check_refused(tear, &["adapter_model.safetensors", "fetch or copy the file again"]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(24) })]
    #[test]
    fn what_is_written_is_read(r in 1usize..6, seed: u64, alpha in 0.5f64..64.0, dropout in 0.0f64..0.9, last in 0usize..10) {
        let suffix = crate::suffixes(&linears("case_b"))[last].clone();
        let targets = Targets::Suffixes(vec![suffix]);
        let layout = Layout::new(targets.select(&linears("case_b")).unwrap(), r);
        let config = AdapterConfig {
            r,
            lora_alpha: alpha,
            lora_dropout: dropout,
            target_modules: targets,
            base_model_name_or_path: "google/medgemma-4b-it".to_owned(),
        };
        let flat = init(&layout, seed);
        let dir = tempfile::tempdir().unwrap();
        let (model, json) = write_adapter(&layout, &flat, &config);
        storage::publish_file(&dir.path().join(MODEL_FILE), &model).unwrap();
        storage::publish_file(&dir.path().join(CONFIG_FILE), &json).unwrap();
        prop_assert_eq!(read_adapter(dir.path(), &layout).unwrap(), (flat, config));
    }
}
