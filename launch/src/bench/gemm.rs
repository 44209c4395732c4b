//! `ecg-train bench gemm`: the matrix products of a training step by their shapes, each alone. What a step takes beside
//! them, it takes for everything else.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Instant;

use model::engine::{Device, Work};
use model::{ModelConfig, Ops};
use serde::Serialize;
use trainer::Config;

use super::peak;
use crate::cli::BenchGemmArgs;
use crate::{Error, print};

/// The products of linears of one shape and kind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Shape {
    /// Rows of the input in a micro-batch, width of input and output.
    m: usize,
    k: usize,
    n: usize,
    /// Rank of its adapter; none of the head.
    r: Option<usize>,
}

/// What was measured of a shape. Times are the least of all rounds, in milliseconds.
#[derive(Debug, Serialize)]
struct Figures {
    /// Linears of this shape.
    linears: String,
    /// How many of them a micro-batch goes through.
    times: usize,
    m: usize,
    k: usize,
    n: usize,
    /// `x w^T`.
    forward_ms: f64,
    /// `dy w`.
    by_input_ms: f64,
    /// Forward, by its input and by both matrices: the six products of the adapter.
    adapter_ms: Option<f64>,
    forward_tflops: f64,
    by_input_tflops: f64,
    adapter_tflops: Option<f64>,
}

#[derive(Debug, Serialize)]
struct All {
    preset: String,
    device: String,
    precision: String,
    rows: usize,
    seq_len: usize,
    products: Vec<Figures>,
    /// All products of one micro-batch, forward and backward.
    micro_batch_ms: f64,
    micro_batch_tflop: f64,
    tflops: f64,
    /// Of `--peak-tflops`, or of what is known of the device.
    share_of_peak: Option<f64>,
}

/// Measures and prints.
///
/// # Errors
/// The preset does not fit the overrides, or there is no such device.
pub fn run(args: &BenchGemmArgs) -> Result<(), Error> {
    let (config, model) = args.preset.open(&args.set)?;
    let precision = super::step::precision(args.precision, &config);
    let device = Device::first(args.gpus.is_some(), args.backend)?;
    let shapes = shapes(&config, &model);
    let products = device.run(precision, Measuring { shapes: &shapes, rounds: args.rounds })?;
    let micro_batch_ms = products.iter().map(|f| f.times as f64 * f.ms()).sum::<f64>();
    let micro_batch_tflop = products.iter().map(|f| f.times as f64 * f.tflop()).sum::<f64>();
    let tflops = micro_batch_tflop / micro_batch_ms * 1e3;
    let all = All {
        preset: args.preset.key().to_owned(),
        device: super::step::device_name(device),
        precision: format!("{precision:?}").to_lowercase(),
        rows: config.train.micro_batch_size,
        seq_len: config.data.max_seq_len,
        products,
        micro_batch_ms,
        micro_batch_tflop,
        tflops,
        share_of_peak: peak::tflops(args.peak_tflops, device, precision).map(|peak| tflops / peak),
    };
    let text = if args.json { serde_json::to_string(&all).expect("numbers and texts") + "\n" } else { table(&all) };
    print(text.as_bytes());
    Ok(())
}

/// Every shape of a micro-batch's products, with the linears that have it.
fn shapes(config: &Config, model: &ModelConfig) -> BTreeMap<Shape, Vec<String>> {
    let (rows, vision) = (config.train.micro_batch_size, &model.vision);
    let (patches, tokens) = (rows * vision.patches_per_side().pow(2), rows * config.data.max_seq_len);
    let mut shapes: BTreeMap<Shape, Vec<String>> = BTreeMap::new();
    for module in model.modules() {
        let m = if module.name.starts_with("vision") { patches } else { tokens };
        let shape = Shape { m, k: module.in_features, n: module.out_features, r: Some(config.lora.r) };
        shapes.entry(shape).or_default().push(module.name);
    }
    let embed = Shape { m: patches, k: 3 * vision.patch_size.pow(2), n: vision.hidden_size, r: None };
    shapes.entry(embed).or_default().push("patch_embedding".to_owned());
    // All tokens are learned but the first mark and the page.
    let learned = tokens - rows * (model.mm_tokens_per_image + 1);
    let head = Shape { m: learned, k: model.text.hidden_size, n: model.text.vocab_size, r: None };
    shapes.entry(head).or_default().push("lm_head".to_owned());
    shapes
}

struct Measuring<'a> {
    shapes: &'a BTreeMap<Shape, Vec<String>>,
    rounds: u32,
}

impl Work for Measuring<'_> {
    type Done = Vec<Figures>;

    fn on<O: Ops>(self, ops: O) -> Self::Done {
        self.shapes.iter().map(|(shape, names)| product(&ops, shape, names, self.rounds)).collect()
    }
}

fn product<O: Ops>(ops: &O, shape: &Shape, names: &[String], rounds: u32) -> Figures {
    let &Shape { m, k, n, r } = shape;
    let (x, dy) = (ops.upload(numbers(m * k), [m, k]), ops.upload(numbers(m * n), [m, n]));
    let w = ops.upload_weight(numbers(n * k), [n, k]);
    let forward_ms = least(ops, rounds, || drop(ops.matmul_nt(&x, &w)));
    let by_input_ms = least(ops, rounds, || drop(ops.matmul(&dy, &w)));
    let adapter_ms = r.map(|r| {
        let (a, b) = (ops.upload(numbers(r * k), [r, k]), ops.upload(numbers(n * r), [n, r]));
        least(ops, rounds, || {
            let h = ops.matmul_nt(&x, &a);
            let dh = ops.matmul(&dy, &b);
            drop((ops.matmul_nt(&h, &b), ops.matmul(&dh, &a), ops.matmul_tn(&dh, &x), ops.matmul_tn(&dy, &h)));
        })
    });
    let tflops = |tflop: f64, ms: f64| tflop / ms * 1e3;
    Figures {
        linears: kinds(names),
        times: names.len(),
        m,
        k,
        n,
        forward_ms,
        by_input_ms,
        adapter_ms,
        forward_tflops: tflops(tflop(m, k, n), forward_ms),
        by_input_tflops: tflops(tflop(m, k, n), by_input_ms),
        adapter_tflops: adapter_ms.zip(r).map(|(ms, r)| tflops(adapter_tflop(m, k, n, r), ms)),
    }
}

/// Arithmetic of one product; a multiply-add is two.
fn tflop(m: usize, k: usize, n: usize) -> f64 {
    2.0 * m as f64 * k as f64 * n as f64 / 1e12
}

/// Of the six products of an adapter of rank `r`.
fn adapter_tflop(m: usize, k: usize, n: usize, r: usize) -> f64 {
    3.0 * (tflop(m, k, r) + tflop(m, r, n))
}

impl Figures {
    fn ms(&self) -> f64 {
        self.forward_ms + self.by_input_ms + self.adapter_ms.unwrap_or_default()
    }

    fn tflop(&self) -> f64 {
        (self.forward_tflops * self.forward_ms
            + self.by_input_tflops * self.by_input_ms
            + self.adapter_tflops.unwrap_or_default() * self.adapter_ms.unwrap_or_default())
            / 1e3
    }
}

/// The least time of all rounds, in milliseconds; one round goes before them.
fn least(ops: &impl Ops, rounds: u32, product: impl Fn()) -> f64 {
    let waiter = ops.waiter();
    let once = || {
        let began = Instant::now();
        product();
        waiter.iter().for_each(|wait| wait());
        began.elapsed().as_secs_f64() * 1e3
    };
    once();
    (0..rounds).map(|_| once()).fold(f64::INFINITY, f64::min)
}

/// Numbers of order 1, without a pattern.
fn numbers(n: usize) -> Vec<f32> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
        (state >> 8) as f32 / (1_u32 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// The last parts of the names, each once: `q_proj, out_proj`.
fn kinds(names: &[String]) -> String {
    let mut kinds: Vec<&str> = Vec::new();
    for kind in names.iter().filter_map(|name| name.rsplit('.').next()) {
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    kinds.join(", ")
}

fn table(all: &All) -> String {
    let All { preset, device, precision, rows, seq_len, products, micro_batch_ms, micro_batch_tflop, tflops, .. } = all;
    let mut text = format!("{preset} on {device}, {precision}: micro-batches of {rows} rows of {seq_len} tokens\n\n");
    let _ = writeln!(text, "ms (TFLOP/s)                        forward         by input   adapter's six");
    for f in products {
        let _ = writeln!(text, "{} x {}: [{}, {}] x [{}, {}]", f.times, f.linears, f.m, f.k, f.k, f.n);
        let cell = |ms: f64, tflops: f64| format!("{ms:.2} ({tflops:.2})");
        let adapter = f.adapter_ms.zip(f.adapter_tflops).map_or("-".to_owned(), |(ms, tflops)| cell(ms, tflops));
        let (forward, by_input) = (cell(f.forward_ms, f.forward_tflops), cell(f.by_input_ms, f.by_input_tflops));
        let _ = writeln!(text, "{:26}{forward:>17}{by_input:>17}{adapter:>16}", "");
    }
    let share = all.share_of_peak.map(|share| format!(", {:.1} % of the peak", 100.0 * share)).unwrap_or_default();
    let _ = writeln!(
        text,
        "\nall of a micro-batch: {micro_batch_ms:.1} ms for {micro_batch_tflop:.3} TFLOP, {tflops:.3} TFLOP/s{share}"
    );
    text
}
