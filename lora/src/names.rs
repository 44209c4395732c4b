//! The tensor names of Gemma 3 in the three generations that are in use, and what PEFT makes of them.
//! It never lets a name through that the model does not have: an unknown name is `None`, and the caller must say so.
//!
//! Hub files: `language_model.model.`, `vision_tower.vision_model.`, `multi_modal_projector.`;
//! transformers 4.52+: the same modules below `model.`; 5.8+: the tower without `vision_model.`.
//! Only hub names are ever written, because every version of transformers loads them (transformers 5's `conversion_mapping.py`,
//! 4.57's `_checkpoint_conversion_mapping`), whereas 4.57 re-initialises the tower when it meets the newest names.

use std::collections::BTreeSet;

/// The tied output head: a copy of the embedding in some files, absent in the hub's.
pub const TIED_HEAD: &str = "language_model.lm_head.weight";
/// The embedding, which is the output head as well.
pub const EMBEDDING: &str = "language_model.model.embed_tokens.weight";

/// One of the three parts of the model, by the names of its tensors.
struct Part {
    /// What hub names of this part begin with.
    hub: &'static str,
    /// The same in later generations, newest last.
    aliases: &'static [&'static str],
    /// What stands before a layer's number.
    layers: &'static str,
    linears: &'static [&'static str],
    norms: &'static [&'static str],
    /// What each linear and each norm of a layer has.
    parameters: &'static [&'static str],
    outside_layers: &'static [&'static str],
}

const TEXT: Part = Part {
    hub: "language_model.model.",
    aliases: &["model.language_model."],
    layers: "layers.",
    linears: &[
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
    ],
    norms: &[
        "input_layernorm",
        "post_attention_layernorm",
        "pre_feedforward_layernorm",
        "post_feedforward_layernorm",
        "self_attn.q_norm",
        "self_attn.k_norm",
    ],
    parameters: &["weight"],
    outside_layers: &["embed_tokens.weight", "norm.weight"],
};

const VISION: Part = Part {
    hub: "vision_tower.vision_model.",
    aliases: &["model.vision_tower.vision_model.", "model.vision_tower.", "vision_tower."],
    layers: "encoder.layers.",
    linears: &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2"],
    norms: &["layer_norm1", "layer_norm2"],
    parameters: &["weight", "bias"],
    outside_layers: &[
        "embeddings.patch_embedding.weight",
        "embeddings.patch_embedding.bias",
        "embeddings.position_embedding.weight",
        "post_layernorm.weight",
        "post_layernorm.bias",
    ],
};

const PROJECTOR: Part = Part {
    hub: "multi_modal_projector.",
    aliases: &["model.multi_modal_projector."],
    layers: "layers.",
    linears: &[],
    norms: &[],
    parameters: &[],
    outside_layers: &["mm_input_projection_weight", "mm_soft_emb_norm.weight"],
};

const PARTS: [Part; 3] = [TEXT, VISION, PROJECTOR];

impl Part {
    /// The part of a layer's tensor name after the layer's number, if this is one: `self_attn.q_proj.weight`.
    fn in_layer<'a>(&self, rest: &'a str) -> Option<&'a str> {
        let (number, leaf) = rest.strip_prefix(self.layers)?.split_once('.')?;
        let is_number = number.parse::<u16>().is_ok_and(|n| n.to_string() == number);
        is_number.then_some(leaf)
    }

    fn knows(&self, rest: &str) -> bool {
        let layer_tensor = |leaf: &str| {
            let Some((of, parameter)) = leaf.rsplit_once('.') else { return false };
            self.parameters.contains(&parameter) && (self.linears.contains(&of) || self.norms.contains(&of))
        };
        self.outside_layers.contains(&rest) || self.in_layer(rest).is_some_and(layer_tensor)
    }

    fn all(&self, n_layers: usize) -> impl Iterator<Item = String> {
        let in_layers = (0..n_layers).flat_map(move |layer_idx| {
            let leaves = self.linears.iter().chain(self.norms);
            leaves.flat_map(move |leaf| {
                self.parameters.iter().map(move |p| format!("{}{}{layer_idx}.{leaf}.{p}", self.hub, self.layers))
            })
        });
        in_layers.chain(self.outside_layers.iter().map(|rest| format!("{}{rest}", self.hub)))
    }
}

/// Any generation's name of a base tensor to the hub's name; `None` if Gemma 3 has no such tensor. Idempotent.
#[must_use]
pub fn canonical(key: &str) -> Option<String> {
    if key == "lm_head.weight" || key == TIED_HEAD {
        return Some(TIED_HEAD.to_owned());
    }
    PARTS.iter().find_map(|part| {
        let mut prefixes = std::iter::once(&part.hub).chain(part.aliases);
        prefixes.find_map(|prefix| {
            let rest = key.strip_prefix(prefix).filter(|rest| part.knows(rest))?;
            Some(format!("{}{rest}", part.hub))
        })
    })
}

/// The hub names of all tensors of a model with so many layers, without the tied head.
#[must_use]
pub fn all(n_text_layers: usize, n_vision_layers: usize) -> BTreeSet<String> {
    TEXT.all(n_text_layers).chain(VISION.all(n_vision_layers)).chain(PROJECTOR.all(0)).collect()
}

/// The module (hub name) of a hub tensor name, if it is the weight of a linear: what PEFT's `all-linear` adapts.
/// The tied head, the embeddings, the patch convolution and the projector's raw matrix are not linears.
#[must_use]
pub fn linear(tensor: &str) -> Option<&str> {
    let module = tensor.strip_suffix(".weight")?;
    let is_linear = |part: &Part| {
        let rest = module.strip_prefix(part.hub)?;
        part.in_layer(rest).filter(|leaf| part.linears.contains(leaf))
    };
    PARTS.iter().any(|part| is_linear(part).is_some()).then_some(module)
}

/// A module's name in every generation, the hub's first: what a suffix of `target_modules` may be written against.
#[must_use]
pub fn generations(module: &str) -> Vec<String> {
    let part = PARTS.iter().find_map(|part| Some((part, module.strip_prefix(part.hub)?)));
    let aliases = part.into_iter().flat_map(|(part, rest)| part.aliases.iter().map(move |a| format!("{a}{rest}")));
    std::iter::once(module.to_owned()).chain(aliases).collect()
}

/// Which of the two matrices of an adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// `lora_A [r, in]`, applied first.
    A,
    /// `lora_B [out, r]`, applied second.
    B,
}

impl Side {
    const fn key(self) -> &'static str {
        match self {
            Self::A => ".lora_A.weight",
            Self::B => ".lora_B.weight",
        }
    }
}

const ADAPTER_PREFIX: &str = "base_model.model.";

/// The key under which an adapter matrix of a module (hub name) is written: what PEFT on transformers 4.52+ writes
/// and both 4.57 and 5 load.
#[must_use]
pub fn adapter_key(module: &str, side: Side) -> String {
    let name = match module.strip_prefix(TEXT.hub) {
        Some(rest) => format!("{}{rest}", TEXT.aliases[0]),
        None => format!("model.{module}"),
    };
    format!("{ADAPTER_PREFIX}{name}{}", side.key())
}

/// The module (hub name) and side of an adapter key of any generation; `None` if it adapts no linear of Gemma 3.
#[must_use]
pub fn parse_adapter_key(key: &str) -> Option<(String, Side)> {
    let name = key.strip_prefix(ADAPTER_PREFIX)?;
    let (module, side) =
        [Side::A, Side::B].into_iter().find_map(|side| Some((name.strip_suffix(side.key())?, side)))?;
    let tensor = canonical(&format!("{module}.weight"))?;
    Some((linear(&tensor)?.to_owned(), side))
}

#[cfg(test)]
mod tests;
