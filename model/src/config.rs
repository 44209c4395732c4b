//! `config.json` of the hub's layout, parsed once into exactly what the model computes. A value that would need other
//! mathematics is refused by name; nothing is guessed.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::Error;

/// A Gemma 3 image-text model: decoder, vision tower, and the tokens between them.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    pub text: TextConfig,
    pub vision: VisionConfig,
    /// Soft tokens a page becomes (256 for MedGemma).
    pub mm_tokens_per_image: usize,
    /// Id of `<image_soft_token>`.
    pub image_token_index: u32,
    /// Id of `<start_of_image>`.
    pub boi_token_index: u32,
    /// Ids that end a generation.
    pub eos_token_ids: Vec<u32>,
}

/// Gemma 3 decoder (Gemma3TextConfig in transformers).
#[derive(Clone, Debug, PartialEq)]
pub struct TextConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub n_heads: usize,
    pub n_kv_heads: usize,
    pub head_dim: usize,
    pub rms_norm_eps: f32,
    /// Attention scores are multiplied by this value to the power of -1/2.
    pub query_pre_attn_scalar: f64,
    pub sliding_window: usize,
    /// Base of the rotary frequencies in global layers.
    pub rope_theta: f64,
    /// Base of the rotary frequencies in sliding layers.
    pub rope_local_base_freq: f64,
    /// Frequencies of global layers are divided by this (linear rope scaling).
    pub rope_factor: f64,
    /// One entry a layer.
    pub layers: Vec<LayerKind>,
}

/// What a decoder layer may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerKind {
    /// The last `sliding_window` positions.
    Sliding,
    /// Every earlier position.
    Global,
}

/// SigLIP vision tower (SiglipVisionConfig in transformers), without its pooling head.
#[derive(Clone, Debug, PartialEq)]
pub struct VisionConfig {
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub n_layers: usize,
    pub n_heads: usize,
    /// Pixels of a page's side.
    pub image_size: usize,
    /// Pixels of a patch's side.
    pub patch_size: usize,
    pub layer_norm_eps: f32,
}

impl ModelConfig {
    /// Reads `config.json` of a model folder.
    ///
    /// # Errors
    /// The file is missing, is not JSON, or asks for something that is computed differently (all such keys at once).
    pub fn open(model_dir: &Path) -> Result<Self, Error> {
        let path = model_dir.join("config.json");
        let text = std::fs::read_to_string(&path).map_err(|source| Error::ConfigFile { path: path.clone(), source })?;
        Self::parse(path, &text)
    }

    /// As [`ModelConfig::open`], from a text that messages call `path`.
    ///
    /// # Errors
    /// It is not JSON, or asks for something that is computed differently (all such keys at once).
    pub fn parse(path: PathBuf, text: &str) -> Result<Self, Error> {
        let raw: RawConfig =
            serde_json::from_str(text).map_err(|source| Error::ConfigSyntax { path: path.clone(), source })?;
        raw.check().map_err(|problems| Error::Unsupported { path, problems })
    }

    /// Base parameters, the tied head counted once.
    #[must_use]
    pub fn n_parameters(&self) -> usize {
        self.tensors().iter().map(|(_, [rows, columns])| rows * columns).sum()
    }

    /// Soft tokens along one side of a page's square of soft tokens.
    pub(crate) fn tokens_per_side(&self) -> usize {
        self.mm_tokens_per_image.isqrt()
    }
}

impl VisionConfig {
    /// Patches along one side of a page.
    #[must_use]
    pub fn patches_per_side(&self) -> usize {
        self.image_size / self.patch_size
    }
}

/// The file as it is written; defaults are those of transformers' configuration classes.
#[derive(Deserialize)]
struct RawConfig {
    #[serde(default)]
    model_type: String,
    #[serde(default = "n256")]
    mm_tokens_per_image: usize,
    #[serde(default = "image_token", alias = "image_token_id")]
    image_token_index: u32,
    #[serde(default = "boi_token", alias = "boi_token_id")]
    boi_token_index: u32,
    #[serde(default)]
    eos_token_id: Value,
    #[serde(default)]
    tie_word_embeddings: Option<bool>,
    text_config: RawText,
    vision_config: RawVision,
}

#[derive(Deserialize)]
struct RawText {
    #[serde(default)]
    model_type: Option<String>,
    #[serde(default = "vocab_size")]
    vocab_size: usize,
    #[serde(default = "n2304")]
    hidden_size: usize,
    #[serde(default = "n9216")]
    intermediate_size: usize,
    #[serde(default = "n26")]
    num_hidden_layers: usize,
    #[serde(default = "n8")]
    num_attention_heads: usize,
    #[serde(default = "n4")]
    num_key_value_heads: usize,
    #[serde(default = "n256")]
    head_dim: usize,
    #[serde(default = "eps")]
    rms_norm_eps: f64,
    #[serde(default = "scalar")]
    query_pre_attn_scalar: f64,
    #[serde(default = "n4096")]
    sliding_window: usize,
    #[serde(default, alias = "_sliding_window_pattern")]
    sliding_window_pattern: Option<usize>,
    #[serde(default)]
    layer_types: Option<Vec<String>>,
    #[serde(default = "theta")]
    rope_theta: f64,
    #[serde(default = "local_theta")]
    rope_local_base_freq: f64,
    #[serde(default)]
    rope_scaling: Option<RawRope>,
    #[serde(default)]
    rope_parameters: Option<RawRopes>,
    #[serde(default, alias = "hidden_act")]
    hidden_activation: Option<String>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    attention_dropout: f64,
    #[serde(default)]
    attn_logit_softcapping: Option<f64>,
    #[serde(default)]
    final_logit_softcapping: Option<f64>,
    #[serde(default)]
    use_bidirectional_attention: Option<bool>,
}

#[derive(Deserialize)]
struct RawRope {
    #[serde(default, alias = "type")]
    rope_type: Option<String>,
    #[serde(default)]
    factor: Option<f64>,
    #[serde(default)]
    rope_theta: Option<f64>,
}

/// transformers 5 writes one entry a kind of layer instead of `rope_theta`, `rope_local_base_freq`, `rope_scaling`.
#[derive(Deserialize)]
struct RawRopes {
    full_attention: RawRope,
    sliding_attention: RawRope,
}

#[derive(Deserialize)]
struct RawVision {
    #[serde(default = "siglip")]
    model_type: String,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    image_size: usize,
    patch_size: usize,
    #[serde(default = "eps")]
    layer_norm_eps: f64,
    #[serde(default)]
    hidden_act: Option<String>,
    #[serde(default)]
    num_channels: Option<usize>,
    #[serde(default)]
    attention_dropout: f64,
    #[serde(default)]
    vision_use_head: Option<bool>,
}

macro_rules! defaults {
    ($($name:ident: $ty:ty = $value:expr;)*) => { $(fn $name() -> $ty { $value })* };
}
defaults! {
    n4: usize = 4; n8: usize = 8; n26: usize = 26; n256: usize = 256; n2304: usize = 2304; n4096: usize = 4096;
    n9216: usize = 9216; vocab_size: usize = 262_208; image_token: u32 = 262_144; boi_token: u32 = 255_999;
    eps: f64 = 1e-6; scalar: f64 = 256.0; theta: f64 = 1e6; local_theta: f64 = 1e4;
    siglip: String = "siglip_vision_model".into();
}

/// Collects everything that is refused, so that a user sees all of it at once.
struct Problems(Vec<String>);

impl Problems {
    fn unless(&mut self, ok: bool, key: &str, found: impl std::fmt::Debug, supported: &str) {
        if !ok {
            self.0.push(format!("{key} = {found:?} is not supported (supported: {supported})"));
        }
    }

    fn gelu(&mut self, key: &str, found: Option<&String>) {
        self.unless(found.is_none_or(|a| a == "gelu_pytorch_tanh"), key, found, "gelu_pytorch_tanh");
    }
}

impl RawConfig {
    fn check(self) -> Result<ModelConfig, Vec<String>> {
        let mut problems = Problems(Vec::new());
        let p = &mut problems;
        p.unless(self.model_type == "gemma3", "model_type", &self.model_type, "gemma3");
        p.unless(self.tie_word_embeddings != Some(false), "tie_word_embeddings", false, "true");
        let eos_token_ids = match &self.eos_token_id {
            Value::Array(ids) => ids.iter().filter_map(|v| v.as_u64().and_then(|n| u32::try_from(n).ok())).collect(),
            value => vec![value.as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or(1)],
        };
        let text = self.text_config.check(p);
        let vision = self.vision_config.check(p);
        let side = self.mm_tokens_per_image.isqrt();
        p.unless(
            side > 0 && side * side == self.mm_tokens_per_image && vision.patches_per_side().is_multiple_of(side),
            "mm_tokens_per_image",
            self.mm_tokens_per_image,
            "a square number whose root divides image_size / patch_size",
        );
        if !problems.0.is_empty() {
            return Err(problems.0);
        }
        Ok(ModelConfig {
            text,
            vision,
            mm_tokens_per_image: self.mm_tokens_per_image,
            image_token_index: self.image_token_index,
            boi_token_index: self.boi_token_index,
            eos_token_ids,
        })
    }
}

impl RawText {
    fn check(self, p: &mut Problems) -> TextConfig {
        p.unless(
            self.model_type.as_deref().is_none_or(|t| t == "gemma3_text"),
            "text_config.model_type",
            &self.model_type,
            "gemma3_text",
        );
        p.gelu("text_config.hidden_activation", self.hidden_activation.as_ref());
        p.unless(!self.attention_bias, "text_config.attention_bias", true, "false");
        p.unless(self.attention_dropout == 0.0, "text_config.attention_dropout", self.attention_dropout, "0");
        for (key, cap) in [
            ("text_config.attn_logit_softcapping", self.attn_logit_softcapping),
            ("text_config.final_logit_softcapping", self.final_logit_softcapping),
        ] {
            p.unless(cap.is_none(), key, cap, "null");
        }
        let both_ways = self.use_bidirectional_attention == Some(true);
        p.unless(!both_ways, "text_config.use_bidirectional_attention", true, "false");
        let sizes = [self.vocab_size, self.hidden_size, self.intermediate_size, self.num_attention_heads];
        p.unless(sizes.iter().all(|&n| n > 0), "text_config sizes", sizes, "positive sizes");
        p.unless(
            self.num_key_value_heads > 0 && self.num_attention_heads.is_multiple_of(self.num_key_value_heads),
            "text_config.num_key_value_heads",
            self.num_key_value_heads,
            "a divisor of num_attention_heads",
        );
        p.unless(
            self.head_dim.is_multiple_of(2) && self.head_dim > 0,
            "text_config.head_dim",
            self.head_dim,
            "an even number",
        );
        let layers = self.layer_kinds(p);
        let (rope_theta, rope_local_base_freq, rope_factor) = self.ropes(p);
        TextConfig {
            vocab_size: self.vocab_size,
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            n_heads: self.num_attention_heads,
            n_kv_heads: self.num_key_value_heads,
            head_dim: self.head_dim,
            rms_norm_eps: self.rms_norm_eps as f32,
            query_pre_attn_scalar: self.query_pre_attn_scalar,
            sliding_window: self.sliding_window,
            rope_theta,
            rope_local_base_freq,
            rope_factor,
            layers,
        }
    }

    /// `layer_types`, or every `sliding_window_pattern`-th layer global (configuration_gemma3.py).
    fn layer_kinds(&self, p: &mut Problems) -> Vec<LayerKind> {
        let Some(types) = &self.layer_types else {
            let pattern = self.sliding_window_pattern.unwrap_or(6).max(1);
            let global = |layer: usize| (layer + 1).is_multiple_of(pattern);
            return (0..self.num_hidden_layers)
                .map(|layer| if global(layer) { LayerKind::Global } else { LayerKind::Sliding })
                .collect();
        };
        let known = types.iter().all(|t| t == "full_attention" || t == "sliding_attention");
        p.unless(known, "text_config.layer_types", types, "full_attention, sliding_attention");
        p.unless(
            types.len() == self.num_hidden_layers,
            "text_config.layer_types",
            types.len(),
            "one entry for each of num_hidden_layers",
        );
        types.iter().map(|t| if t == "full_attention" { LayerKind::Global } else { LayerKind::Sliding }).collect()
    }

    /// Global base, sliding base and global factor, from either generation of keys.
    fn ropes(&self, p: &mut Problems) -> (f64, f64, f64) {
        let kind = |rope: &RawRope| rope.rope_type.clone().unwrap_or_else(|| "default".into());
        let factor_of = |rope: &RawRope, p: &mut Problems, key: &str| {
            let found = kind(rope);
            p.unless(found == "default" || found == "linear", key, &found, "default, linear");
            if found == "linear" { rope.factor.unwrap_or(1.0) } else { 1.0 }
        };
        if let Some(RawRopes { full_attention, sliding_attention }) = &self.rope_parameters {
            let factor = factor_of(full_attention, p, "text_config.rope_parameters.full_attention.rope_type");
            let sliding = kind(sliding_attention);
            p.unless(
                sliding == "default",
                "text_config.rope_parameters.sliding_attention.rope_type",
                &sliding,
                "default",
            );
            return (
                full_attention.rope_theta.unwrap_or(self.rope_theta),
                sliding_attention.rope_theta.unwrap_or(self.rope_local_base_freq),
                factor,
            );
        }
        let factor = self.rope_scaling.as_ref().map_or(1.0, |r| factor_of(r, p, "text_config.rope_scaling.rope_type"));
        (self.rope_theta, self.rope_local_base_freq, factor)
    }
}

impl RawVision {
    fn check(self, p: &mut Problems) -> VisionConfig {
        let tower = self.model_type == "siglip_vision_model";
        p.unless(tower, "vision_config.model_type", &self.model_type, "siglip_vision_model");
        p.gelu("vision_config.hidden_act", self.hidden_act.as_ref());
        p.unless(self.vision_use_head != Some(true), "vision_config.vision_use_head", true, "false");
        p.unless(self.num_channels.is_none_or(|n| n == 3), "vision_config.num_channels", self.num_channels, "3");
        p.unless(self.attention_dropout == 0.0, "vision_config.attention_dropout", self.attention_dropout, "0");
        p.unless(
            self.num_attention_heads > 0 && self.hidden_size.is_multiple_of(self.num_attention_heads),
            "vision_config.num_attention_heads",
            self.num_attention_heads,
            "a divisor of hidden_size",
        );
        let whole = self.patch_size > 0 && self.image_size.is_multiple_of(self.patch_size) && self.image_size > 0;
        p.unless(whole, "vision_config.patch_size", self.patch_size, "a divisor of image_size");
        VisionConfig {
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            n_layers: self.num_hidden_layers,
            n_heads: self.num_attention_heads,
            image_size: self.image_size,
            patch_size: self.patch_size.max(1),
            layer_norm_eps: self.layer_norm_eps as f32,
        }
    }
}

#[cfg(test)]
mod tests;
