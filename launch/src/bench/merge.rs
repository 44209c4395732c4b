//! `ecg-train bench merge`: a merge at MedGemma's true size, on random weights, beside a plain copy and PEFT's own merge.
//! It never leaves its files behind, and never counts one process's memory as another's.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use lora::{AdapterConfig, Layout, MergeOptions, Rounding, Targets};
use model::ModelConfig;
use serde::{Deserialize, Serialize};

use super::process;
use crate::cli::{BenchMergeArgs, MergeShape};
use crate::{Error, print, say};

/// As transformers' default.
const SHARD_BYTES: u64 = 5_000_000_000;

/// One merge in a process of its own.
#[derive(Debug, Serialize, Deserialize)]
struct Merge {
    seconds: f64,
    cpu_seconds: Option<f64>,
    peak_mib: Option<f64>,
    /// To read every number of the base once, for its hashes.
    base_read_seconds: f64,
    summary: String,
}

/// What PEFT took for the same (merge.py).
#[derive(Debug, Serialize, Deserialize)]
struct Peft {
    packages: String,
    import_s: f64,
    load_s: f64,
    merge_s: f64,
    save_s: f64,
    /// Load, merge and save.
    seconds: f64,
    /// The same on processors, of all threads.
    cpu_seconds: f64,
    /// Until what it saved is on the disk, as ours is.
    sync_s: Option<f64>,
    peak_mib: f64,
}

#[derive(Debug, Serialize)]
struct Figures {
    parameters: usize,
    trained: usize,
    modules: usize,
    gb: f64,
    threads: usize,
    /// To read the base's files, write their bytes to others and sync those.
    copy_seconds: f64,
    merge: Merge,
    peft: Option<Peft>,
}

/// Makes base and adapter, merges them, and prints what it took.
///
/// # Errors
/// The folder has no room or cannot be written, or a measuring process fails.
pub fn run(args: &BenchMergeArgs) -> Result<(), Error> {
    if let Some(dir) = &args.here {
        let figures = measure(&Folder::existing(dir))?;
        print(format!("{}\n", serde_json::to_string(&figures).expect("numbers and texts")).as_bytes());
        return Ok(());
    }
    let text = match args.shape {
        MergeShape::Medgemma => include_str!("medgemma.json"),
        MergeShape::Tiny => include_str!("tiny.json"),
    };
    let model = ModelConfig::parse("the bench's shape".into(), text)?;
    let folder = Folder::make(&args.dir.clone().unwrap_or_else(std::env::temp_dir))?;
    say(&format!("making a base of {} random numbers in {}", model.n_parameters(), folder.dir.display()));
    let layout = folder.fill(&model, text, args.r as usize)?;
    say("copying it");
    let (copy_seconds, bytes) = folder.copy()?;
    say("merging it");
    let merge = folder.merge()?;
    folder.remove("merged")?;
    let peft = match std::env::var_os("ECG_TRAIN_PYTHON") {
        Some(python) => {
            say("merging it with PEFT");
            Some(folder.peft(Path::new(&python))?)
        }
        None => None,
    };
    let figures = Figures {
        parameters: model.n_parameters(),
        trained: layout.len(),
        modules: layout.modules().len(),
        gb: bytes as f64 / 1e9,
        threads: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        copy_seconds,
        merge,
        peft,
    };
    let text = if args.json { serde_json::to_string(&figures).expect("numbers and texts") } else { table(&figures) };
    print(format!("{}\n", text.trim_end()).as_bytes());
    Ok(())
}

/// The bench's files; removed when dropped.
struct Folder {
    dir: PathBuf,
    made: bool,
}

impl Folder {
    fn existing(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), made: false }
    }

    fn make(within: &Path) -> Result<Self, Error> {
        let dir = within.join(format!("ecg-train-bench-merge-{}", std::process::id()));
        storage::create_dir(&dir)?;
        Ok(Self { dir, made: true })
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn remove(&self, name: &str) -> Result<(), Error> {
        fs::remove_dir_all(self.at(name)).map_err(Error::file(&self.at(name), "remove"))
    }

    /// Base and adapter.
    fn fill(&self, model: &ModelConfig, config: &str, r: usize) -> Result<Layout, Error> {
        let [base, adapter] = ["base", "adapter"].map(|name| self.at(name));
        [&base, &adapter].into_iter().try_for_each(|dir| storage::create_dir(dir))?;
        storage::publish_file(&base.join("config.json"), config.as_bytes())?;
        lora::write_random_base(&base, shapes(model), SHARD_BYTES)?;
        let layout = Layout::new(model.modules(), r);
        let config = AdapterConfig {
            r,
            lora_alpha: 2.0 * r as f64,
            lora_dropout: 0.0,
            target_modules: Targets::AllLinear,
            base_model_name_or_path: String::new(),
        };
        lora::write_random_adapter(&adapter, &layout, &config)?;
        Ok(layout)
    }

    /// Seconds for the base's weights to other files of the same disk, and their bytes.
    fn copy(&self) -> Result<(f64, u64), Error> {
        let (base, copy) = (self.at("base"), self.at("copy"));
        storage::create_dir(&copy)?;
        let (begin, mut bytes) = (Instant::now(), 0);
        for entry in fs::read_dir(&base).map_err(Error::file(&base, "list"))? {
            let path = entry.map_err(Error::file(&base, "list"))?.path();
            let to = copy.join(path.file_name().unwrap_or_default());
            bytes += copy_file(&path, &to).map_err(Error::file(&to, "write"))?;
        }
        let seconds = begin.elapsed().as_secs_f64();
        self.remove("copy")?;
        Ok((seconds, bytes))
    }

    /// This program's merge, in a process of its own.
    fn merge(&self) -> Result<Merge, Error> {
        let failed = |source| Error::Process { what: "the measuring process", source };
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        command.args(["bench", "merge", "--here"]).arg(&self.dir);
        answer(&mut command, "bench merge --here")
    }

    fn peft(&self, python: &Path) -> Result<Peft, Error> {
        let mut command = Command::new(python);
        command.args(["-c", include_str!("merge.py")]);
        command.args(["base", "adapter", "merged-by-peft"].map(|name| self.at(name)));
        command.args(["5GB"]).env("HF_HUB_OFFLINE", "1").env("PYTHONDONTWRITEBYTECODE", "1");
        let mut peft: Peft = answer(&mut command, "PEFT's merge (ECG_TRAIN_PYTHON)")?;
        let (begin, out) = (Instant::now(), self.at("merged-by-peft"));
        for entry in fs::read_dir(&out).map_err(Error::file(&out, "list"))? {
            let path = entry.map_err(Error::file(&out, "list"))?.path();
            File::open(&path).and_then(|file| file.sync_all()).map_err(Error::file(&path, "sync"))?;
        }
        peft.sync_s = Some(begin.elapsed().as_secs_f64());
        Ok(peft)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.made {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// Every tensor of a model, in the shape in which it is stored.
fn shapes(model: &ModelConfig) -> BTreeMap<String, Vec<usize>> {
    let patch = model.vision.patch_size;
    let shape = |name: &str, [rows, columns]: [usize; 2]| match name {
        _ if name.ends_with("patch_embedding.weight") => vec![rows, 3, patch, patch],
        _ if rows == 1 => vec![columns],
        _ => vec![rows, columns],
    };
    model.tensors().into_iter().map(|(name, matrix)| (name.clone(), shape(&name, matrix))).collect()
}

fn copy_file(from: &Path, to: &Path) -> std::io::Result<u64> {
    let (mut from, mut to) = (File::open(from)?, File::create(to)?);
    let (mut buffer, mut bytes) = (vec![0; 8 << 20], 0);
    loop {
        match from.read(&mut buffer)? {
            0 => break,
            n => to.write_all(&buffer[..n])?,
        }
        bytes = from.metadata()?.len();
    }
    to.sync_all()?;
    Ok(bytes)
}

/// What a process prints last, as JSON.
fn answer<T: serde::de::DeserializeOwned>(command: &mut Command, name: &str) -> Result<T, Error> {
    let failed = |source| Error::Process { what: "the measuring process", source };
    let output = command.stderr(Stdio::inherit()).output().map_err(failed)?;
    if !output.status.success() {
        let exit_code = output.status.code().and_then(|code| u8::try_from(code).ok());
        return Err(Error::Step { command: name.to_owned(), exit_code: exit_code.unwrap_or(crate::error::LOST) });
    }
    let last = output.stdout.trim_ascii_end().rsplit(|&byte| byte == b'\n').next().unwrap_or_default();
    serde_json::from_slice(last).map_err(|error| failed(error.into()))
}

/// In this process.
fn measure(folder: &Folder) -> Result<Merge, Error> {
    let options = MergeOptions { dtype: None, max_shard_bytes: SHARD_BYTES, rounding: Rounding::Once };
    let [base, adapter, out] = ["base", "adapter", "merged"].map(|name| folder.at(name));
    let begin = Instant::now();
    let report = lora::merge(&base, &adapter, &out, options, &|_| String::new())?;
    let (seconds, peak_mib, cpu) = (begin.elapsed().as_secs_f64(), process::peak_mib(), process::cpu_time());
    let begin = Instant::now();
    ModelConfig::open(&base)?.open_base_read(&base)?;
    Ok(Merge {
        seconds,
        cpu_seconds: cpu.map(|time| time.as_secs_f64()),
        peak_mib,
        base_read_seconds: begin.elapsed().as_secs_f64(),
        summary: report.to_string(),
    })
}

fn table(figures: &Figures) -> String {
    let Figures { parameters, trained, modules, gb, threads, copy_seconds, merge, peft } = figures;
    let mib = |mib: Option<f64>| mib.map_or_else(String::new, |mib| format!("{mib:.0} MiB"));
    let mut page = format!(
        "{parameters} numbers ({gb:.2} GB), an adapter of {trained} on {modules} modules, {threads} threads\n\n\
         {:<34}{:>9}{:>9}{:>12}\n{:<34}{copy_seconds:>9.1}{:>9.2}\n",
        "",
        "seconds",
        "GB/s",
        "peak",
        "plain copy, synced",
        gb / copy_seconds,
    );
    let mut line = |what: &str, seconds: f64, peak: Option<f64>| {
        page.push_str(&format!("{what:<34}{seconds:>9.1}{:>9.2}{:>12}\n", gb / seconds, mib(peak)));
    };
    line("ecg-train merge", merge.seconds, merge.peak_mib);
    if let Some(peft) = peft {
        line("PEFT: load, merge, save", peft.seconds, Some(peft.peak_mib));
        if let Some(sync) = peft.sync_s {
            line("PEFT, synced", peft.seconds + sync, None);
        }
    }
    line("reading the base for its hashes", merge.base_read_seconds, None);
    if let Some(cpu) = merge.cpu_seconds {
        page.push_str(&format!("\nCPU of the merge: {cpu:.1} s; {}\n", merge.summary));
    }
    if let Some(Peft { packages, import_s, load_s, merge_s, save_s, seconds, cpu_seconds, .. }) = peft {
        let cpu = merge.cpu_seconds.map_or(f64::NAN, |ours| cpu_seconds / ours);
        page.push_str(&format!(
            "CPU of PEFT: {cpu_seconds:.1} s; load {load_s:.1} s, merge {merge_s:.1} s, save {save_s:.1} s, after {import_s:.1} s of imports; {packages}\n\
             PEFT takes {:.2} times as long, and {cpu:.2} times the CPU\n",
            seconds / merge.seconds
        ));
    }
    page
}
