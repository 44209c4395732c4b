//! `ecg-train bench step`: time and memory of optimizer steps on random weights and rows. It measures the trainer's own
//! step, each variant in a process of its own, as a peak of memory belongs to a process.

use std::fmt::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use model::engine::{self, Device, Work};
use model::memory::{self, Holder};
use model::parts::{self, Part};
use model::{ModelConfig, Ops};
use serde::{Deserialize, Serialize};
use trainer::bench::Bench;
use trainer::{Config, config};

use super::{flop, peak, process};
use crate::cli::{BenchStepArgs, Checkpointing, Precision, Preset};
use crate::{Error, print};

/// Steps before the measured ones.
const WARM_UP: u32 = 2;

/// Figures of one variant. Times are of one step, in milliseconds.
#[derive(Debug, Serialize, Deserialize)]
struct Figures {
    checkpointing: String,
    precision: String,
    /// `cpu`, or what the GPU was reached through.
    device: String,
    threads: usize,
    rows: usize,
    rows_per_page: u32,
    /// Tokens of each row.
    lengths: Vec<usize>,
    trainable: usize,
    steps: u32,
    wall_ms_median: f64,
    wall_ms_min: f64,
    /// Time on processors, of all threads.
    cpu_ms_median: Option<f64>,
    cpu_ms_min: Option<f64>,
    rows_per_second: f64,
    useful_gflop: f64,
    gflop_per_second: f64,
    /// Useful arithmetic over what the device can do at most, if that was given (MFU).
    share_of_peak: Option<f64>,
    /// Most memory ever resident, and that much more than before the first step.
    peak_mib: Option<f64>,
    peak_above_start_mib: Option<f64>,
    /// Memory of the GPU that the program held at the end, which is the most it ever held.
    device_mib: Option<f64>,
    /// What `model::memory` computes for the step, without program and libraries.
    predicted_mib: f64,
    loss: f64,
    /// Mean wall time by part.
    parts_ms: Vec<(String, f64)>,
}

/// Measures every variant that was asked for.
///
/// # Errors
/// The preset does not fit the overrides, or a measuring process fails.
pub fn run(args: &BenchStepArgs) -> Result<(), Error> {
    let variants = variants(args);
    if let (true, [variant, ..]) = (args.here, &*variants) {
        let figures = measure(args, variant)?;
        print(format!("{}\n", json(&figures)).as_bytes());
        return Ok(());
    }
    let figures = variants.iter().map(|variant| elsewhere(args, variant)).collect::<Result<Vec<_>, _>>()?;
    let text = if args.json { format!("{}\n", json(&figures)) } else { table(args.preset, &figures) };
    print(text.as_bytes());
    Ok(())
}

/// What one process measures.
struct Variant {
    checkpointing: Checkpointing,
    rows_per_page: u32,
    /// Tokens of the rows, in turn; none: those of the preset.
    lengths: Vec<u32>,
}

/// All combinations of what was asked for; rows of unequal lengths also as if they were padded.
fn variants(args: &BenchStepArgs) -> Vec<Variant> {
    let longest: Vec<u32> = args.lengths.iter().max().copied().into_iter().collect();
    let unequal = args.lengths.iter().any(|length| !longest.contains(length));
    let lengths = [Some(args.lengths.clone()), unequal.then_some(longest)];
    let mut variants = Vec::new();
    for &checkpointing in &args.checkpointing {
        for &rows_per_page in &args.rows_per_page {
            let one = |lengths: &Vec<u32>| Variant { checkpointing, rows_per_page, lengths: lengths.clone() };
            variants.extend(lengths.iter().flatten().map(one));
        }
    }
    variants
}

fn json(figures: &impl Serialize) -> String {
    serde_json::to_string(figures).expect("numbers and texts")
}

impl Checkpointing {
    fn key(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Block => "block",
            Self::Vision => "vision",
        }
    }
}

impl Precision {
    fn key(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }
}

impl Preset {
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::CpuMid => "cpu-mid",
            Self::Tiny => "tiny",
            Self::Medgemma4b => "medgemma-4b",
            Self::Tower => "tower",
        }
    }

    /// The run and the shape of its base.
    pub(super) fn open(self, overrides: &[String]) -> Result<(Config, ModelConfig), Error> {
        let (config, model) = match self {
            Self::CpuMid => (include_str!("cpu-mid.toml"), include_str!("cpu-mid.json")),
            Self::Tiny => (include_str!("tiny.toml"), include_str!("tiny.json")),
            Self::Medgemma4b => (include_str!("medgemma-4b.toml"), include_str!("medgemma.json")),
            Self::Tower => (include_str!("tower.toml"), include_str!("tower.json")),
        };
        let config =
            Config::parse(&format!("preset {}", self.key()), config, overrides).map_err(trainer::Error::from)?;
        let model = ModelConfig::parse(config.model.path.clone().into(), model)?;
        Ok((config, model))
    }
}

/// One variant in a process of its own.
fn elsewhere(args: &BenchStepArgs, variant: &Variant) -> Result<Figures, Error> {
    let Variant { checkpointing, rows_per_page, lengths } = variant;
    let failed = |source| Error::Process { what: "the measuring process", source };
    let mut command = Command::new(std::env::current_exe().map_err(failed)?);
    command.args(["bench", "step", "--here", "--preset", args.preset.key()]);
    command.args(["--checkpointing", checkpointing.key()]);
    command.args(args.precision.iter().flat_map(|precision| ["--precision", precision.key()]));
    command.args(args.gpus.iter().map(|gpus| format!("--gpus={gpus}")));
    command.args(args.backend.iter().map(|backend| format!("--backend={backend}")));
    command.args(args.peak_tflops.iter().map(|peak| format!("--peak-tflops={peak}")));
    command.args(["--steps", &args.steps.to_string(), "--rows-per-page", &rows_per_page.to_string()]);
    command.args(lengths.iter().map(|length| format!("--lengths={length}")));
    command.args(args.set.iter().flat_map(|set| ["--set", set]));
    if let Some(threads) = args.threads {
        command.env("RAYON_NUM_THREADS", threads.to_string());
    }
    let output = command.stderr(Stdio::inherit()).output().map_err(failed)?;
    if !output.status.success() {
        let exit_code = output.status.code().and_then(|code| u8::try_from(code).ok());
        let command = format!("bench step --checkpointing {}", checkpointing.key());
        return Err(Error::Step { command, exit_code: exit_code.unwrap_or(crate::error::LOST) });
    }
    serde_json::from_slice(&output.stdout).map_err(|error| failed(error.into()))
}

/// One variant in this process.
fn measure(args: &BenchStepArgs, variant: &Variant) -> Result<Figures, Error> {
    let Variant { checkpointing, rows_per_page, .. } = *variant;
    let mut overrides = vec![format!("train.gradient_checkpointing=\"{}\"", checkpointing.key())];
    overrides.extend(args.precision.map(|precision| format!("train.precision=\"{}\"", precision.key())));
    overrides.extend(args.set.iter().cloned());
    let (config, model) = args.preset.open(&overrides)?;
    let mut lengths: Vec<usize> = variant.lengths.iter().map(|&length| length as usize).collect();
    if lengths.is_empty() {
        lengths.push(config.data.max_seq_len);
    }
    let device = Device::first(args.gpus.is_some(), args.backend)?;
    let measuring = Measuring { args, checkpointing, rows_per_page, config: &config, model: &model, lengths, device };
    device.run(precision(args.precision, &config), measuring)?
}

/// The precision asked for, or the config's.
pub(super) fn precision(asked: Option<Precision>, config: &Config) -> engine::Precision {
    match asked.map_or(config.train.precision, |asked| match asked {
        Precision::F32 => config::Precision::F32,
        Precision::Bf16 => config::Precision::Bf16,
    }) {
        config::Precision::F32 => engine::Precision::F32,
        config::Precision::Bf16 => engine::Precision::Bf16,
    }
}

/// `cpu`, or what the GPU is reached through.
pub(super) fn device_name(device: Device) -> String {
    match device {
        Device::Cpu => "cpu".to_owned(),
        Device::Gpu(backend, _) => backend.to_string(),
    }
}

/// A variant that knows everything but its engine.
struct Measuring<'a> {
    args: &'a BenchStepArgs,
    checkpointing: Checkpointing,
    rows_per_page: u32,
    config: &'a Config,
    model: &'a ModelConfig,
    lengths: Vec<usize>,
    device: Device,
}

impl Measuring<'_> {
    /// Bytes of a step, as computed.
    fn predicted(&self, n_trainable: usize) -> usize {
        let (config, micro) = (self.config, self.config.train.micro_batch_size);
        let pages = micro.div_ceil(self.rows_per_page as usize);
        let rows: Vec<usize> = self.lengths.iter().copied().cycle().take(config.train.global_batch_size).collect();
        let tokens = rows.chunks(micro).map(|rows| rows.iter().sum()).max().unwrap_or(0);
        let gpu = match self.device {
            Device::Cpu => None,
            Device::Gpu(backend, _) => Some(backend),
        };
        let mut load = trainer::memory_load(config, self.model, n_trainable, tokens, pages, gpu);
        if let Holder::Cpu { bf16 } = &mut load.holder {
            *bf16 = true; // As the random numbers are.
        }
        memory::predict(self.model, &load).total()
    }

    /// Refuses what this machine's memory cannot hold, before it is filled.
    fn require_memory(&self, n_trainable: usize) -> Result<(), Error> {
        let needed = self.predicted(n_trainable) as u64;
        let free = crate::machine::bytes("/proc/meminfo", "MemAvailable").unwrap_or(u64::MAX);
        match self.device {
            Device::Cpu if needed > free => Err(Error::TooLargeToMeasure { needed, free }),
            _ => Ok(()),
        }
    }
}

impl Work for Measuring<'_> {
    type Done = Result<Figures, Error>;

    fn on<O: Ops>(self, ops: O) -> Self::Done {
        let (args, config, model) = (self.args, self.config, self.model);
        let n_trainable = trainer::n_trainable(config, model)?;
        self.require_memory(n_trainable)?;
        let mut bench = Bench::new(ops, config, model, self.rows_per_page as usize, &self.lengths)?;
        let start_mib = process::peak_mib();
        let mut loss = f64::NAN;
        for _ in 0..WARM_UP.min(args.steps - 1) {
            bench.step()?;
        }
        let _ = parts::take();
        let (mut wall, mut cpu) = (Vec::new(), Vec::new());
        for _ in 0..args.steps {
            let (start, used) = (Instant::now(), process::cpu_time());
            loss = bench.step()?.loss;
            wall.push(start.elapsed());
            cpu.extend(process::cpu_time().zip(used).map(|(now, before)| now.saturating_sub(before)));
        }
        // A device that computes later has its parts measured apart: waiting for each would make the step slower.
        if let Some(waiter) = bench.ops().waiter() {
            parts::wait_with(waiter);
            let _ = parts::take();
            (0..args.steps).try_for_each(|_| bench.step().map(drop))?;
        }
        let parts = Part::ALL.iter().zip(parts::take());
        let lengths: Vec<usize> = self.lengths.iter().copied().cycle().take(config.train.global_batch_size).collect();
        let useful_gflop = lengths.iter().map(|&length| flop::useful(model, 1, length)).sum::<f64>() / 1e9;
        let (wall, cpu) = (Spread::of(wall), (!cpu.is_empty()).then(|| Spread::of(cpu)));
        let gflop_per_second = useful_gflop / wall.median * 1e3;
        let precision = precision(args.precision, config);
        let peak = peak::tflops(args.peak_tflops, self.device, precision);
        let peak_mib = process::peak_mib();
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        Ok(Figures {
            checkpointing: self.checkpointing.key().to_owned(),
            precision: format!("{precision:?}").to_lowercase(),
            device: device_name(self.device),
            threads: bench.threads(),
            rows: lengths.len(),
            rows_per_page: self.rows_per_page,
            rows_per_second: lengths.len() as f64 / wall.median * 1e3,
            lengths,
            trainable: bench.n_trainable(),
            steps: args.steps,
            wall_ms_median: wall.median,
            wall_ms_min: wall.min,
            cpu_ms_median: cpu.as_ref().map(|cpu| cpu.median),
            cpu_ms_min: cpu.map(|cpu| cpu.min),
            useful_gflop,
            gflop_per_second,
            share_of_peak: peak.map(|peak| gflop_per_second / 1e3 / peak),
            peak_mib,
            peak_above_start_mib: peak_mib.zip(start_mib).map(|(peak, start)| peak - start),
            device_mib: bench.ops().device_memory().map(mib),
            predicted_mib: mib(self.predicted(n_trainable) as u64),
            loss,
            parts_ms: parts.map(|(part, time)| (part.name().to_owned(), ms(time) / f64::from(args.steps))).collect(),
        })
    }
}

/// Median and least of some times, in milliseconds.
struct Spread {
    median: f64,
    min: f64,
}

impl Spread {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort();
        Self { median: ms(times[times.len() / 2]), min: ms(times[0]) }
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn table(preset: Preset, figures: &[Figures]) -> String {
    let mut text = String::new();
    let Some(first) = figures.first() else { return text };
    let _ = writeln!(
        text,
        "{} on {}: {}, {} threads, {} rows, {} trained weights; {} steps after {WARM_UP}, a process for each column\n",
        preset.key(),
        first.device,
        first.precision,
        first.threads,
        first.rows,
        first.trainable,
        first.steps,
    );
    let mut line = |name: &str, cell: &dyn Fn(&Figures) -> String| {
        let cells: String = figures.iter().map(|f| format!("{:>12}", cell(f))).collect();
        let _ = writeln!(text, "{name:<26}{cells}");
    };
    let known = |found: Option<f64>| found.map_or("unknown".to_owned(), |found| format!("{found:.0}"));
    line("checkpointing", &|f| f.checkpointing.clone());
    line("rows that show a page", &|f| f.rows_per_page.to_string());
    line("tokens", &|f| f.lengths.iter().sum::<usize>().to_string());
    line("useful GFLOP a step", &|f| format!("{:.1}", f.useful_gflop));
    line("ms a step, median", &|f| format!("{:.1}", f.wall_ms_median));
    line("ms a step, least", &|f| format!("{:.1}", f.wall_ms_min));
    line("CPU ms a step, median", &|f| known(f.cpu_ms_median));
    line("rows/s", &|f| format!("{:.2}", f.rows_per_second));
    line("useful GFLOP/s", &|f| format!("{:.1}", f.gflop_per_second));
    if first.share_of_peak.is_some() {
        line("  of the peak, %", &|f| f.share_of_peak.map_or(String::new(), |share| format!("{:.1}", 100.0 * share)));
    }
    line("peak memory, MiB", &|f| known(f.peak_mib));
    line("  above the start, MiB", &|f| known(f.peak_above_start_mib));
    if first.device_mib.is_some() {
        line("GPU memory, MiB", &|f| known(f.device_mib));
    }
    line("  predicted, MiB", &|f| format!("{:.0}", f.predicted_mib));
    for part in 0..first.parts_ms.len() {
        line(&format!("  {}, ms", first.parts_ms[part].0), &|f| format!("{:.1}", f.parts_ms[part].1));
    }
    text
}
