use super::*;

/// What a folder with this `generation_config.json` says, beside a `config.json` whose answers end with 1 or 106.
fn open(file: Option<&str>) -> Result<GenerationConfig, Error> {
    let config = r#"{ "model_type": "gemma3", "eos_token_id": [1, 106], "text_config": {}, "vision_config": {
        "model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27,
        "num_attention_heads": 16, "image_size": 896, "patch_size": 14, "vision_use_head": false } }"#;
    let config = ModelConfig::parse("config.json".into(), config).unwrap();
    let dir = tempfile::tempdir().unwrap();
    if let Some(text) = file {
        storage::publish_file(&dir.path().join("generation_config.json"), text.as_bytes()).unwrap();
    }
    GenerationConfig::open(dir.path(), &config)
}

#[test]
fn what_the_file_does_not_say_is_transformers_default() {
    let check = |file, eos_token_ids: &[u32], top_k, top_p| {
        assert_eq!(open(file).unwrap(), GenerationConfig { eos_token_ids: eos_token_ids.into(), top_k, top_p });
    };
    check(None, &[1, 106], 50, 1.0);
    check(Some("{}"), &[1, 106], 50, 1.0);
    check(Some(r#"{"eos_token_id": 7}"#), &[7], 50, 1.0);
    // google/medgemma-4b-it's.
    check(Some(r#"{"do_sample": true, "eos_token_id": [1, 106], "top_k": 64, "top_p": 0.95}"#), &[1, 106], 64, 0.95);
    assert!(matches!(open(Some("{")), Err(Error::ConfigSyntax { .. })));
}
