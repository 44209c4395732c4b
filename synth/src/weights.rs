//! The frozen random weights of the demo's base, under the hub's names.
//! Scales are chosen so that an untrained model lets the page through; a weight is a pure function of (seed, name).

use std::borrow::Cow;
use std::collections::BTreeMap;

use safetensors::{Dtype, SafeTensorError, View};

use crate::random::Random;

/// Width of tower and decoder.
pub(crate) const DIM: usize = 96;
/// Width inside their MLPs.
pub(crate) const FF: usize = 192;
/// Layers of each.
pub(crate) const N_LAYERS: usize = 2;
/// Attention heads of each.
pub(crate) const N_HEADS: usize = 4;
/// Key and value heads of the decoder.
pub(crate) const N_KV_HEADS: usize = 2;
/// Width of a head, the same in both.
pub(crate) const HEAD_DIM: usize = DIM / N_HEADS;
/// Pixels of a patch's side.
pub(crate) const PATCH: usize = 14;

/// Linears and projector: the branches of the residual stream start near silent.
const LINEAR_STD: f64 = 0.02;
const POSITION_STD: f64 = 0.3;
/// Gemma's norms multiply by 1 + w, so this one doubles: with rows of length 1 in the embedding the highest logit is then
/// 2 sqrt(DIM) = 19.6. At 9.8 no answer could be surer than 96 %, and that loss, the same on every page, hides the rest.
const FINAL_NORM: f32 = 1.0;

/// One weight of type f32, row-major.
pub(crate) struct Tensor {
    shape: Vec<usize>,
    values: Vec<f32>,
}

impl View for &Tensor {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        bytemuck::cast_slice(&self.values).into()
    }

    fn data_len(&self) -> usize {
        size_of_val(self.values.as_slice())
    }
}

/// The bytes of `model.safetensors`.
pub(crate) fn encode(tensors: &BTreeMap<String, Tensor>) -> Result<Vec<u8>, SafeTensorError> {
    safetensors::serialize(tensors, Some([("format".to_owned(), "pt".to_owned())].into()))
}

/// All weights of a base for pages of `image_size` pixels and `vocab_size` tokens.
pub(crate) fn random_base(seed: u64, image_size: usize, vocab_size: usize) -> BTreeMap<String, Tensor> {
    let mut base = Base { seed, tensors: BTreeMap::new() };
    base.normal("language_model.model.embed_tokens.weight", &[vocab_size, DIM], (DIM as f64).powf(-0.5));
    base.constant("language_model.model.norm.weight", DIM, FINAL_NORM);
    base.normal("multi_modal_projector.mm_input_projection_weight", &[DIM, DIM], LINEAR_STD);
    base.constant("multi_modal_projector.mm_soft_emb_norm.weight", DIM, 0.0);
    let tower = "vision_tower.vision_model";
    base.patches(&format!("{tower}.embeddings.patch_embedding"));
    let n_patches = (image_size / PATCH).pow(2);
    base.normal(&format!("{tower}.embeddings.position_embedding.weight"), &[n_patches, DIM], POSITION_STD);
    base.layer_norm(&format!("{tower}.post_layernorm"));
    for layer in 0..N_LAYERS {
        base.decoder_layer(&format!("language_model.model.layers.{layer}"));
        base.tower_layer(&format!("{tower}.encoder.layers.{layer}"));
    }
    base.tensors
}

struct Base {
    seed: u64,
    tensors: BTreeMap<String, Tensor>,
}

impl Base {
    /// Gemma's norms multiply by 1 + w, so all of theirs are 0.
    fn decoder_layer(&mut self, layer: &str) {
        for norm in
            ["input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"]
        {
            self.constant(&format!("{layer}.{norm}.weight"), DIM, 0.0);
        }
        let (q, kv) = (N_HEADS * HEAD_DIM, N_KV_HEADS * HEAD_DIM);
        for (name, shape) in [("q", [q, DIM]), ("k", [kv, DIM]), ("v", [kv, DIM]), ("o", [DIM, q])] {
            self.normal(&format!("{layer}.self_attn.{name}_proj.weight"), &shape, LINEAR_STD);
        }
        for name in ["q_norm", "k_norm"] {
            self.constant(&format!("{layer}.self_attn.{name}.weight"), HEAD_DIM, 0.0);
        }
        for (name, shape) in [("gate", [FF, DIM]), ("up", [FF, DIM]), ("down", [DIM, FF])] {
            self.normal(&format!("{layer}.mlp.{name}_proj.weight"), &shape, LINEAR_STD);
        }
    }

    fn tower_layer(&mut self, layer: &str) {
        for norm in ["layer_norm1", "layer_norm2"] {
            self.layer_norm(&format!("{layer}.{norm}"));
        }
        for name in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            self.linear(&format!("{layer}.self_attn.{name}"), [DIM, DIM]);
        }
        self.linear(&format!("{layer}.mlp.fc1"), [FF, DIM]);
        self.linear(&format!("{layer}.mlp.fc2"), [DIM, FF]);
    }

    /// Weight `[out, in]` and a bias of 0.
    fn linear(&mut self, name: &str, shape: [usize; 2]) {
        self.normal(&format!("{name}.weight"), &shape, LINEAR_STD);
        self.constant(&format!("{name}.bias"), shape[0], 0.0);
    }

    fn layer_norm(&mut self, name: &str) {
        self.constant(&format!("{name}.weight"), DIM, 1.0);
        self.constant(&format!("{name}.bias"), DIM, 0.0);
    }

    /// Filters `[out, channel, row, column]` without a mean, so that even paper of any colour maps to zero.
    fn patches(&mut self, name: &str) {
        let n_inputs = 3 * PATCH * PATCH;
        let weight = format!("{name}.weight");
        self.normal(&weight, &[DIM, 3, PATCH, PATCH], 4.0 / (n_inputs as f64).sqrt());
        if let Some(filters) = self.tensors.get_mut(&weight) {
            for filter in filters.values.chunks_exact_mut(n_inputs) {
                let mean = filter.iter().sum::<f32>() / n_inputs as f32;
                filter.iter_mut().for_each(|value| *value -= mean);
            }
        }
        self.constant(&format!("{name}.bias"), DIM, 0.0);
    }

    fn normal(&mut self, name: &str, shape: &[usize], std: f64) {
        let mut random = Random::new(self.seed, name, 0);
        let values = (0..shape.iter().product()).map(|_| (random.normal() * std) as f32).collect();
        self.tensors.insert(name.to_owned(), Tensor { shape: shape.to_vec(), values });
    }

    fn constant(&mut self, name: &str, len: usize, value: f32) {
        self.tensors.insert(name.to_owned(), Tensor { shape: vec![len], values: vec![value; len] });
    }
}
