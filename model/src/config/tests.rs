use super::*;

const CASES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures");

fn with(change: impl FnOnce(&mut Value)) -> Result<ModelConfig, Vec<String>> {
    let text = std::fs::read_to_string(format!("{CASES}/case_a/base/config.json")).unwrap();
    let mut json: Value = serde_json::from_str(&text).unwrap();
    change(&mut json);
    serde_json::from_value::<RawConfig>(json).unwrap().check()
}

#[test]
fn the_hubs_layout_is_read() {
    let config = with(|_| {}).unwrap();
    assert_eq!((config.text.n_heads, config.text.head_dim, config.text.rope_factor), (4, 24, 8.0));
    let global: Vec<usize> = (0..7).filter(|&l| config.text.layers[l] == LayerKind::Global).collect();
    assert_eq!(global, [5], "every sixth layer is global");
    assert_eq!(config.eos_token_ids, [1, 6]);
}

#[test]
fn the_keys_of_transformers_5_mean_the_same() {
    let config = with(|json| {
        let text = json["text_config"].as_object_mut().unwrap();
        text.remove("rope_scaling");
        text.insert(
            "rope_parameters".into(),
            serde_json::json!({"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                               "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}),
        );
    });
    assert_eq!(config, with(|_| {}));
}

#[track_caller]
fn check_refused(path: &str, value: Value, named: &str) {
    let problems = with(|json| *json.pointer_mut(path).unwrap_or(&mut Value::Null) = value.clone()).err();
    let problems = problems.or_else(|| {
        // The key is absent in the file: add it.
        let (parent, key) = path.rsplit_once('/').unwrap();
        with(|json| {
            json.pointer_mut(parent).unwrap().as_object_mut().unwrap().insert(key.into(), value.clone());
        })
        .err()
    });
    let problems = problems.unwrap_or_default().join("; ");
    assert!(problems.contains(named), "{path}: {problems:?} does not name {named}");
}

#[test]
fn what_would_be_computed_differently_is_refused_by_name() {
    check_refused("/text_config/final_logit_softcapping", 30.0.into(), "final_logit_softcapping");
    check_refused("/text_config/attn_logit_softcapping", 50.0.into(), "attn_logit_softcapping");
    check_refused("/text_config/rope_scaling/rope_type", "yarn".into(), "rope_scaling.rope_type");
    check_refused("/text_config/hidden_activation", "relu".into(), "hidden_activation");
    check_refused("/text_config/attention_bias", true.into(), "attention_bias");
    check_refused("/text_config/use_bidirectional_attention", true.into(), "use_bidirectional_attention");
    check_refused("/text_config/num_key_value_heads", 3.into(), "num_key_value_heads");
    check_refused("/vision_config/model_type", "clip_vision_model".into(), "vision_config.model_type");
    check_refused("/vision_config/vision_use_head", true.into(), "vision_use_head");
    check_refused("/vision_config/patch_size", 13.into(), "patch_size");
    check_refused("/mm_tokens_per_image", 5.into(), "mm_tokens_per_image");
    check_refused("/model_type", "llava".into(), "model_type");
    check_refused("/tie_word_embeddings", false.into(), "tie_word_embeddings");
}

#[test]
fn all_problems_are_told_at_once() {
    let problems = with(|json| {
        json["model_type"] = "llava".into();
        json["text_config"]["attention_bias"] = true.into();
    });
    assert_eq!(problems.unwrap_err().len(), 2);
}

/// google/medgemma-4b-it's shape (the reference's section 2): the few keys the hub's file has, defaults for the rest.
#[test]
fn the_real_shape_has_the_real_counts() {
    let text = r#"{"model_type": "gemma3", "mm_tokens_per_image": 256, "boi_token_index": 255999,
        "image_token_index": 262144, "eos_token_id": [1, 106],
        "text_config": {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024, "model_type": "gemma3_text"},
        "vision_config": {"hidden_size": 1152, "image_size": 896, "intermediate_size": 4304, "num_attention_heads": 16,
            "num_hidden_layers": 27, "patch_size": 14, "vision_use_head": false, "model_type": "siglip_vision_model"}}"#;
    let config = serde_json::from_str::<RawConfig>(text).unwrap().check().unwrap();
    assert_eq!(config.n_parameters(), 4_300_079_472);
    let modules = config.modules();
    assert_eq!(modules.len(), 400);
    let trainable = |vision: bool| -> usize {
        let of = modules.iter().filter(|m| m.name.starts_with("vision_tower") == vision);
        of.map(|m| 32 * (m.in_features + m.out_features)).sum()
    };
    assert_eq!((trainable(false), trainable(true)), (59_604_992, 17_390_592));
    assert_eq!(trainable(false) + trainable(true), 76_995_584);
    let global: Vec<usize> = (0..34).filter(|&l| config.text.layers[l] == LayerKind::Global).collect();
    assert_eq!(global, [5, 11, 17, 23, 29]);
    let suffixes = lora::suffixes(&modules);
    let peft = ["down_proj", "fc1", "fc2", "gate_proj", "k_proj", "o_proj", "out_proj", "q_proj", "up_proj", "v_proj"];
    assert_eq!(suffixes, peft, "the names PEFT lists for all-linear");
}
