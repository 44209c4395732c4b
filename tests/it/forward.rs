//! Every intermediate, logits, losses and LoRA gradients of the two reference models.
//!
//! Tolerances: the reference itself differs by 7e-6 in logits between its two attention kernels and by 9e-6 between
//! adapter and merged weights (trace.json, `notes`), at a standard deviation of 2; we allow 1e-4 in logits and
//! intermediates, 1e-5 in losses, 1e-4 of the largest element in gradients.

use std::path::Path;

use lora::base::Base;
use lora::{AdapterConfig, Layout};
use model::engine::{Cpu, Precision};
use model::{Checkpointing, Input, LossNorm, MedGemma, ModelConfig, Ops, Place, Seen, StepSums};

use crate::fixture::{self, Tensors, check, check_relative};

/// A reference model on the CPU engine.
pub struct Case {
    /// Its folder: a name in the fixtures, or an absolute path.
    name: String,
    pub ops: Cpu,
    pub model: MedGemma<Cpu>,
    pub config: ModelConfig,
}

impl Case {
    pub fn open(name: &str, precision: Precision) -> Self {
        Self::with_base(name, &fixture::path(&format!("{name}/base")), precision)
    }

    /// The case with another model folder in the place of its base.
    pub fn with_base(name: &str, base: &Path, precision: Precision) -> Self {
        let (ops, config) = (Cpu::new(precision), ModelConfig::open(base).unwrap());
        let model = MedGemma::load(&ops, &config, &Base::open(base).unwrap()).unwrap();
        Self { name: name.into(), ops, model, config }
    }

    /// Logits `[rows, seq, vocab]`.
    pub fn logits(&self, rows: &Rows) -> Vec<f32> {
        self.ops.download(&self.model.logits(&self.ops, &rows.input(), &mut |_, _| {}).unwrap())
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

/// A reference micro-batch as the model takes it: the pixels are turned back into the u8 they came from.
pub struct Rows {
    n_rows: usize,
    seq_len: usize,
    pub input_ids: Vec<u32>,
    lengths: Vec<usize>,
    labels: Vec<i64>,
    answers: Vec<bool>,
    pages: Vec<u8>,
}

impl Rows {
    pub fn new(input_ids: &fixture::Tensor, mask: &fixture::Tensor, labels: &fixture::Tensor, pages: Vec<u8>) -> Self {
        let [n_rows, seq_len] = input_ids.shape[..] else { panic!("a batch is a matrix") };
        let lengths = mask.data.chunks(seq_len).map(|row| row.iter().sum::<f64>() as usize).collect();
        let answers = vec![false; n_rows * seq_len];
        Self { n_rows, seq_len, input_ids: input_ids.ids(), lengths, labels: labels.i64(), answers, pages }
    }

    pub fn input(&self) -> Input<'_> {
        Input {
            n_rows: self.n_rows,
            seq_len: self.seq_len,
            input_ids: &self.input_ids,
            lengths: &self.lengths,
            labels: &self.labels,
            answers: &self.answers,
            pages: &self.pages,
        }
    }

    /// Keeps the rows of `values [t, width]` that are not padding.
    fn attended(&self, values: &[f32], width: usize) -> Vec<f32> {
        let keep = |t: usize| t % self.seq_len < self.lengths[t / self.seq_len];
        values.chunks(width).enumerate().filter(|(t, _)| keep(*t)).flat_map(|(_, row)| row.to_vec()).collect()
    }
}

/// Normalised pixels `[n, 3, size, size]` back to u8 `[n, size, size, 3]`.
pub fn pages(pixels: &fixture::Tensor) -> Vec<u8> {
    let plane = pixels.shape[2] * pixels.shape[3];
    let value = |n: usize, at: usize, c: usize| pixels.data[(n * 3 + c) * plane + at];
    let numbers = (0..pixels.shape[0]).flat_map(|n| (0..plane).flat_map(move |at| (0..3).map(move |c| (n, at, c))));
    numbers.map(|(n, at, c)| ((value(n, at, c) * 0.5 + 0.5) * 255.0).round() as u8).collect()
}

/// The batch of a case's `forward.safetensors`.
pub fn rows(forward: &Tensors, labels: &str) -> Rows {
    let get = |name: &str| forward.get(name);
    Rows::new(get("input_ids"), get("attention_mask"), get(labels), pages(get("pixel_values")))
}

/// Compares what is not padding.
#[track_caller]
fn check_attended(what: &str, rows: &Rows, found: &[f32], expected: &fixture::Tensor, tolerance: f64) {
    let width = *expected.shape.last().unwrap();
    let expected_kept = rows.attended(&expected.f32(), width);
    let data = expected_kept.iter().map(|&v| f64::from(v)).collect();
    check(what, &rows.attended(found, width), &fixture::Tensor { shape: vec![], data }, tolerance);
}

pub fn check_intermediates(name: &str) {
    let case = Case::open(name, Precision::F32);
    let forward = Tensors::open(&format!("{name}/forward.safetensors"));
    let rows = rows(&forward, "labels_notebook");
    let mut seen = 0;
    let logits = case.model.logits(&case.ops, &rows.input(), &mut |what, tensor| {
        let found = case.ops.download(tensor);
        seen += 1;
        match what {
            Seen::VisionEmbeddings => check("patches", &found, forward.get("vision.embeddings"), 1e-4),
            Seen::VisionLayer(i) => check("vision layer", &found, forward.get(&format!("vision.layer.{i}")), 1e-4),
            Seen::VisionLast => check("vision norm", &found, forward.get("vision.last"), 1e-4),
            Seen::ProjectorPooled => check_pooled(&found, forward.get("projector.pooled_chw")),
            Seen::ProjectorOutput => check("projector", &found, forward.get("projector.output"), 1e-4),
            Seen::InputsEmbeds => check_attended("embeddings", &rows, &found, forward.get("text.inputs_embeds"), 1e-4),
            Seen::TextLayer(i) => {
                check_attended("text layer", &rows, &found, forward.get(&format!("text.layer.{i}")), 1e-4);
            }
            Seen::TextNorm => check_attended("text norm", &rows, &found, forward.get("text.norm"), 1e-4),
        }
    });
    assert_eq!(seen, 6 + case.config.vision.n_layers + case.config.text.layers.len(), "every intermediate is compared");
    let logits = case.ops.download(&logits.unwrap());
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
    check_intermediates("case_a");
    check_intermediates("case_b"); // Page block larger than the window; two pages, none, padding.
}

fn gradients(case: &Case, rows: &Rows, n: usize, how: Checkpointing) -> StepSums {
    let mut sums = StepSums::zero(n);
    case.model.forward_backward(&case.ops, &rows.input(), Place::Eval, (LossNorm::MicroMean, how), &mut sums).unwrap();
    sums
}

pub fn check_losses(name: &str) {
    let case = Case::open(name, Precision::F32);
    let forward = Tensors::open(&format!("{name}/forward.safetensors"));
    for kind in ["full", "notebook", "completion"] {
        let sums = gradients(&case, &rows(&forward, &format!("labels_{kind}")), 0, Checkpointing::None);
        let found = LossNorm::MicroMean.loss(&sums) as f32;
        check(&format!("loss on {kind}"), &[found], forward.get(&format!("loss_{kind}")), 1e-5);
    }
}

#[test]
fn losses_under_every_mask_equal_the_reference() {
    check_losses("case_a");
    check_losses("case_b");
}

pub fn check_lora(name: &str) {
    let mut case = Case::open(name, Precision::F32);
    let (layout, _, _) = case.adapt("adapter_rand");
    let forward = Tensors::open(&format!("{name}/forward.safetensors"));
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
    check_lora("case_a");
    check_lora("case_b");
}

#[test]
fn checkpointing_gives_the_same_bits() {
    for name in ["case_a", "case_b"] {
        let mut case = Case::open(name, Precision::F32);
        let (layout, flat, config) = case.adapt("adapter_rand");
        case.model.adapt(&case.ops, &layout, &flat, config.scaling(), 0.3);
        let forward = Tensors::open(&format!("{name}/forward.safetensors"));
        let rows = rows(&forward, "labels_notebook");
        let bits = |how, micro_batch| {
            let mut sums = StepSums::zero(layout.len());
            let at = Place::Train { seed: 1, step: 2, micro_batch };
            case.model
                .forward_backward(&case.ops, &rows.input(), at, (LossNorm::GlobalTokens, how), &mut sums)
                .unwrap();
            sums.as_mut_slice().to_vec()
        };
        let all = bits(Checkpointing::None, 3);
        assert_eq!(all, bits(Checkpointing::Block, 3), "{name}: block");
        assert_eq!(all, bits(Checkpointing::Vision, 3), "{name}: vision");
        assert_ne!(all, bits(Checkpointing::None, 4), "{name}: another micro-batch has another mask");
    }
}

/// Against f32 the reference's own bf16 forward differs by 0.19 at most and 0.023 on average (`notes`), at a standard
/// deviation of 2; two bf16 forwards that round in other places may differ by as much from each other.
#[test]
fn the_bf16_forward_is_as_near_as_bf16_is() {
    for name in ["case_a", "case_b"] {
        let case = Case::open(name, Precision::Bf16);
        let forward = Tensors::open(&format!("{name}/forward.safetensors"));
        let bf16 = Tensors::open(&format!("{name}/forward_bf16.safetensors"));
        let rows = rows(&forward, "labels_notebook");
        let logits = case.logits(&rows);
        let n = forward.get("logits_rows01").data.len();
        let first_two = Rows { n_rows: 2, lengths: rows.lengths[..2].to_vec(), ..rows };
        for (what, expected) in [("f32", forward.get("logits_rows01")), ("bf16", bf16.get("logits_rows01"))] {
            let width = expected.shape[2];
            let found = first_two.attended(&logits[..n], width);
            let kept = first_two.attended(&expected.f32(), width);
            let diffs: Vec<f64> = found.iter().zip(&kept).map(|(a, b)| f64::from((a - b).abs())).collect();
            let (max, mean) =
                (diffs.iter().copied().fold(0.0, f64::max), diffs.iter().sum::<f64>() / diffs.len() as f64);
            assert!(max <= 0.25 && mean <= 0.03, "{name} against {what}: max {max}, mean {mean}");
            assert!(mean > 1e-4, "{name} against {what}: a bf16 forward rounds");
        }
    }
}

/// Under autocast the reference's own loss moves by 4e-3 (`notes`), and single elements of a gradient by some percent;
/// what must hold is its direction: the cosine between ours and the reference's bf16 gradient of each adapter matrix.
#[test]
fn bf16_gradients_point_where_the_references_do() {
    for name in ["case_a", "case_b"] {
        let mut case = Case::open(name, Precision::Bf16);
        let (layout, _, _) = case.adapt("adapter_rand");
        let forward = Tensors::open(&format!("{name}/forward.safetensors"));
        let bf16 = Tensors::open(&format!("{name}/forward_bf16.safetensors"));
        let rows = rows(&forward, "labels_notebook");
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
                let norms =
                    dot(&mut ours().zip(ours())) * dot(&mut expected.iter().copied().zip(expected.iter().copied()));
                let cosine = dot(&mut ours().zip(expected.iter().copied())) / norms.sqrt();
                assert!(cosine > 0.99, "{name} {key}: cosine {cosine}");
            }
        }
    }
}
