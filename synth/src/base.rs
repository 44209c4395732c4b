//! The model folder of the demo's base: weights, config, tokenizer and processor files, as the hub's.
//! It has the shape of MedGemma and nothing of its knowledge.

use std::path::Path;

use serde_json::{Value, json};

use crate::Error;
use crate::tokenizer::{self, Tokenizer};
use crate::weights::{self, DIM, FF, HEAD_DIM, N_HEADS, N_KV_HEADS, N_LAYERS, PATCH};

/// Soft tokens of a page.
const N_SOFT_TOKENS: usize = 16;
/// The embedding is padded to a multiple of this, as the hub's is.
const VOCAB_MULTIPLE: usize = 64;

/// Writes all files of the base into the folder `dir`.
pub(crate) fn write(dir: &Path, seed: u64, image_size: usize) -> Result<(), Error> {
    let tokenizer = Tokenizer::new();
    let vocab_size = tokenizer.len().next_multiple_of(VOCAB_MULTIPLE);
    let path = dir.join("model.safetensors");
    let weights = weights::encode(&weights::random_base(seed, image_size, vocab_size))
        .map_err(|source| Error::Weights { path: path.clone(), source })?;
    storage::publish_file(&path, &weights)?;
    storage::publish_file(&dir.join("chat_template.jinja"), include_bytes!("chat_template.jinja"))?;
    let processor = json!({"image_seq_length": N_SOFT_TOKENS, "processor_class": "Gemma3Processor"});
    for (name, content) in [
        ("tokenizer.json", tokenizer.json()),
        ("tokenizer_config.json", tokenizer::config()),
        ("processor_config.json", processor),
        ("preprocessor_config.json", preprocessor_config(image_size)),
        ("generation_config.json", generation_config(&tokenizer)),
        ("config.json", config(&tokenizer, image_size, vocab_size)),
    ] {
        storage::publish_file(&dir.join(name), format!("{content:#}\n").as_bytes())?;
    }
    Ok(())
}

fn config(tokenizer: &Tokenizer, image_size: usize, vocab_size: usize) -> Value {
    let (eos, end_of_turn) = (tokenizer.id("<eos>"), tokenizer.id("<end_of_turn>"));
    json!({
        "architectures": ["Gemma3ForConditionalGeneration"],
        "model_type": "gemma3",
        "boi_token_index": tokenizer.id("<start_of_image>"),
        "eoi_token_index": tokenizer.id("<end_of_image>"),
        "image_token_index": tokenizer.id("<image_soft_token>"),
        "eos_token_id": [eos, end_of_turn],
        "initializer_range": 0.02,
        "mm_tokens_per_image": N_SOFT_TOKENS,
        "text_config": {
            "vocab_size": vocab_size,
            "hidden_size": DIM,
            "intermediate_size": FF,
            "num_hidden_layers": N_LAYERS,
            "num_attention_heads": N_HEADS,
            "num_key_value_heads": N_KV_HEADS,
            "head_dim": HEAD_DIM,
            "query_pre_attn_scalar": HEAD_DIM,
            "sliding_window": 512,
            "max_position_embeddings": 512,
            "layer_types": ["sliding_attention", "full_attention"],
            "model_type": "gemma3_text",
        },
        "torch_dtype": "float32",
        "vision_config": {
            "hidden_size": DIM,
            "intermediate_size": FF,
            "num_hidden_layers": N_LAYERS,
            "num_attention_heads": N_HEADS,
            "image_size": image_size,
            "model_type": "siglip_vision_model",
            "patch_size": PATCH,
            "vision_use_head": false,
        },
    })
}

fn generation_config(tokenizer: &Tokenizer) -> Value {
    json!({
        "bos_token_id": tokenizer.id("<bos>"),
        "eos_token_id": [tokenizer.id("<eos>"), tokenizer.id("<end_of_turn>")],
        "pad_token_id": tokenizer.id("<pad>"),
    })
}

fn preprocessor_config(image_size: usize) -> Value {
    json!({
        "do_convert_rgb": null,
        "do_normalize": true,
        "do_pan_and_scan": null,
        "do_rescale": true,
        "do_resize": true,
        "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "Gemma3ImageProcessor",
        "image_seq_length": N_SOFT_TOKENS,
        "image_std": [0.5, 0.5, 0.5],
        "processor_class": "Gemma3Processor",
        "resample": 2,
        "rescale_factor": 1.0 / 255.0,
        "size": {"height": image_size, "width": image_size},
    })
}

#[cfg(test)]
mod tests;
