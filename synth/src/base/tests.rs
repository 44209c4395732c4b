use std::collections::BTreeMap;
use std::fs;

use safetensors::SafeTensors;

use super::*;

const REFERENCE_TEMPLATE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/reference/chat_template.jinja");

fn fixture(name: &str) -> Vec<u8> {
    fs::read(format!("{}/../tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn base(seed: u64, image_size: usize) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), seed, image_size).unwrap();
    dir
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

/// Names, shapes and values of a safetensors file.
fn tensors(bytes: &[u8]) -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
    let file = SafeTensors::deserialize(bytes).unwrap();
    let values = |data: &[u8]| data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    file.tensors().into_iter().map(|(name, t)| (name, (t.shape().to_vec(), values(t.data())))).collect()
}

#[test]
fn names_are_the_hub_s() {
    let ours = tensors(&fs::read(base(1, 112).path().join("model.safetensors")).unwrap());
    let mut reference = tensors(&fixture("case_b/base/model.safetensors"));
    reference.retain(|name, _| !name.contains("layers.2.")); // It has three layers where ours has two.
    assert_eq!(ours.keys().collect::<Vec<_>>(), reference.keys().collect::<Vec<_>>());
    for (name, (shape, _)) in &reference {
        assert_eq!(ours[name].0.len(), shape.len(), "{name}: number of dimensions");
    }
}

#[test]
fn shapes_follow_from_the_config() {
    let dir = base(1, 224);
    let tensors = tensors(&fs::read(dir.path().join("model.safetensors")).unwrap());
    let config = json(&fs::read(dir.path().join("config.json")).unwrap());
    let vocab_size = config["text_config"]["vocab_size"].as_u64().unwrap() as usize;
    assert!(vocab_size > config["image_token_index"].as_u64().unwrap() as usize);
    assert_eq!(config["vision_config"]["image_size"], 224);
    for (end, shape) in [
        ("model.embed_tokens.weight", vec![vocab_size, 96]),
        ("layers.1.self_attn.q_norm.weight", vec![24]),
        ("model.layers.0.self_attn.q_proj.weight", vec![96, 96]),
        ("model.layers.1.self_attn.k_proj.weight", vec![48, 96]),
        ("model.layers.1.self_attn.v_proj.weight", vec![48, 96]),
        ("model.layers.1.self_attn.o_proj.weight", vec![96, 96]),
        ("mlp.up_proj.weight", vec![192, 96]),
        ("mlp.gate_proj.weight", vec![192, 96]),
        ("mlp.down_proj.weight", vec![96, 192]),
        ("mm_input_projection_weight", vec![96, 96]),
        ("patch_embedding.weight", vec![96, 3, 14, 14]),
        ("position_embedding.weight", vec![256, 96]),
        ("encoder.layers.0.self_attn.out_proj.bias", vec![96]),
        ("mlp.fc1.weight", vec![192, 96]),
        ("mlp.fc1.bias", vec![192]),
        ("mlp.fc2.weight", vec![96, 192]),
    ] {
        let found: Vec<_> =
            tensors.iter().filter(|(name, _)| name.ends_with(end)).map(|(_, (shape, _))| shape).collect();
        assert!(!found.is_empty() && found.iter().all(|&s| *s == shape), "{end}: {found:?}");
    }
}

#[test]
fn norms_are_neutral_and_everything_else_is_random_at_its_scale() {
    let dir = base(1, 112);
    for (name, (shape, values)) in tensors(&fs::read(dir.path().join("model.safetensors")).unwrap()) {
        let layer_norm = name.contains("layer_norm") || name.contains("post_layernorm.");
        let constant = match name.as_str() {
            "language_model.model.norm.weight" => Some(1.0), // Twice neutral: see FINAL_NORM.
            name if layer_norm => Some(if name.ends_with("weight") { 1.0 } else { 0.0 }),
            _ if shape.len() == 1 => Some(0.0), // Gemma's norms are 1 + w; the rest are biases.
            _ => None,
        };
        if let Some(constant) = constant {
            assert!(values.iter().all(|&value| value == constant), "{name}");
            continue;
        }
        let std = match name.as_str() {
            name if name.contains("embed_tokens") => 96.0_f64.powf(-0.5),
            name if name.contains("position") => 0.3,
            name if name.contains("patch") => 4.0 / 588.0_f64.sqrt(),
            _ => 0.02,
        };
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / values.len() as f64;
        let measured = (values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / values.len() as f64).sqrt();
        assert!(mean.abs() < 0.1 * std && (measured / std - 1.0).abs() < 0.05, "{name}: mean {mean}, std {measured}");
    }
}

#[test]
fn a_filter_sees_nothing_on_even_paper() {
    let tensors = tensors(&fs::read(base(1, 112).path().join("model.safetensors")).unwrap());
    let (_, filters) = &tensors["vision_tower.vision_model.embeddings.patch_embedding.weight"];
    for filter in filters.chunks_exact(3 * 14 * 14) {
        assert!(filter.iter().sum::<f32>().abs() < 1e-3);
    }
}

#[test]
fn the_seed_changes_the_weights_and_nothing_else() {
    let (one, same, other) = (base(1, 112), base(1, 112), base(2, 112));
    let mut n_files = 0;
    for entry in fs::read_dir(one.path()).unwrap() {
        let name = entry.unwrap().file_name();
        let bytes = |dir: &tempfile::TempDir| fs::read(dir.path().join(&name)).unwrap();
        assert!(bytes(&one) == bytes(&same), "{name:?}");
        assert_eq!(bytes(&one) == bytes(&other), name != "model.safetensors", "{name:?}");
        n_files += 1;
    }
    assert_eq!(n_files, 8);
}

#[test]
fn the_folder_is_of_the_reference_s_layout() {
    let dir = base(1, 112);
    let read = |name: &str| fs::read(dir.path().join(name)).unwrap();
    let keys = |value: &Value| {
        let object = value.as_object().unwrap();
        object.keys().cloned().collect::<std::collections::BTreeSet<_>>()
    };
    for name in ["config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json"] {
        let (ours, reference) = (json(&read(name)), json(&fixture(&format!("case_a/base/{name}"))));
        assert_eq!(keys(&ours), keys(&reference), "{name}");
    }
    assert_eq!(read("chat_template.jinja"), fs::read(REFERENCE_TEMPLATE).unwrap());
    let vocabulary: Value = json(&read("tokenizer.json"))["model"]["vocab"].clone();
    let config = json(&read("config.json"));
    assert_eq!(config["boi_token_index"], vocabulary["<start_of_image>"]);
    assert_eq!(config["eoi_token_index"], vocabulary["<end_of_image>"]);
    assert_eq!(config["eos_token_id"], json!([1, vocabulary["<end_of_turn>"]]));
}
