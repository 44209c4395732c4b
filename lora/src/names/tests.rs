use super::*;

/// Every tensor of a small model in every generation.
fn every_generation() -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    for hub in all(3, 2) {
        let newer = [
            hub.replace("language_model.model.", "model.language_model."),
            hub.replace("vision_tower.", "model.vision_tower."),
            hub.replace("vision_tower.vision_model.", "model.vision_tower."),
            hub.replace("vision_tower.vision_model.", "vision_tower."),
            hub.replace("multi_modal_projector.", "model.multi_modal_projector."),
        ];
        pairs.extend(newer.into_iter().map(|key| (key, hub.clone())));
    }
    pairs
}

#[test]
fn all_generations_have_the_hubs_names() {
    for (key, hub) in every_generation() {
        assert_eq!(canonical(&key).as_deref(), Some(&*hub), "{key}");
        assert_eq!(canonical(&hub).as_deref(), Some(&*hub), "canonical is idempotent");
    }
    for head in ["lm_head.weight", "language_model.lm_head.weight"] {
        assert_eq!(canonical(head).as_deref(), Some(TIED_HEAD));
    }
}

#[test]
fn a_name_that_gemma_does_not_have_is_not_let_through() {
    for key in [
        "",
        "model.language_model.model.norm.weight",
        "language_model.layers.0.mlp.up_proj.weight",
        "language_model.model.layers.00.mlp.up_proj.weight",
        "language_model.model.layers.+1.mlp.up_proj.weight",
        "language_model.model.layers.99999999999.mlp.up_proj.weight",
        "language_model.model.layers.0.mlp.up_proj.bias",
        "language_model.model.layers.0.mlp.up_proj",
        "language_model.model.encoder.layers.0.mlp.fc1.weight",
        "vision_tower.vision_model.head.probe",
        "vision_tower.vision_model.encoder.layers.0.self_attn.o_proj.weight",
        "multi_modal_projector.layers.0..weight",
        "base_model.model.model.language_model.norm.weight",
    ] {
        assert_eq!(canonical(key), None, "{key}");
    }
}

#[test]
fn the_4b_model_has_883_tensors_and_400_linears() {
    let tensors = all(34, 27);
    assert_eq!(tensors.len(), 883);
    assert_eq!(tensors.iter().filter(|t| linear(t).is_some()).count(), 400);
    for not_linear in [
        TIED_HEAD,
        EMBEDDING,
        "multi_modal_projector.mm_input_projection_weight",
        "vision_tower.vision_model.embeddings.patch_embedding.weight",
        "vision_tower.vision_model.encoder.layers.0.mlp.fc1.bias",
        "vision_tower.vision_model.encoder.layers.0.layer_norm1.weight",
    ] {
        assert_eq!(linear(not_linear), None, "{not_linear}");
    }
}

#[test]
fn adapter_keys_are_read_in_every_generation_and_written_in_one() {
    for (key, hub) in every_generation() {
        for (side, end) in [(Side::A, "lora_A.weight"), (Side::B, "lora_B.weight")] {
            let Some(module) = linear(&hub) else { continue };
            let adapter_key_of =
                |tensor: &str| format!("base_model.model.{}.{end}", tensor.strip_suffix(".weight").unwrap());
            let expected = Some((module.to_owned(), side));
            assert_eq!(parse_adapter_key(&adapter_key_of(&key)), expected);
            assert_eq!(parse_adapter_key(&adapter_key_of(&hub)), expected);
            assert_eq!(parse_adapter_key(&adapter_key(module, side)), expected);
        }
    }
    assert_eq!(
        adapter_key("language_model.model.layers.0.mlp.up_proj", Side::A),
        "base_model.model.model.language_model.layers.0.mlp.up_proj.lora_A.weight"
    );
    assert_eq!(
        adapter_key("vision_tower.vision_model.encoder.layers.1.mlp.fc1", Side::B),
        "base_model.model.model.vision_tower.vision_model.encoder.layers.1.mlp.fc1.lora_B.weight"
    );
    for key in [
        "base_model.model.model.language_model.norm.lora_A.weight",
        "base_model.model.lm_head.lora_A.weight",
        "model.language_model.layers.0.mlp.up_proj.lora_A.weight",
        "base_model.model.model.language_model.layers.0.mlp.up_proj.lora_A.default.weight",
        "base_model.model.model.language_model.layers.0.mlp.up_proj.lora_magnitude_vector",
    ] {
        assert_eq!(parse_adapter_key(key), None, "{key}");
    }
}
