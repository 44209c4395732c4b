use super::*;

/// MedGemma-4B, as its config.json says where that differs from the class defaults.
const MEDGEMMA: &str = r#"{
  "model_type": "gemma3", "mm_tokens_per_image": 256, "image_token_index": 262144, "boi_token_index": 255999,
  "text_config": { "vocab_size": 262208, "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34,
    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "sliding_window": 1024,
    "rope_scaling": { "factor": 8.0, "rope_type": "linear" } },
  "vision_config": { "model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304,
    "num_hidden_layers": 27, "num_attention_heads": 16, "image_size": 896, "patch_size": 14, "vision_use_head": false }
}"#;

/// The card's run with rows of a page and 100 tokens of text.
fn card(rows: usize, checkpointing: Checkpointing) -> Memory {
    held(rows, checkpointing, Holder::Cpu { bf16: false })
}

fn held(rows: usize, checkpointing: Checkpointing, holder: Holder) -> Memory {
    let model = ModelConfig::parse("config.json".into(), MEDGEMMA).unwrap();
    let (tokens, pages, n_trainable) = (rows * 356, rows, 76_995_584);
    let load = Load { tokens, pages, n_trainable, rank: 32, trains_tower: true, dropout: true, checkpointing, holder };
    predict(&model, &load)
}

#[test]
fn a_gpu_holds_the_base_in_bf16_and_the_sums_but_no_moments() {
    let [cpu, f32, bf16] = [
        Holder::Cpu { bf16: false },
        Holder::Gpu { bf16: false, nccl: false },
        Holder::Gpu { bf16: true, nccl: false },
    ]
    .map(|holder| held(4, Checkpointing::Block, holder));
    assert_eq!(f32.weights, cpu.weights);
    assert_eq!(bf16.weights, held(4, Checkpointing::Block, Holder::Cpu { bf16: true }).weights);
    assert_eq!((bf16.adapters, bf16.moments, bf16.sums), (4 * 76_995_584, 0, 8 * 76_995_584));
    let several = held(4, Checkpointing::Block, Holder::Gpu { bf16: true, nccl: true });
    assert_eq!(several.total() - bf16.total(), 8 * 76_995_584, "what NCCL adds up in");
    assert_eq!(bf16.kept, cpu.kept, "activations are f32");
    // 16 heads x 4096 x 4096 scores of a page are 1.07 GB; of a block three matrices of 64 MiB.
    assert_eq!(bf16.working - cpu.working, 3 << 26);
}

#[test]
fn the_cards_run_weighs_what_arithmetic_says() {
    let one = card(4, Checkpointing::None);
    assert_eq!(one.weights, 4 * 4_300_079_472, "the parameters of the checkpoint, as f32");
    let narrow = held(4, Checkpointing::None, Holder::Cpu { bf16: true }).weights;
    assert!((8_600_000_000..8_602_000_000).contains(&narrow), "matrices in bf16, vectors in f32: {narrow}");
    assert_eq!((one.adapters, one.moments, one.sums), (615_964_672, 615_964_672, 923_947_008));
    // The roofline's hand-written backward keeps 13.9 GB in bf16 at 4 rows; ours keeps f32, and normed inputs, too.
    let gb = |bytes: usize| bytes as f64 / 1e9;
    for (rows, checkpointing, expected) in [
        (4, Checkpointing::None, 42.77),
        (4, Checkpointing::Vision, 14.97),
        (4, Checkpointing::Block, 6.10),
        (16, Checkpointing::Block, 24.40),
    ] {
        let kept = gb(card(rows, checkpointing).kept);
        assert!((kept - expected).abs() < 0.01, "{rows} rows, {checkpointing:?}: {kept:.2} GB kept");
    }
}

#[test]
fn a_tower_that_is_not_trained_keeps_nothing() {
    let model = ModelConfig::parse("config.json".into(), MEDGEMMA).unwrap();
    let load = |pages, trains_tower| {
        let (tokens, n_trainable) = (356, 1 << 20);
        let (checkpointing, holder) = (Checkpointing::None, Holder::Cpu { bf16: true });
        Load { tokens, pages, n_trainable, rank: 32, trains_tower, dropout: true, checkpointing, holder }
    };
    let kept = |pages, trains_tower| predict(&model, &load(pages, trains_tower)).kept;
    assert_eq!(kept(2, true) - kept(1, true), F32 * 4096 * (27 * (8 * 1152 + 16 + 2 * 4304 + 6 * 32) + 1152));
    assert_eq!(kept(2, false) - kept(1, false), F32 * 4096 * 1152);
}

#[test]
fn memory_grows_with_rows_and_falls_with_recompute() {
    for rows in [1, 4, 8] {
        let of = |checkpointing| card(rows, checkpointing).total();
        assert!(of(Checkpointing::Block) < of(Checkpointing::Vision));
        assert!(of(Checkpointing::Vision) < of(Checkpointing::None));
        let double = card(2 * rows, Checkpointing::None);
        assert_eq!(double.kept, 2 * card(rows, Checkpointing::None).kept, "activations are those of the rows");
    }
}
