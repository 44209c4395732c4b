//! Every intermediate, logits, losses and LoRA gradients of the two reference models.
//!
//! Tolerances: the reference itself differs by 7e-6 in logits between its two attention kernels and by 9e-6 between
//! adapter and merged weights (trace.json, `notes`), at a standard deviation of 2; we allow 1e-4 in logits and
//! intermediates, 1e-5 in losses, 1e-4 of the largest element in gradients.

use std::path::Path;

use lora::base::Base;
use lora::{AdapterConfig, Layout};
use model::engine::{Cpu, Precision};
use model::{Checkpointing, Input, LossNorm, MedGemma, ModelConfig, Ops, Place, Seen, Stat, StepSums, Sums};

use crate::fixture::{self, Tensors, check, check_relative};

/// A reference model on an engine.
pub struct Case<O: Ops = Cpu> {
    /// Its folder: a name in the fixtures, or an absolute path.
    pub name: String,
    pub ops: O,
    pub model: MedGemma<O>,
    pub config: ModelConfig,
}

impl Case {
    /// On the CPU engine.
    pub fn open(name: &str, precision: Precision) -> Self {
        Self::on(Cpu::new(precision), name)
    }

    /// The case with another model folder in the place of its base.
    pub fn with_base(name: &str, base: &Path, precision: Precision) -> Self {
        Self::of(Cpu::new(precision), name, base)
    }
}

impl<O: Ops> Case<O> {
    /// On any engine.
    pub fn on(ops: O, name: &str) -> Self {
        Self::of(ops, name, &fixture::path(&format!("{name}/base")))
    }

    fn of(ops: O, name: &str, base: &Path) -> Self {
        let config = ModelConfig::open(base).unwrap();
        let model = MedGemma::load(&ops, &config, &Base::open(base).unwrap()).unwrap();
        Self { name: name.into(), ops, model, config }
    }

    /// A file of the case.
    pub fn tensors(&self, file: &str) -> Tensors {
        Tensors::open(&format!("{}/{file}.safetensors", self.name))
    }

    /// Logits `[rows, seq, vocab]`, 0 where there is padding.
    pub fn logits(&self, rows: &Rows) -> Vec<f32> {
        rows.padded(&self.ops.download(&self.model.logits(&self.ops, &rows.input(), &mut |_, _| {}).unwrap()))
    }

    /// Puts one of the case's adapters on, without dropout.
    pub fn adapt(&mut self, adapter: &str) -> (Layout, Vec<f32>, AdapterConfig) {
        self.adapt_from(&fixture::path(&format!("{}/{adapter}", self.name)))
    }

    /// Puts the adapter of a folder on, without dropout.
    pub fn adapt_from(&mut self, dir: &Path) -> (Layout, Vec<f32>, AdapterConfig) {
        let config = AdapterConfig::open(dir).unwrap();
        let layout = Layout::new(self.config.modules(), config.r);
        let (flat, config) = lora::read_adapter(dir, &layout).unwrap();
        self.model.adapt(&self.ops, &layout, &flat, config.scaling(), 0.0);
        (layout, flat, config)
    }
}

/// A reference micro-batch as the model takes it: padding is taken out, and pixels are turned back into the u8 they came
/// from.
pub struct Rows {
    pub n_rows: usize,
    /// Of the reference, padding included.
    pub seq_len: usize,
    pub lengths: Vec<usize>,
    pub input_ids: Vec<u32>,
    labels: Vec<i64>,
    answers: Vec<bool>,
    pages: Vec<u8>,
    shown: Vec<u32>,
}

impl Rows {
    pub fn new(input_ids: &fixture::Tensor, mask: &fixture::Tensor, labels: &fixture::Tensor, pages: Pages) -> Self {
        let [n_rows, seq_len] = input_ids.shape[..] else { panic!("a batch is a matrix") };
        let lengths: Vec<usize> = mask.data.chunks(seq_len).map(|row| row.iter().sum::<f64>() as usize).collect();
        let mut rows = Self {
            n_rows,
            seq_len,
            answers: vec![false; lengths.iter().sum()],
            lengths,
            input_ids: Vec::new(),
            labels: Vec::new(),
            shown: (0..pages.n as u32).collect(),
            pages: pages.pixels,
        };
        (rows.input_ids, rows.labels) = (rows.packed(&input_ids.ids()), rows.packed(&labels.i64()));
        rows
    }

    pub fn input(&self) -> Input<'_> {
        Input {
            lengths: &self.lengths,
            input_ids: &self.input_ids,
            labels: &self.labels,
            answers: &self.answers,
            pages: &self.pages,
            shown: &self.shown,
        }
    }

    /// Keeps what is not padding of `values [rows, seq, width]`.
    fn packed<T: Clone>(&self, values: &[T]) -> Vec<T> {
        let width = values.len() / (self.n_rows * self.seq_len);
        let rows = values.chunks(self.seq_len * width).zip(&self.lengths);
        rows.flat_map(|(row, length)| &row[..length * width]).cloned().collect()
    }

    /// `values [t, width]` as `[rows, seq, width]`, 0 where there is padding.
    pub fn padded(&self, values: &[f32]) -> Vec<f32> {
        let width = values.len() / self.input_ids.len();
        let mut rest = values;
        let rows = self.lengths.iter().map(|length| {
            let (row, after) = rest.split_at(length * width);
            rest = after;
            [row, &vec![0.0; (self.seq_len - length) * width]].concat()
        });
        rows.collect::<Vec<_>>().concat()
    }
}

/// Pages as u8 `[n, size, size, 3]`.
pub struct Pages {
    pub n: usize,
    pub pixels: Vec<u8>,
}

/// Normalised pixels `[n, 3, size, size]` back to u8 `[n, size, size, 3]`.
pub fn pages(pixels: &fixture::Tensor) -> Pages {
    let (pixels_n, plane) = (pixels.shape[0], pixels.shape[2] * pixels.shape[3]);
    let value = |n: usize, at: usize, c: usize| pixels.data[(n * 3 + c) * plane + at];
    let numbers = (0..pixels.shape[0]).flat_map(|n| (0..plane).flat_map(move |at| (0..3).map(move |c| (n, at, c))));
    let pixels = numbers.map(|(n, at, c)| ((value(n, at, c) * 0.5 + 0.5) * 255.0).round() as u8).collect();
    Pages { n: pixels_n, pixels }
}

/// The batch of a case's `forward.safetensors`.
pub fn rows(forward: &Tensors, labels: &str) -> Rows {
    let get = |name: &str| forward.get(name);
    Rows::new(get("input_ids"), get("attention_mask"), get(labels), pages(get("pixel_values")))
}

/// Compares what is not padding of `[rows, seq, width]`.
#[track_caller]
fn check_attended(what: &str, rows: &Rows, found: &[f32], expected: &fixture::Tensor, tolerance: f64) {
    let data = rows.packed(&expected.data);
    check(what, &rows.packed(found), &fixture::Tensor { shape: vec![], data }, tolerance);
}

pub fn check_intermediates<O: Ops>(case: &Case<O>) {
    let forward = case.tensors("forward");
    let rows = rows(&forward, "labels_notebook");
    let mut seen = 0;
    let logits = case.model.logits(&case.ops, &rows.input(), &mut |what, tensor| {
        let found = case.ops.download(tensor);
        seen += 1;
        let text = |name: &str, expected| check_attended(name, &rows, &rows.padded(&found), expected, 1e-4);
        match what {
            Seen::VisionEmbeddings => check("patches", &found, forward.get("vision.embeddings"), 1e-4),
            Seen::VisionLayer(i) => check("vision layer", &found, forward.get(&format!("vision.layer.{i}")), 1e-4),
            Seen::VisionLast => check("vision norm", &found, forward.get("vision.last"), 1e-4),
            Seen::ProjectorPooled => check_pooled(&found, forward.get("projector.pooled_chw")),
            Seen::ProjectorOutput => check("projector", &found, forward.get("projector.output"), 1e-4),
            Seen::InputsEmbeds => text("embeddings", forward.get("text.inputs_embeds")),
            Seen::TextLayer(i) => text("text layer", forward.get(&format!("text.layer.{i}"))),
            Seen::TextNorm => text("text norm", forward.get("text.norm")),
        }
    });
    assert_eq!(seen, 6 + case.config.vision.n_layers + case.config.text.layers.len(), "every intermediate is compared");
    let logits = rows.padded(&case.ops.download(&logits.unwrap()));
    let expected = forward.get("logits_rows01");
    let found = &logits[..expected.data.len()];
    let first_two = Rows { n_rows: 2, lengths: rows.lengths[..2].to_vec(), ..rows };
    check_attended("logits", &first_two, found, expected, 1e-4);
}

/// The fixture holds the pooled patches as an image, channels first.
fn check_pooled(found: &[f32], expected: &fixture::Tensor) {
    let [n, width, side, _] = expected.shape[..] else { panic!("an image") };
    let tokens = side * side;
    let image: Vec<f32> = (0..n * width * tokens)
        .map(|i| found[(i / (width * tokens) * tokens + i % tokens) * width + i / tokens % width])
        .collect();
    check("pooled patches", &image, expected, 1e-4);
}

#[test]
fn every_intermediate_equals_the_reference() {
    check_intermediates(&Case::open("case_a", Precision::F32));
    check_intermediates(&Case::open("case_b", Precision::F32)); // Page block larger than the window; two pages, none, padding.
}

fn gradients<O: Ops>(case: &Case<O>, rows: &Rows, n: usize, how: Checkpointing) -> StepSums {
    let mut sums = Sums::new(StepSums::zero(n));
    case.model.forward_backward(&case.ops, &rows.input(), Place::Eval, (LossNorm::MicroMean, how), &mut sums).unwrap();
    case.ops.collect(sums)
}

pub fn check_losses<O: Ops>(case: &Case<O>) {
    let forward = case.tensors("forward");
    for kind in ["full", "notebook", "completion"] {
        let sums = gradients(case, &rows(&forward, &format!("labels_{kind}")), 0, Checkpointing::None);
        let found = LossNorm::MicroMean.loss(&sums) as f32;
        check(&format!("loss on {kind}"), &[found], forward.get(&format!("loss_{kind}")), 1e-5);
    }
}

#[test]
fn losses_under_every_mask_equal_the_reference() {
    check_losses(&Case::open("case_a", Precision::F32));
    check_losses(&Case::open("case_b", Precision::F32));
}

pub fn check_lora<O: Ops>(mut case: Case<O>) {
    let (layout, _, _) = case.adapt("adapter_rand");
    let forward = case.tensors("forward");
    let rows = rows(&forward, "labels_notebook");
    let sums = gradients(&case, &rows, layout.len(), Checkpointing::None);
    check("loss with LoRA", &[LossNorm::MicroMean.loss(&sums) as f32], forward.get("lora.loss_notebook"), 1e-5);
    let found = sums.gradients(LossNorm::MicroMean.divisor(&sums));
    for (i, module) in layout.modules().iter().enumerate() {
        for (side, range) in [("A", layout.a(i)), ("B", layout.b(i))] {
            let key = format!("lora.grad.base_model.model.model.{}.lora_{side}.weight", peft_name(&module.name));
            check_relative(&key, &found[range], forward.get(&key), 1e-4);
        }
    }
    let logits = case.logits(&rows);
    check_every_fourth("logits with LoRA", rows, &logits, forward.get("lora.logits_every4"), 1e-4);
}

/// Compares the positions 0, 4, 8... of all rows, where they are not padding.
#[track_caller]
pub fn check_every_fourth(what: &str, rows: Rows, logits: &[f32], expected: &fixture::Tensor, tolerance: f64) {
    let width = expected.shape[2];
    let is_fourth = |(t, _): &(usize, &[f32])| (t % rows.seq_len).is_multiple_of(4);
    let kept: Vec<f32> = logits.chunks(width).enumerate().filter(is_fourth).flat_map(|(_, row)| row.to_vec()).collect();
    let lengths = rows.lengths.iter().map(|&length| length.div_ceil(4)).collect();
    let thinned = Rows { seq_len: expected.shape[1], lengths, ..rows };
    check_attended(what, &thinned, &kept, expected, tolerance);
}

/// `language_model.model.layers...` is `language_model.layers...` inside PEFT's wrapper.
fn peft_name(hub: &str) -> String {
    hub.replacen("language_model.model.", "language_model.", 1)
}

#[test]
fn every_lora_gradient_equals_the_reference() {
    check_lora(Case::open("case_a", Precision::F32));
    check_lora(Case::open("case_b", Precision::F32));
}

/// Recomputed and repeated, under dropout.
pub fn check_bits<O: Ops>(mut case: Case<O>) {
    let (layout, flat, config) = case.adapt("adapter_rand");
    case.model.adapt(&case.ops, &layout, &flat, config.scaling(), 0.3);
    let rows = rows(&case.tensors("forward"), "labels_notebook");
    let bits = |how, micro_batch| {
        let mut sums = Sums::new(StepSums::zero(layout.len()));
        let at = Place::Train { seed: 1, step: 2, micro_batch };
        let norm = LossNorm::GlobalTokens;
        case.model.forward_backward(&case.ops, &rows.input(), at, (norm, how), &mut sums).unwrap();
        case.ops.collect(sums).as_mut_slice().to_vec()
    };
    let all = bits(Checkpointing::None, 3);
    assert_eq!(all, bits(Checkpointing::Block, 3), "{}: block", case.name);
    assert_eq!(all, bits(Checkpointing::Vision, 3), "{}: vision", case.name);
    assert_ne!(all, bits(Checkpointing::None, 4), "{}: another micro-batch has another mask", case.name);
}

#[test]
fn checkpointing_gives_the_same_bits() {
    check_bits(Case::open("case_a", Precision::F32));
    check_bits(Case::open("case_b", Precision::F32));
}

/// Against f32 the reference's own bf16 forward differs by 0.19 at most and 0.023 on average (`notes`), at a standard
/// deviation of 2; two bf16 forwards that round in other places may differ by as much from each other.
pub fn check_bf16_forward<O: Ops>(case: &Case<O>) {
    let (name, forward, bf16) = (&case.name, case.tensors("forward"), case.tensors("forward_bf16"));
    let rows = rows(&forward, "labels_notebook");
    let logits = case.logits(&rows);
    let n = forward.get("logits_rows01").data.len();
    let first_two = Rows { n_rows: 2, lengths: rows.lengths[..2].to_vec(), ..rows };
    for (what, expected) in [("f32", forward.get("logits_rows01")), ("bf16", bf16.get("logits_rows01"))] {
        let found = first_two.packed(&logits[..n]);
        let kept = first_two.packed(&expected.f32());
        let diffs: Vec<f64> = found.iter().zip(&kept).map(|(a, b)| f64::from((a - b).abs())).collect();
        let (max, mean) = (diffs.iter().copied().fold(0.0, f64::max), diffs.iter().sum::<f64>() / diffs.len() as f64);
        assert!(max <= 0.25 && mean <= 0.03, "{name} against {what}: max {max}, mean {mean}");
        assert!(mean > 1e-4, "{name} against {what}: a bf16 forward rounds");
    }
}

#[test]
fn the_bf16_forward_is_as_near_as_bf16_is() {
    check_bf16_forward(&Case::open("case_a", Precision::Bf16));
    check_bf16_forward(&Case::open("case_b", Precision::Bf16));
}

/// Under autocast the reference's own loss moves by 4e-3 (`notes`), and single elements of a gradient by some percent;
/// what must hold is its direction: the cosine between ours and the reference's bf16 gradient of each adapter matrix.
pub fn check_bf16_gradients<O: Ops>(mut case: Case<O>) {
    let (layout, _, _) = case.adapt("adapter_rand");
    let bf16 = case.tensors("forward_bf16");
    let rows = rows(&case.tensors("forward"), "labels_notebook");
    let sums = gradients(&case, &rows, layout.len(), Checkpointing::None);
    let loss = LossNorm::MicroMean.loss(&sums) as f32;
    check("loss in bf16", &[loss], bf16.get("lora.loss_notebook"), 2e-2);
    let found = sums.gradients(LossNorm::MicroMean.divisor(&sums));
    for (i, module) in layout.modules().iter().enumerate() {
        for (side, range) in [("A", layout.a(i)), ("B", layout.b(i))] {
            let key = format!("lora.grad.base_model.model.model.{}.lora_{side}.weight", peft_name(&module.name));
            let expected = &bf16.get(&key).data;
            let dot = |a: &mut dyn Iterator<Item = (f64, f64)>| a.map(|(x, y)| x * y).sum::<f64>();
            let ours = || found[range.clone()].iter().map(|&g| f64::from(g));
            let norms = dot(&mut ours().zip(ours())) * dot(&mut expected.iter().copied().zip(expected.iter().copied()));
            let cosine = dot(&mut ours().zip(expected.iter().copied())) / norms.sqrt();
            assert!(cosine > 0.99, "{} {key}: cosine {cosine}", case.name);
        }
    }
}

#[test]
fn bf16_gradients_point_where_the_references_do() {
    check_bf16_gradients(Case::open("case_a", Precision::Bf16));
    check_bf16_gradients(Case::open("case_b", Precision::Bf16));
}

/// Loss, statistics and gradients of `rows`, as sums, with what `at` drops.
fn sums(case: &Case, rows: &[&Rows], at: Place, n: usize) -> StepSums {
    let mut sums = Sums::new(StepSums::zero(n));
    let how = (LossNorm::GlobalTokens, Checkpointing::None);
    for rows in rows {
        case.model.forward_backward(&case.ops, &rows.input(), at, how, &mut sums).unwrap();
    }
    case.ops.collect(sums)
}

impl Rows {
    /// One of the rows, alone, with its pages.
    fn one(&self, row: usize, image_token: u32, per_page: usize) -> Rows {
        let tokens = self.input().rows().nth(row).unwrap();
        let blocks = |ids: &[u32]| ids.iter().filter(|&&id| id == image_token).count() / per_page;
        let (before, n) = (blocks(&self.input_ids[..tokens.start]), blocks(&self.input_ids[tokens.clone()]));
        let page = self.pages.len() / self.shown.iter().max().map_or(1, |&last| last as usize + 1);
        let shown = &self.shown[before..before + n];
        Rows {
            n_rows: 1,
            seq_len: tokens.len(),
            lengths: vec![tokens.len()],
            input_ids: self.input_ids[tokens.clone()].to_vec(),
            labels: self.labels[tokens.clone()].to_vec(),
            answers: self.answers[tokens].to_vec(),
            pages: shown.iter().flat_map(|&n| self.pages[n as usize * page..][..page].to_vec()).collect(),
            shown: (0..n as u32).collect(),
        }
    }

    /// Packs rows, each page as often as it is shown.
    fn join(rows: &[&Rows]) -> Rows {
        let all = |of: fn(&Rows) -> &[u32]| rows.iter().flat_map(|rows| of(rows).to_vec()).collect::<Vec<u32>>();
        let lengths: Vec<usize> = rows.iter().flat_map(|rows| rows.lengths.clone()).collect();
        let n_pages = rows.iter().map(|rows| rows.shown.len()).sum::<usize>();
        Rows {
            n_rows: lengths.len(),
            seq_len: lengths.iter().copied().max().unwrap(),
            lengths,
            input_ids: all(|rows| &rows.input_ids),
            labels: rows.iter().flat_map(|rows| rows.labels.clone()).collect(),
            answers: rows.iter().flat_map(|rows| rows.answers.clone()).collect(),
            pages: rows.iter().flat_map(|rows| rows.pages.clone()).collect(),
            shown: (0..n_pages as u32).collect(),
        }
    }
}

/// Two sums of the same rows, computed in another order: 1e-5 of the loss, 1e-4 of the largest gradient.
#[track_caller]
fn check_same(what: &str, found: &StepSums, expected: &StepSums) {
    let norm = LossNorm::GlobalTokens;
    for stat in [Stat::Supervised, Stat::Correct, Stat::Tokens, Stat::Rows, Stat::Pages] {
        assert_eq!(found.counted(stat), expected.counted(stat), "{what}: {stat:?}");
    }
    let (loss, other) = (norm.loss(found), norm.loss(expected));
    assert!((loss - other).abs() <= 1e-5, "{what}: loss {loss} for {other}");
    let data: Vec<f64> = expected.gradients(norm.divisor(expected)).iter().map(|&g| f64::from(g)).collect();
    let expected = fixture::Tensor { shape: vec![], data };
    check_relative(what, &found.gradients(norm.divisor(found)), &expected, 1e-4);
}

#[test]
fn rows_packed_together_are_computed_as_if_each_were_alone() {
    for name in ["case_a", "case_b"] {
        let mut case = Case::open(name, Precision::F32);
        let (layout, _, _) = case.adapt("adapter_rand");
        let rows = rows(&Tensors::open(&format!("{name}/forward.safetensors")), "labels_notebook");
        let (image, per_page) = (case.config.image_token_index, case.config.mm_tokens_per_image);
        let alone: Vec<Rows> = (0..rows.n_rows).map(|row| rows.one(row, image, per_page)).collect();
        assert!(alone.iter().any(|row| row.seq_len < rows.seq_len), "{name}: rows of several lengths");
        let alone: Vec<&Rows> = alone.iter().collect();
        let one_by_one = sums(&case, &alone, Place::Eval, layout.len());
        check_same(name, &sums(&case, &[&rows], Place::Eval, layout.len()), &one_by_one);
        let reversed: Vec<&Rows> = alone.iter().rev().copied().collect();
        check_same(name, &sums(&case, &[&Rows::join(&reversed)], Place::Eval, layout.len()), &one_by_one);
        // No row sees another: its logits do not depend on its neighbours.
        let (packed, first) = (case.logits(&rows), case.logits(alone[0]));
        let data = first.iter().map(|&v| f64::from(v)).collect();
        check(name, &packed[..first.len()], &fixture::Tensor { shape: vec![], data }, 1e-5);
    }
}

#[test]
fn a_page_that_several_rows_show_is_seen_once_and_all_their_gradients_reach_it() {
    let mut case = Case::open("case_a", Precision::F32);
    let (layout, flat, config) = case.adapt("adapter_rand");
    let rows = rows(&Tensors::open("case_a/forward.safetensors"), "labels_notebook");
    let (image, per_page) = (case.config.image_token_index, case.config.mm_tokens_per_image);
    let row = |n: usize| rows.one(n, image, per_page);
    let with_page: Vec<Rows> = (0..rows.n_rows).map(row).filter(|row| row.shown.len() == 1).collect();
    let [first, second] = [&with_page[0], &with_page[1]];
    // Another row's question about the first row's page, and the first row once more: pages 0, 1, 0, 0.
    let about_first = Rows { pages: first.pages.clone(), ..row(rows.n_rows - 1) };
    assert_eq!(about_first.shown.len(), 1);
    let together = [first, second, &about_first, first];
    let unshared = Rows::join(&together);
    let pages = [&first.pages[..], &second.pages].concat();
    let shared = Rows { pages, shown: vec![0, 1, 0, 0], ..Rows::join(&together) };
    let one_by_one = sums(&case, &together, Place::Eval, layout.len());
    check_same("apart", &sums(&case, &[&unshared], Place::Eval, layout.len()), &one_by_one);
    check_same("shared", &sums(&case, &[&shared], Place::Eval, layout.len()), &one_by_one);

    // With dropout the shared page has one mask, so its numbers are others; they are the same whatever is recomputed.
    case.model.adapt(&case.ops, &layout, &flat, config.scaling(), 0.3);
    let at = Place::Train { seed: 1, step: 2, micro_batch: 3 };
    let bits = |how| {
        let mut sums = Sums::new(StepSums::zero(layout.len()));
        case.model.forward_backward(&case.ops, &shared.input(), at, (LossNorm::GlobalTokens, how), &mut sums).unwrap();
        case.ops.collect(sums).as_mut_slice().to_vec()
    };
    let kept = bits(Checkpointing::None);
    assert_eq!(kept, bits(Checkpointing::Block));
    assert_ne!(kept, sums(&case, &[&unshared], at, layout.len()).as_mut_slice());
}

/// The gradient of a sum of token losses is the sum of their gradients: so tokens that teach nothing, which do not go
/// through all of the last layer, change no number of the others.
#[test]
fn what_teaches_together_teaches_apart() {
    for name in ["case_a", "case_b"] {
        let mut case = Case::open(name, Precision::F32);
        let (layout, _, _) = case.adapt("adapter_rand");
        let all = || rows(&Tensors::open(&format!("{name}/forward.safetensors")), "labels_notebook");
        let only = |keep: &dyn Fn(usize) -> bool| {
            let mut rows = all();
            rows.labels.iter_mut().enumerate().filter(|(at, _)| !keep(*at)).for_each(|(_, label)| *label = -100);
            rows
        };
        let whole = sums(&case, &[&all()], Place::Eval, layout.len());
        let first_row = all().lengths[0];
        let parts: [&dyn Fn(usize) -> bool; 3] =
            [&|at| at < first_row, &|at| at >= first_row && at.is_multiple_of(3), &|at| {
                at >= first_row && !at.is_multiple_of(3)
            }];
        let mut added = StepSums::zero(layout.len());
        for part in parts {
            let mut one = sums(&case, &[&only(part)], Place::Eval, layout.len());
            assert!(one.counted(Stat::Supervised) > 0, "{name}: every part teaches something");
            added.as_mut_slice().iter_mut().zip(one.as_mut_slice()).for_each(|(sum, n)| *sum += *n);
        }
        assert_eq!(added.counted(Stat::Supervised), whole.counted(Stat::Supervised), "{name}");
        let data: Vec<f64> = whole.gradients(1.0).iter().map(|&g| f64::from(g)).collect();
        check_relative(name, &added.gradients(1.0), &fixture::Tensor { shape: vec![], data }, 1e-4);

        let mut nothing = sums(&case, &[&only(&|_| false)], Place::Eval, layout.len());
        assert_eq!(
            nothing.counted(Stat::Rows),
            whole.counted(Stat::Rows),
            "{name}: rows that teach nothing are counted"
        );
        assert!(nothing.as_mut_slice()[..layout.len()].iter().all(|&sum| sum == 0), "{name}: and move nothing");
    }
}

/// Without adapters in the tower nothing goes back to it. The decoder's gradients are, to the bit, those beside a tower
/// whose adapters add 0.
#[test]
fn a_tower_that_is_not_trained_costs_no_backward_and_changes_no_gradient() {
    let mut case = Case::open("case_a", Precision::F32);
    let (layout, mut flat, config) = case.adapt("adapter_rand");
    let rows = rows(&Tensors::open("case_a/forward.safetensors"), "labels_notebook");
    let in_tower = |name: &str| name.starts_with("vision_tower");
    let modules: Vec<_> = layout.modules().iter().filter(|module| !in_tower(&module.name)).cloned().collect();
    let decoder = Layout::new(modules, layout.r());
    let mut of_decoder = vec![0.0; decoder.len()];
    for (i, module) in layout.modules().iter().enumerate() {
        match decoder.index(&module.name) {
            None => flat[layout.b(i)].fill(0.0),
            Some(own) => {
                of_decoder[decoder.a(own)].copy_from_slice(&flat[layout.a(i)]);
                of_decoder[decoder.b(own)].copy_from_slice(&flat[layout.b(i)]);
            }
        }
    }
    case.model.adapt(&case.ops, &layout, &flat, config.scaling(), 0.0);
    let beside = gradients(&case, &rows, layout.len(), Checkpointing::None).gradients(1.0);
    let mut alone = Case::open("case_a", Precision::F32);
    alone.model.adapt(&alone.ops, &decoder, &of_decoder, config.scaling(), 0.0);
    for how in [Checkpointing::None, Checkpointing::Block] {
        let found = gradients(&alone, &rows, decoder.len(), how).gradients(1.0);
        for (own, module) in decoder.modules().iter().enumerate() {
            let i = layout.index(&module.name).unwrap();
            let same = found[decoder.a(own)] == beside[layout.a(i)] && found[decoder.b(own)] == beside[layout.b(i)];
            assert!(same, "{} under {how:?}", module.name);
        }
    }
}

#[test]
fn pages_that_no_row_shows_or_that_are_not_there_are_refused() {
    let case = Case::open("case_a", Precision::F32);
    let rows = rows(&Tensors::open("case_a/forward.safetensors"), "labels_notebook");
    for change in [|shown: &mut Vec<u32>| shown[0] = 99, |shown: &mut Vec<u32>| shown[0] = shown[1]] {
        let mut shown = rows.shown.clone();
        change(&mut shown);
        let wrong = case.model.logits(&case.ops, &Input { shown: &shown, ..rows.input() }, &mut |_, _| {});
        assert!(wrong.unwrap_err().to_string().contains("pages"), "{shown:?}");
    }
}
