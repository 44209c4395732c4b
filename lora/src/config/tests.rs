use super::*;
use crate::fixtures;

fn with_field(field: &str, value: &str) -> Result<AdapterConfig> {
    let dir = fixtures::copy("case_a/adapter_init");
    fixtures::edit(&dir.path().join(CONFIG_FILE), |text| {
        let mut json: Value = serde_json::from_str(&text).unwrap();
        json[field] = serde_json::from_str(value).unwrap();
        json.to_string()
    });
    AdapterConfig::open(dir.path())
}

#[test]
fn pefts_config_is_read() {
    let config = AdapterConfig::open(&fixtures::path("case_b/adapter_init")).unwrap();
    assert_eq!((config.r, config.lora_alpha, config.lora_dropout), (3, 5.0, 0.0));
    assert_eq!(config.scaling(), 5.0 / 3.0);
    assert_eq!(config.base_model_name_or_path, "base");
    assert_eq!(with_field("lora_alpha", "2.5").unwrap().lora_alpha, 2.5);
    assert_eq!(with_field("target_modules", "\"all-linear\"").unwrap().target_modules, Targets::AllLinear);
    assert_eq!(with_field("init_lora_weights", "\"gaussian\"").unwrap().r, 4);
    assert_eq!(with_field("a_field_of_tomorrow", "null").unwrap().r, 4);
}

#[test]
fn a_field_that_changes_the_numbers_is_refused_by_name() {
    for (field, value) in [
        ("peft_type", "\"LOHA\""),
        ("bias", "\"all\""),
        ("use_dora", "true"),
        ("use_rslora", "true"),
        ("lora_bias", "true"),
        ("fan_in_fan_out", "true"),
        ("rank_pattern", "{\"q_proj\": 8}"),
        ("alpha_pattern", "{\"q_proj\": 8}"),
        ("modules_to_save", "[\"lm_head\"]"),
        ("layers_to_transform", "[0]"),
        ("layers_to_transform", "3"),
        ("exclude_modules", "\"vision\""),
        ("target_parameters", "[\"x\"]"),
        ("init_lora_weights", "\"pissa\""),
        ("a_field_of_tomorrow", "1"),
        ("r", "0"),
        ("r", "-1"),
        ("r", "100000000000000"),
        ("r", "\"4\""),
        ("lora_alpha", "null"),
        ("lora_dropout", "1.5"),
        ("target_modules", "\".*q_proj\""),
        ("target_modules", "[]"),
        ("target_modules", "[1]"),
    ] {
        let message = with_field(field, value).unwrap_err().to_string();
        assert!(message.contains(&format!("adapter_config.json: {field} is ")), "{field} {value}: {message}");
    }
}
