//! The whole model: pages through the tower and the projector into soft tokens, tokens through the decoder, and back.
//! It holds frozen weights and handles of the adapters; it never updates either by itself.

use std::ops::Range;

use crate::attention::{Sight, Sights};
use crate::config::{LayerKind, ModelConfig};
use crate::error::Error;
use crate::gemma3::{DecoderLayer, DecoderLayerKept, DecoderLayerSaved};
use crate::input::Input;
use crate::loss::{LossNorm, Targets, loss, loss_backward};
use crate::mask::Visibility;
use crate::ops::{AttentionRow, AttentionShape, Ops, Place};
use crate::parts::Part;
use crate::projector::{Projector, ProjectorSaved};
use crate::rope::Rope;
use crate::siglip::{LayerNorm, PatchEmbedding, VisionLayer, VisionLayerKept, VisionLayerSaved};
use crate::sums::{Stat, StepSums, Sums};

/// Gemma 3 with a SigLIP tower (Gemma3ForConditionalGeneration in transformers).
pub struct MedGemma<O: Ops> {
    pub config: ModelConfig,
    pub patches: PatchEmbedding<O::Tensor>,
    pub vision_layers: Vec<VisionLayer<O::Tensor>>,
    pub vision_norm: LayerNorm<O::Tensor>,
    pub projector: Projector<O::Tensor>,
    /// `[v, d]`, tied: the first and the last matrix of the decoder.
    pub embedding: O::Tensor,
    pub layers: Vec<DecoderLayer<O::Tensor>>,
    /// `1 + w` of the last norm, `[1, d]`.
    pub norm_gain: O::Tensor,
}

/// What a forward keeps for its backward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checkpointing {
    /// Everything: no recompute.
    None,
    /// Of each layer, in the tower and in the decoder, its input and what is dear to compute and small: layers are recomputed
    /// one by one.
    Block,
    /// As `Block` in the tower; the decoder keeps everything.
    Vision,
}

/// What a layer keeps: all of it, or what it is recomputed from.
enum Kept<S, L> {
    All(S),
    Again(L),
}

impl<S: Into<L>, L> Kept<S, L> {
    fn new(saved: S, recompute: bool) -> Self {
        if recompute { Self::Again(saved.into()) } else { Self::All(saved) }
    }

    fn saved(self, again: impl FnOnce(L) -> S) -> S {
        match self {
            Self::All(saved) => saved,
            Self::Again(left) => again(left),
        }
    }
}

type VisionLayers<T> = Vec<Kept<VisionLayerSaved<T>, VisionLayerKept<T>>>;
type DecoderLayers<T> = Vec<Kept<DecoderLayerSaved<T>, DecoderLayerKept<T>>>;

/// An intermediate, as a test or a debugger sees it pass by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Seen {
    VisionEmbeddings,
    VisionLayer(usize),
    VisionLast,
    ProjectorPooled,
    ProjectorOutput,
    InputsEmbeds,
    TextLayer(usize),
    TextNorm,
}

/// Is shown each intermediate of a forward.
pub type Watch<'a, T> = &'a mut dyn FnMut(Seen, &T);

struct VisionKept<T> {
    layers: VisionLayers<T>,
    last: T,
    projector: ProjectorSaved<T>,
}

struct TextKept<T> {
    layers: DecoderLayers<T>,
    last: T,
}

impl<O: Ops> MedGemma<O> {
    /// One micro-batch: its statistics and the gradients of all adapters are added to `sums`, and what of them is not finite
    /// is counted.
    ///
    /// # Errors
    /// Soft tokens and pages do not match, or an id is outside the vocabulary.
    pub fn forward_backward(
        &self,
        ops: &O,
        input: &Input,
        at: Place,
        (norm, checkpointing): (LossNorm, Checkpointing),
        sums: &mut Sums<O::DeviceSums>,
    ) -> Result<(), Error> {
        let _part = Part::Text.enter();
        let soft = self.soft_positions(input)?;
        let targets = Targets::of(input);
        targets.count(input, &mut sums.host);
        sums.host.count(Stat::Pages, input.shown.len() as i64);
        if targets.is_empty() {
            return Ok(()); // Every gradient is 0.
        }
        let watch: Watch<O::Tensor> = &mut |_, _| {};
        // A tower without adapters has no backward.
        let keep = self.vision_layers.iter().any(VisionLayer::is_adapted).then_some(checkpointing);
        let (embeds, vision) = self.embed(ops, input, &soft, at, keep, watch);
        let sights = self.sights(ops, input, Some(&targets.positions));
        let (hidden, text) = self.decode(ops, embeds, &sights, at, Some(checkpointing), watch);
        let dhidden = loss_backward(ops, &hidden, &self.embedding, &targets, norm, &mut sums.host);
        let dembeds = self.decode_backward(ops, &dhidden, text, &sights, at, sums);
        if let Some(vision) = vision {
            let dtokens = self.shown_backward(ops, &dembeds, &soft, input.shown);
            self.see_backward(ops, &dtokens, vision, at, sums);
        }
        ops.count_not_finite(sums);
        Ok(())
    }

    /// One micro-batch without dropout: its statistics are added to `sums`, and no gradient.
    ///
    /// # Errors
    /// As [`MedGemma::forward_backward`].
    pub fn evaluate(&self, ops: &O, input: &Input, sums: &mut StepSums) -> Result<(), Error> {
        let soft = self.soft_positions(input)?;
        let targets = Targets::of(input);
        targets.count(input, sums);
        if targets.is_empty() {
            return Ok(());
        }
        let watch: Watch<O::Tensor> = &mut |_, _| {};
        let (embeds, _) = self.embed(ops, input, &soft, Place::Eval, None, watch);
        let sights = self.sights(ops, input, Some(&targets.positions));
        let (hidden, _) = self.decode(ops, embeds, &sights, Place::Eval, None, watch);
        loss(ops, &hidden, &self.embedding, &targets, sums);
        Ok(())
    }

    /// Logits of every position `[t, v]`, showing each intermediate to `watch`.
    ///
    /// # Errors
    /// As [`MedGemma::forward_backward`].
    pub fn logits(&self, ops: &O, input: &Input, watch: Watch<O::Tensor>) -> Result<O::Tensor, Error> {
        let soft = self.soft_positions(input)?;
        let (embeds, _) = self.embed(ops, input, &soft, Place::Eval, None, watch);
        let (hidden, _) = self.decode(ops, embeds, &self.sights(ops, input, None), Place::Eval, None, watch);
        Ok(ops.matmul_nt(&hidden, &self.embedding))
    }

    /// Rows of the embedding, scaled: `[t, d]`.
    pub(crate) fn embed_text(&self, ops: &O, input_ids: &[u32]) -> O::Tensor {
        let scale = ops.rounded((self.config.text.hidden_size as f32).sqrt());
        ops.scale(ops.gather_rows(&self.embedding, input_ids), scale)
    }

    /// Token rows, those of soft tokens replaced by what the tower makes of the pages: `[t, d]`. Without a checkpointing the
    /// tower keeps nothing.
    fn embed(
        &self,
        ops: &O,
        input: &Input,
        soft: &[u32],
        at: Place,
        keep: Option<Checkpointing>,
        watch: Watch<O::Tensor>,
    ) -> (O::Tensor, Option<VisionKept<O::Tensor>>) {
        let mut embeds = self.embed_text(ops, input.input_ids);
        let mut kept = None;
        if !soft.is_empty() {
            let (tokens, vision) = self.see(ops, input.pages, at, keep, watch);
            embeds = ops.replace_rows(embeds, soft, &self.shown(ops, tokens, input.shown));
            kept = keep.map(|_| vision);
        }
        watch(Seen::InputsEmbeds, &embeds);
        (embeds, kept)
    }

    /// Soft tokens of pages, `[n * mm_tokens_per_image, d]`.
    pub(crate) fn soft_tokens(&self, ops: &O, pages: &[u8]) -> O::Tensor {
        self.see(ops, pages, Place::Eval, None, &mut |_, _| {}).0
    }

    /// Soft tokens of each block, from those of the distinct pages.
    fn shown(&self, ops: &O, tokens: O::Tensor, shown: &[u32]) -> O::Tensor {
        if shown.iter().copied().eq(0..ops.shape(&tokens)[0] as u32 / self.config.mm_tokens_per_image as u32) {
            return tokens;
        }
        ops.gather_rows(&tokens, &self.soft_tokens_of(shown))
    }

    /// Gradient by the soft tokens of each page: those of the blocks that show it, added in the order of the rows.
    fn shown_backward(&self, ops: &O, dembeds: &O::Tensor, soft: &[u32], shown: &[u32]) -> O::Tensor {
        let per_page = self.config.mm_tokens_per_image;
        let n_pages = shown.iter().max().map_or(0, |&last| last as usize + 1);
        let mut blocks: Vec<Vec<usize>> = vec![Vec::new(); n_pages];
        shown.iter().enumerate().for_each(|(block, &page)| blocks[page as usize].push(block));
        let most = blocks.iter().map(Vec::len).max().unwrap_or(0);
        // The gradients of every page's first, second, ... block.
        let mut dtokens = None;
        for nth in 0..most {
            let (pages, nth): (Vec<u32>, Vec<usize>) =
                (0..).zip(&blocks).filter_map(|(page, blocks)| Some((page, *blocks.get(nth)?))).unzip();
            let rows: Vec<u32> = nth.iter().flat_map(|block| &soft[block * per_page..][..per_page]).copied().collect();
            let more = ops.gather_rows(dembeds, &rows);
            dtokens = Some(match dtokens {
                None => more,
                Some(sum) => {
                    let at = self.soft_tokens_of(&pages);
                    let more = ops.add(ops.gather_rows(&sum, &at), &more);
                    ops.replace_rows(sum, &at, &more)
                }
            });
        }
        dtokens.expect("there is a page")
    }

    /// Rows of some pages' soft tokens.
    fn soft_tokens_of(&self, pages: &[u32]) -> Vec<u32> {
        let per_page = self.config.mm_tokens_per_image as u32;
        pages.iter().flat_map(|page| page * per_page..(page + 1) * per_page).collect()
    }

    /// Pages `u8 [n, size, size, 3]` to soft tokens `[n * mm_tokens_per_image, d]`.
    fn see(
        &self,
        ops: &O,
        pages: &[u8],
        at: Place,
        keep: Option<Checkpointing>,
        watch: Watch<O::Tensor>,
    ) -> (O::Tensor, VisionKept<O::Tensor>) {
        let _part = Part::Vision.enter();
        let mut x = self.patches.forward(ops, pages);
        watch(Seen::VisionEmbeddings, &x);
        let plan = self.vision_plan(ops, &x);
        let mut layers = Vec::with_capacity(self.vision_layers.len());
        for (i, layer) in self.vision_layers.iter().enumerate() {
            let (y, saved) = layer.forward(ops, x, &plan, at);
            layers.extend(keep.map(|how| Kept::new(saved, how != Checkpointing::None)));
            x = y;
            watch(Seen::VisionLayer(i), &x);
        }
        let normed = ops.layer_norm(&x, &self.vision_norm.w, &self.vision_norm.b, self.vision_norm.eps);
        watch(Seen::VisionLast, &normed);
        let (tokens, projector) = self.projector.forward(ops, &normed);
        watch(Seen::ProjectorPooled, &projector.pooled);
        watch(Seen::ProjectorOutput, &tokens);
        (tokens, VisionKept { layers, last: x, projector })
    }

    fn see_backward(
        &self,
        ops: &O,
        dtokens: &O::Tensor,
        kept: VisionKept<O::Tensor>,
        at: Place,
        sums: &mut Sums<O::DeviceSums>,
    ) {
        let _part = Part::Vision.enter();
        let dnormed = self.projector.backward(ops, dtokens, &kept.projector);
        let mut dx = ops.layer_norm_backward(&dnormed, &kept.last, &self.vision_norm.w, self.vision_norm.eps);
        let plan = self.vision_plan(ops, &dx);
        for (layer, kept) in self.vision_layers.iter().zip(kept.layers).rev() {
            let saved = kept.saved(|left| layer.again(ops, left, &plan, at));
            dx = layer.backward(ops, dx, &saved, &plan, at, sums);
        }
    }

    /// Embedded tokens through all layers and the last norm: `[t, d]`, or only what sees in the last layer.
    fn decode(
        &self,
        ops: &O,
        embeds: O::Tensor,
        sights: &Sights<O>,
        at: Place,
        keep: Option<Checkpointing>,
        watch: Watch<O::Tensor>,
    ) -> (O::Tensor, TextKept<O::Tensor>) {
        let mut x = embeds;
        let mut layers = Vec::with_capacity(self.layers.len());
        for (i, layer) in self.layers.iter().enumerate() {
            let (y, saved) = layer.forward(ops, x, self.sight(sights, i), at, None);
            layers.extend(keep.map(|how| Kept::new(saved, how == Checkpointing::Block)));
            x = y;
            watch(Seen::TextLayer(i), &x);
        }
        let hidden = ops.rms_norm(&x, &self.norm_gain, self.config.text.rms_norm_eps);
        watch(Seen::TextNorm, &hidden);
        (hidden, TextKept { layers, last: x })
    }

    fn decode_backward(
        &self,
        ops: &O,
        dhidden: &O::Tensor,
        kept: TextKept<O::Tensor>,
        sights: &Sights<O>,
        at: Place,
        sums: &mut Sums<O::DeviceSums>,
    ) -> O::Tensor {
        let mut dx = ops.rms_norm_backward(dhidden, &kept.last, &self.norm_gain, self.config.text.rms_norm_eps);
        for (i, (layer, kept)) in self.layers.iter().zip(kept.layers).enumerate().rev() {
            let sight = self.sight(sights, i);
            let saved = kept.saved(|left| layer.again(ops, left, sight, at));
            dx = layer.backward(ops, dx, &saved, sight, at, sums);
        }
        dx
    }

    fn sight<'a>(&self, sights: &'a Sights<O>, layer: usize) -> &'a Sight<O> {
        match &sights.last {
            Some(last) if layer + 1 == self.layers.len() => last,
            _ => sights.of(self.layers[layer].kind),
        }
    }

    /// Who sees whom among whole rows; positions count from 0 in every row. `seeing` are the tokens whose output of the last
    /// layer is needed, in their order; none: all.
    pub(crate) fn sights(&self, ops: &O, input: &Input, seeing: Option<&[u32]>) -> Sights<O> {
        let window = self.config.text.sliding_window;
        let visibility = Visibility::new(input.input_ids, input.lengths, self.config.image_token_index, window);
        let positions: Vec<u32> = input.lengths.iter().flat_map(|&length| 0..length as u32).collect();
        let rows = |kind| {
            let row = |(row, &n_keys)| AttentionRow { n_keys, seen: visibility.seen(kind, row) };
            input.lengths.iter().enumerate().map(row).collect()
        };
        let mut sights = self.sights_at(ops, &positions, rows);
        sights.last = seeing.zip(self.layers.last()).map(|(seeing, layer)| {
            let mut own = seeing.iter().peekable();
            let row = |(row, tokens): (usize, Range<usize>)| {
                let all = visibility.seen(layer.kind, row);
                let own = std::iter::from_fn(|| own.next_if(|&&token| (token as usize) < tokens.end));
                AttentionRow {
                    n_keys: tokens.len(),
                    seen: own.map(|&token| all[token as usize - tokens.start]).collect(),
                }
            };
            let plan = ops.plan_attention(self.text_attention(input.rows().enumerate().map(row).collect()));
            Sight { plan, rope: sights.of(layer.kind).rope.clone(), seeing: Some(seeing.to_vec()) }
        });
        sights
    }

    fn text_attention(&self, rows: Vec<AttentionRow>) -> AttentionShape {
        let text = &self.config.text;
        let scale = text.query_pre_attn_scalar.powf(-0.5) as f32;
        AttentionShape { rows, heads: text.n_heads, kv_heads: text.n_kv_heads, head_dim: text.head_dim, scale }
    }

    /// Plans and rotary tables of both kinds of layers, for tokens at `positions` that see what `rows` says.
    pub(crate) fn sights_at(
        &self,
        ops: &O,
        positions: &[u32],
        rows: impl Fn(LayerKind) -> Vec<AttentionRow>,
    ) -> Sights<O> {
        let text = &self.config.text;
        let sight = |kind, theta, factor| Sight {
            plan: ops.plan_attention(self.text_attention(rows(kind))),
            rope: Rope::new(ops, positions, text.head_dim, theta, factor),
            seeing: None,
        };
        Sights {
            sliding: sight(LayerKind::Sliding, text.rope_local_base_freq, 1.0),
            global: sight(LayerKind::Global, text.rope_theta, text.rope_factor),
            last: None,
        }
    }

    /// Every patch of a page sees all of its page.
    fn vision_plan(&self, ops: &O, x: &O::Tensor) -> O::AttentionPlan {
        let vision = &self.config.vision;
        let (heads, patches) = (vision.n_heads, vision.patches_per_side().pow(2));
        let head_dim = vision.hidden_size / heads;
        let rows = vec![AttentionRow::full(patches, patches); ops.shape(x)[0] / patches];
        let scale = (head_dim as f64).powf(-0.5) as f32;
        ops.plan_attention(AttentionShape { rows, heads, kv_heads: heads, head_dim, scale })
    }

    /// Positions of the soft tokens, checked against the pages given.
    pub(crate) fn soft_positions(&self, input: &Input) -> Result<Vec<u32>, Error> {
        let vocab_size = self.config.text.vocab_size;
        if let Some(&id) = input.input_ids.iter().find(|&&id| id as usize >= vocab_size) {
            return Err(Error::TokenId { id, vocab_size });
        }
        let is_soft = |&(_, &id): &(usize, &u32)| id == self.config.image_token_index;
        let soft: Vec<u32> = input.input_ids.iter().enumerate().filter(is_soft).map(|(i, _)| i as u32).collect();
        let per_page = self.config.mm_tokens_per_image;
        if soft.len() != input.shown.len() * per_page {
            return Err(Error::SoftTokens { n_soft: soft.len(), n_pages: input.shown.len(), per_page });
        }
        let n_pages = input.pages.len() / (self.config.vision.image_size.pow(2) * 3);
        if !(0..n_pages as u32).all(|page| input.shown.contains(&page))
            || input.shown.iter().max() >= Some(&(n_pages as u32))
        {
            return Err(Error::Shown { n_pages, shown: input.shown.to_vec() });
        }
        Ok(soft)
    }
}
