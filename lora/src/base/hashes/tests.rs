use super::super::{SINGLE_FILE, Shapes};
use super::*;
use crate::fixtures::{self, Tensors};
use std::fs;

/// The shapes of a folder, as they are.
fn shapes(dir: &Path) -> Shapes {
    let matrix = |shape: &[usize]| match shape {
        [n] => [1, *n],
        _ => [shape[0], shape[1..].iter().product()],
    };
    Base::open(dir).unwrap().tensors().iter().map(|(name, info)| (name.clone(), matrix(&info.shape))).collect()
}

fn hashes(dir: &Path) -> BaseHashes {
    Base::open_read(dir, &shapes(dir)).unwrap().1
}

#[test]
fn files_and_generations_of_names_do_not_change_what_a_base_is_known_by() {
    let expected = hashes(&fixtures::path("case_a/base"));
    for (name, hash) in expected.tensors() {
        let bytes = Base::open(&fixtures::path("case_a/base")).unwrap().read_bytes(name).unwrap();
        assert_eq!(hash.blake3, blake3::hash(&bytes).to_hex().as_str(), "{name}: as `b3sum` of its bytes");
    }
    let dir = fixtures::copy("case_a/base");
    let mut all = Tensors::new();
    for entry in fs::read_dir(dir.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.to_string_lossy().contains(".safetensors") {
            if !path.to_string_lossy().ends_with("json") {
                all.extend(fixtures::read(&path).into_iter().map(|(k, v)| (k.replace("vision_model.", ""), v)));
            }
            fs::remove_file(path).unwrap();
        }
    }
    all.insert("lm_head.weight".to_owned(), all["language_model.model.embed_tokens.weight"].clone());
    fixtures::write(&dir.path().join(SINGLE_FILE), &all);
    assert_eq!(hashes(dir.path()), expected);
}

#[test]
fn every_number_of_a_tensor_counts_and_so_do_shape_and_dtype() {
    let before = hashes(&fixtures::path("case_b/base"));
    let norm = "language_model.model.norm.weight";
    let check = |change: &dyn Fn(&mut fixtures::Tensor), expected: &str| {
        let dir = fixtures::copy("case_b/base");
        fixtures::edit_tensors(&dir.path().join(SINGLE_FILE), |tensors| change(tensors.get_mut(norm).unwrap()));
        let after = hashes(dir.path());
        assert_ne!(before.total(), after.total(), "{expected}");
        let refused = after.require(dir.path(), "an/adapter".as_ref(), &before).unwrap_err().to_string();
        for text in [expected, "1 tensors differ", "an/adapter", &*before.total().to_hex(), &*after.total().to_hex()] {
            assert!(refused.contains(text), "{text:?} is not in: {refused}");
        }
    };
    check(&|(_, _, numbers)| *numbers.last_mut().unwrap() += 1.0, "model.norm.weight: other numbers");
    check(&|(_, shape, _)| shape.insert(0, 1), "model.norm.weight: F32 [1, 72], was F32 [72]");
    check(&|(dtype, _, _)| *dtype = Dtype::F16, "model.norm.weight: F16 [72], was F32 [72]");
    assert!(before.require("x".as_ref(), "y".as_ref(), &hashes(&fixtures::path("case_b/base"))).is_ok());
}

#[test]
fn the_file_gives_back_what_was_written_or_nothing() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(BaseHashes::open(dir.path()).unwrap(), None, "PEFT's adapters say nothing");
    let written = hashes(&fixtures::path("case_b/base"));
    let file = dir.path().join(BaseHashes::FILE);
    storage::publish_file(&file, &written.to_json()).unwrap();
    assert_eq!(BaseHashes::open(dir.path()).unwrap(), Some(written));
    fixtures::edit(&file, |text| text.replacen("\"BF16\"", "\"F16\"", 1).replacen("\"F32\"", "\"BF16\"", 1));
    assert!(BaseHashes::open(dir.path()).unwrap_err().to_string().contains("not as it was written"));
}

#[test]
fn numbers_are_in_the_same_list_as_shapes_and_names() {
    let dir = fixtures::copy("case_b/base");
    let expected = shapes(dir.path());
    fixtures::edit_tensors(&dir.path().join(SINGLE_FILE), |tensors| {
        let norm = tensors.remove("language_model.model.norm.weight").unwrap();
        tensors.insert("score.weight".to_owned(), norm);
        tensors.get_mut("language_model.model.layers.0.mlp.down_proj.weight").unwrap().1.reverse();
        tensors.get_mut("language_model.model.layers.1.mlp.up_proj.weight").unwrap().2[7] = f32::INFINITY;
        tensors.get_mut("vision_tower.vision_model.post_layernorm.bias").unwrap().2[0] = f32::NAN;
    });
    let refused = Base::open_read(dir.path(), &expected).unwrap_err().to_string();
    for text in [
        "5 of its tensors",
        "missing: language_model.model.norm.weight",
        "unexpected: score.weight",
        "layers.0.mlp.down_proj.weight: shape [100, 72], expected 72 x 100",
        "layers.1.mlp.up_proj.weight: element 7 is not finite",
        "post_layernorm.bias: element 0 is not finite",
    ] {
        assert!(refused.contains(text), "{text:?} is not in: {refused}");
    }
}

#[test]
fn the_first_number_that_is_not_finite_is_found_wherever_it_is() {
    for dtype in [Dtype::F16, Dtype::Bf16, Dtype::F32] {
        let finite: Vec<f32> = (0..5000).map(|i| (i as f32 - 2500.0) * 3.0).chain([0.0, -0.0, 65504.0]).collect();
        assert_eq!(dtype.first_not_finite(&dtype.encode(&finite)), None, "{dtype:?}");
        for (at, number) in [(0, f32::NAN), (1023, f32::INFINITY), (1024, f32::NEG_INFINITY), (5002, f32::NAN)] {
            let mut numbers = finite.clone();
            numbers[at] = number;
            assert_eq!(dtype.first_not_finite(&dtype.encode(&numbers)), Some(at), "{dtype:?}");
        }
    }
}
