//! `ecg-train bench generate`: how fast a random model of the preset cpu-mid answers, beside how fast the machine reads
//! its memory. Every new token needs every weight of the decoder once, so that is the bound for a batch of one.

use std::fmt::Write as _;
use std::thread;
use std::time::Instant;

use model::engine::{Cpu, Precision};
use model::generate::{GenerateRequest, Generator};
use model::{MedGemma, ModelConfig};
use serde::Serialize;

use crate::cli::BenchGenerateArgs;
use crate::print;

/// Measured so often; the fastest counts, as others use the machine, too.
const ROUNDS: usize = 3;

#[derive(Debug, Serialize)]
struct Figures {
    batch_size: u32,
    /// From the prompts to the first tokens.
    first_token_ms: f64,
    /// Of each further token of all prompts together.
    step_ms: f64,
    tokens_per_second: f64,
    /// Weights that are read in a step, each once.
    weights_gb_per_second: f64,
}

/// Measures every batch size and prints a table or JSON.
pub fn run(args: &BenchGenerateArgs) {
    let config =
        ModelConfig::parse("cpu-mid.json".into(), include_str!("cpu-mid.json")).expect("the preset is a model");
    let decoder = config.tensors().into_iter().filter(|(name, _)| name.starts_with("language_model"));
    let weights: usize = decoder.map(|(_, [rows, columns])| 2 * rows * columns).sum();
    let ops = Cpu::new(Precision::F32);
    let generator = Generator::endless(Cpu::new(Precision::F32), MedGemma::random(&ops, &config));
    let memory = memory_gb_per_second(weights);
    let figures: Vec<Figures> =
        args.batch_size.iter().map(|&batch_size| measure(&generator, batch_size, weights, args)).collect();
    if args.json {
        let json =
            serde_json::json!({"weights_mb": weights as f64 / 1e6, "memory_gb_per_second": memory, "figures": figures});
        return print(format!("{json}\n").as_bytes());
    }
    let mut text = format!(
        "cpu-mid, f32: {:.0} MB of decoder weights in bf16; prompts of {} tokens, answers of {}\nmemory is copied at {memory:.1} GB/s (read and written)\n\n{:>10} {:>14} {:>10} {:>10} {:>14}\n",
        weights as f64 / 1e6,
        args.prompt_tokens,
        args.new_tokens,
        "batch",
        "first, ms",
        "step, ms",
        "tokens/s",
        "weights, GB/s"
    );
    for f in &figures {
        let _ = writeln!(
            text,
            "{:>10} {:>14.1} {:>10.2} {:>10.1} {:>14.1}",
            f.batch_size, f.first_token_ms, f.step_ms, f.tokens_per_second, f.weights_gb_per_second
        );
    }
    print(text.as_bytes());
}

fn measure(generator: &Generator<Cpu>, batch_size: u32, weights: usize, args: &BenchGenerateArgs) -> Figures {
    let requests: Vec<GenerateRequest> = (0..batch_size).map(|row| request(generator.config(), row, args)).collect();
    let (mut first, mut step) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let mut times = Vec::new();
        let answered = generator.generate(&requests, args.new_tokens as usize, &mut |row, _| {
            if row == 0 {
                times.push(start.elapsed().as_secs_f64());
            }
        });
        answered.expect("the prompts fit the model");
        first = first.min(times[0]);
        step = step.min((times[times.len() - 1] - times[0]) / (times.len() - 1) as f64);
    }
    Figures {
        batch_size,
        first_token_ms: first * 1e3,
        step_ms: step * 1e3,
        tokens_per_second: f64::from(batch_size) / step,
        weights_gb_per_second: weights as f64 / step / 1e9,
    }
}

/// A page and text, other ones in each row.
fn request(config: &ModelConfig, row: u32, args: &BenchGenerateArgs) -> GenerateRequest {
    let mut input_ids = vec![2, config.boi_token_index];
    input_ids.extend(std::iter::repeat_n(config.image_token_index, config.mm_tokens_per_image));
    let text = (0..).map(|i: u32| 3 + (i * 131 + row * 17) % 16_000);
    input_ids.extend(text.take((args.prompt_tokens as usize).saturating_sub(input_ids.len())));
    let pixels = 3 * config.vision.image_size.pow(2);
    GenerateRequest { input_ids, pages: vec![(0..pixels).map(|i| (i * 7 + row as usize * 31) as u8).collect()] }
}

/// Bytes read and written a second while as much as the weights is copied, by a thread a core.
fn memory_gb_per_second(bytes: usize) -> f64 {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let source = vec![1_u8; bytes];
    let mut target = vec![0_u8; bytes];
    let piece = bytes.div_ceil(threads);
    let mut copy = || {
        let start = Instant::now();
        thread::scope(|scope| {
            for (to, from) in target.chunks_mut(piece).zip(source.chunks(piece)) {
                scope.spawn(|| to.copy_from_slice(from));
            }
        });
        2.0 * bytes as f64 / start.elapsed().as_secs_f64() / 1e9
    };
    (0..ROUNDS + 1).map(|_| copy()).fold(0.0, f64::max)
}
