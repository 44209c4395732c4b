//! From a model folder to a model: which tensors there must be, their shapes, and where each goes. Nothing is skipped:
//! a missing, an unexpected or a misshapen tensor is an error that lists them all.

use std::path::Path;

use lora::base::{Base, BaseHashes, Shapes};
use lora::{Layout, Module};

use crate::attention::Attention;
use crate::config::{ModelConfig, TextConfig};
use crate::error::Error;
use crate::gemma3::DecoderLayer;
use crate::lora_linear::{Adapter, LoraLinear};
use crate::medgemma::MedGemma;
use crate::mlp::Mlp;
use crate::ops::{Ops, Uniform, mix};
use crate::projector::Projector;
use crate::siglip::{LayerNorm, PatchEmbedding, VisionLayer};

const TEXT: &str = "language_model.model";
const VISION: &str = "vision_tower.vision_model";
const PROJECTOR: &str = "multi_modal_projector";

impl ModelConfig {
    /// Every tensor of the base by its hub name, as a matrix (a vector is one row; a filter is flattened).
    #[must_use]
    pub fn tensors(&self) -> Shapes {
        let (text, vision) = (&self.text, &self.vision);
        let (d, dv) = (text.hidden_size, vision.hidden_size);
        let mut all = Shapes::from([
            (format!("{TEXT}.embed_tokens.weight"), [text.vocab_size, d]),
            (format!("{TEXT}.norm.weight"), [1, d]),
            (format!("{PROJECTOR}.mm_input_projection_weight"), [dv, d]),
            (format!("{PROJECTOR}.mm_soft_emb_norm.weight"), [1, dv]),
            (format!("{VISION}.embeddings.patch_embedding.weight"), [dv, 3 * vision.patch_size.pow(2)]),
            (format!("{VISION}.embeddings.patch_embedding.bias"), [1, dv]),
            (format!("{VISION}.embeddings.position_embedding.weight"), [vision.patches_per_side().pow(2), dv]),
            (format!("{VISION}.post_layernorm.weight"), [1, dv]),
            (format!("{VISION}.post_layernorm.bias"), [1, dv]),
        ]);
        for layer in 0..text.layers.len() {
            for norm in ["input", "post_attention", "pre_feedforward", "post_feedforward"] {
                all.insert(format!("{TEXT}.layers.{layer}.{norm}_layernorm.weight"), [1, d]);
            }
            for norm in ["q", "k"] {
                all.insert(format!("{TEXT}.layers.{layer}.self_attn.{norm}_norm.weight"), [1, text.head_dim]);
            }
        }
        for layer in 0..vision.n_layers {
            for (norm, part) in [(1, "weight"), (1, "bias"), (2, "weight"), (2, "bias")] {
                all.insert(format!("{VISION}.encoder.layers.{layer}.layer_norm{norm}.{part}"), [1, dv]);
            }
        }
        for module in self.modules() {
            if module.name.starts_with(VISION) {
                all.insert(format!("{}.bias", module.name), [1, module.out_features]);
            }
            all.insert(format!("{}.weight", module.name), [module.out_features, module.in_features]);
        }
        all
    }

    /// Opens the base of this model by its headers alone.
    ///
    /// # Errors
    /// A broken file; or every tensor that is missing, unexpected, doubled, or of another shape or dtype, in one list.
    pub fn open_base(&self, dir: &Path) -> Result<Base, Error> {
        Ok(Base::open_shaped(dir, &self.tensors())?)
    }

    /// Opens the base of this model and reads every number of it, on all cores.
    ///
    /// # Errors
    /// As [`ModelConfig::open_base`]; tensors with numbers that are not finite are in the same list.
    pub fn open_base_read(&self, dir: &Path) -> Result<(Base, BaseHashes), Error> {
        Ok(Base::open_read(dir, &self.tensors())?)
    }

    /// Every linear of both towers, the tower's first: what `target_modules = "all-linear"` adapts.
    #[must_use]
    pub fn modules(&self) -> Vec<Module> {
        let (text, vision) = (&self.text, &self.vision);
        let (d, i) = (text.hidden_size, text.intermediate_size);
        let (q, kv) = (text.n_heads * text.head_dim, text.n_kv_heads * text.head_dim);
        let (dv, iv) = (vision.hidden_size, vision.intermediate_size);
        let vision_linears =
            VISION_LINEARS.into_iter().zip([(dv, dv), (dv, dv), (dv, dv), (dv, dv), (dv, iv), (iv, dv)]);
        let text_linears = TEXT_LINEARS.into_iter().zip([(d, q), (d, kv), (d, kv), (q, d), (d, i), (d, i), (i, d)]);
        let named = |layer: String, (name, (in_features, out_features)): (&str, (usize, usize))| Module {
            name: format!("{layer}.{name}"),
            in_features,
            out_features,
        };
        let tower = (0..vision.n_layers).flat_map(|n| {
            vision_linears.clone().map(move |linear| named(format!("{VISION}.encoder.layers.{n}"), linear))
        });
        let decoder = (0..text.layers.len())
            .flat_map(|n| text_linears.clone().map(move |linear| named(format!("{TEXT}.layers.{n}"), linear)));
        tower.chain(decoder).collect()
    }
}

const VISION_LINEARS: [&str; 6] =
    ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2"];
const TEXT_LINEARS: [&str; 7] = [
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
];

impl<O: Ops> MedGemma<O> {
    /// Loads the frozen base; adapters are added by [`MedGemma::adapt`].
    ///
    /// # Errors
    /// The folder's tensors are not exactly those of `config`, with their shapes.
    pub fn load(ops: &O, config: &ModelConfig, base: &Base) -> Result<Self, Error> {
        base.require(&config.tensors())?;
        Self::from_tensors(ops, config, Some(base))
    }

    /// A base of random weights that keep activations of order 1, made where the engine computes: for measurements, which
    /// need no files.
    ///
    /// # Panics
    /// Never: no file is read.
    #[must_use]
    pub fn random(ops: &O, config: &ModelConfig) -> Self {
        Self::from_tensors(ops, config, None).expect("random numbers do not fail")
    }

    fn from_tensors(ops: &O, config: &ModelConfig, base: Option<&Base>) -> Result<Self, Error> {
        let loader = Loader { ops, config, base, tensors: config.tensors(), modules: config.modules() };
        let vision = &config.vision;
        Ok(Self {
            config: config.clone(),
            patches: PatchEmbedding {
                w: loader.factor(&format!("{VISION}.embeddings.patch_embedding.weight"))?,
                b: loader.weight(&format!("{VISION}.embeddings.patch_embedding.bias"))?,
                positions: loader.weight(&format!("{VISION}.embeddings.position_embedding.weight"))?,
                image_size: vision.image_size,
                patch_size: vision.patch_size,
            },
            vision_layers: (0..vision.n_layers).map(|n| loader.vision_layer(n)).collect::<Result<_, _>>()?,
            vision_norm: loader.layer_norm(&format!("{VISION}.post_layernorm"))?,
            projector: Projector {
                gain: loader.gain(&format!("{PROJECTOR}.mm_soft_emb_norm.weight"))?,
                w: loader.factor(&format!("{PROJECTOR}.mm_input_projection_weight"))?,
                eps: vision.layer_norm_eps,
                grid: vision.patches_per_side(),
                window: vision.patches_per_side() / config.tokens_per_side(),
            },
            embedding: loader.factor(&format!("{TEXT}.embed_tokens.weight"))?,
            layers: (0..config.text.layers.len()).map(|n| loader.text_layer(n)).collect::<Result<_, _>>()?,
            norm_gain: loader.gain(&format!("{TEXT}.norm.weight"))?,
        })
    }

    /// Puts the adapters of `layout`, whose numbers are `flat`, beside their linears; called again after each update.
    pub fn adapt(&mut self, ops: &O, layout: &Layout, flat: &[f32], scaling: f32, dropout: f64) {
        for (of, linear) in self.config.modules().iter().zip(self.linears_mut()) {
            let Some(module) = layout.index(&of.name) else { continue };
            let (range_a, range_b) = (layout.a(module), layout.b(module));
            linear.adapter = Some(Adapter {
                lora_a: ops.upload(flat[range_a.clone()].to_vec(), [layout.r(), of.in_features]),
                lora_b: ops.upload(flat[range_b.clone()].to_vec(), [of.out_features, layout.r()]),
                ranges: [range_a, range_b],
                scaling,
                dropout,
            });
        }
    }

    /// Every linear in the order of [`ModelConfig::modules`].
    fn linears_mut(&mut self) -> Vec<&mut LoraLinear<O::Tensor>> {
        let tower = self.vision_layers.iter_mut().flat_map(|layer| {
            let VisionLayer { q_proj, k_proj, v_proj, out_proj, fc1, fc2, .. } = layer;
            [q_proj, k_proj, v_proj, out_proj, fc1, fc2]
        });
        let decoder = self.layers.iter_mut().flat_map(|layer| {
            let Attention { q_proj, k_proj, v_proj, o_proj, .. } = &mut layer.attention;
            let Mlp { gate, up, down } = &mut layer.mlp;
            [q_proj, k_proj, v_proj, o_proj, gate, up, down]
        });
        tower.chain(decoder).collect()
    }
}

/// About uniform in ±1/sqrt(columns), as a pure function of name and element.
fn random_matrix(name: &str, columns: usize) -> Uniform {
    Uniform::new(name.bytes().fold(1, |key, byte| mix(key ^ u64::from(byte))), columns)
}

/// What leaves its layer's input as it is: one where a layer norm multiplies by it, zero elsewhere.
fn neutral_vector(name: &str, columns: usize) -> Vec<f32> {
    let multiplied = name.starts_with(VISION) && name.ends_with(".weight");
    vec![f32::from(u8::from(multiplied)); columns]
}

/// Where tensors come from by name, already checked to be there, and where they go.
struct Loader<'a, O: Ops> {
    ops: &'a O,
    config: &'a ModelConfig,
    /// None: random weights.
    base: Option<&'a Base>,
    tensors: Shapes,
    modules: Vec<Module>,
}

impl<O: Ops> Loader<'_, O> {
    fn shape(&self, name: &str) -> [usize; 2] {
        *self.tensors.get(name).expect("every tensor is listed")
    }

    fn vector(&self, name: &str) -> Result<Vec<f32>, Error> {
        let neutral = || neutral_vector(name, self.shape(name)[1]);
        Ok(self.base.map_or_else(|| Ok(neutral()), |base| base.read_f32(name))?)
    }

    fn weight(&self, name: &str) -> Result<O::Tensor, Error> {
        match (self.base, self.shape(name)) {
            (Some(base), shape) => Ok(self.ops.upload_weight(base.read_f32(name)?, shape)),
            (None, shape @ [1, _]) => Ok(self.ops.upload_weight(self.vector(name)?, shape)),
            (None, shape) => Ok(self.ops.upload_weight(random_matrix(name, shape[1]).numbers(shape), shape)),
        }
    }

    fn factor(&self, name: &str) -> Result<O::Tensor, Error> {
        let shape = self.shape(name);
        match self.base {
            Some(base) => Ok(self.ops.upload_factor(base.read_f32(name)?, shape)),
            None => Ok(self.ops.random_factor(random_matrix(name, shape[1]), shape)),
        }
    }

    /// `1 + w` of a Gemma norm, in f32 as the reference adds it.
    fn gain(&self, name: &str) -> Result<O::Tensor, Error> {
        let gain = self.vector(name)?.into_iter().map(|w| 1.0 + self.ops.rounded(w)).collect();
        Ok(self.ops.upload(gain, self.shape(name)))
    }

    fn layer_norm(&self, name: &str) -> Result<LayerNorm<O::Tensor>, Error> {
        let (w, b) = (self.weight(&format!("{name}.weight"))?, self.weight(&format!("{name}.bias"))?);
        Ok(LayerNorm { w, b, eps: self.config.vision.layer_norm_eps })
    }

    fn linear(&self, name: &str) -> Result<LoraLinear<O::Tensor>, Error> {
        let bias = name.starts_with(VISION).then(|| self.weight(&format!("{name}.bias"))).transpose()?;
        let module = self.modules.iter().position(|module| module.name == name).expect("every linear is a module");
        Ok(LoraLinear { w: self.factor(&format!("{name}.weight"))?, bias, module, adapter: None })
    }

    fn vision_layer(&self, n: usize) -> Result<VisionLayer<O::Tensor>, Error> {
        let at = format!("{VISION}.encoder.layers.{n}");
        let linear = |name: &str| self.linear(&format!("{at}.{name}"));
        Ok(VisionLayer {
            norm1: self.layer_norm(&format!("{at}.layer_norm1"))?,
            q_proj: linear("self_attn.q_proj")?,
            k_proj: linear("self_attn.k_proj")?,
            v_proj: linear("self_attn.v_proj")?,
            out_proj: linear("self_attn.out_proj")?,
            norm2: self.layer_norm(&format!("{at}.layer_norm2"))?,
            fc1: linear("mlp.fc1")?,
            fc2: linear("mlp.fc2")?,
        })
    }

    fn text_layer(&self, n: usize) -> Result<DecoderLayer<O::Tensor>, Error> {
        let at = format!("{TEXT}.layers.{n}");
        let linear = |name: &str| self.linear(&format!("{at}.{name}"));
        let gain = |name: &str| self.gain(&format!("{at}.{name}.weight"));
        let TextConfig { rms_norm_eps: eps, ref layers, .. } = self.config.text;
        Ok(DecoderLayer {
            kind: layers[n],
            attention: Attention {
                q_proj: linear("self_attn.q_proj")?,
                k_proj: linear("self_attn.k_proj")?,
                v_proj: linear("self_attn.v_proj")?,
                o_proj: linear("self_attn.o_proj")?,
                q_gain: gain("self_attn.q_norm")?,
                k_gain: gain("self_attn.k_norm")?,
                eps,
            },
            mlp: Mlp { gate: linear("mlp.gate_proj")?, up: linear("mlp.up_proj")?, down: linear("mlp.down_proj")? },
            input_gain: gain("input_layernorm")?,
            post_attention_gain: gain("post_attention_layernorm")?,
            pre_feedforward_gain: gain("pre_feedforward_layernorm")?,
            post_feedforward_gain: gain("post_feedforward_layernorm")?,
            eps,
        })
    }
}
