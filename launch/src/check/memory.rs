//! What a rank's memory will hold, by part, beside what this machine has. The figures are computed, not measured.

use model::Checkpointing;
use model::engine::Backend;
use model::memory::{Holder, Load, Memory, predict};

use super::{Finding, Subject};
use crate::machine;

/// The step's peak with rows as long as they may be, and on a CPU whether the machine has it.
pub(super) fn check(subject: &mut Subject) -> Vec<Finding> {
    let (Some(config), Some(model)) = (&subject.config, &subject.model) else { return Vec::new() };
    let (micro, longest) = (config.train.micro_batch_size, config.data.max_seq_len);
    // The least is rows of nothing but a page; no run is smaller.
    let [Some(most), Some(least)] = [longest, model.mm_tokens_per_image.min(longest)]
        .map(|tokens| Some(predict(model, &load(subject, micro, tokens)?)))
    else {
        return Vec::new();
    };
    let of = if subject.args.gpus.is_some() { "a GPU, predicted and not measured" } else { "a rank" };
    let mut found = vec![Finding::ok(format!(
        "{} of {of}, if all {micro} rows of a micro-batch have {longest} tokens; {} if they are little more than a page",
        gb(most.total()),
        gb(least.total())
    ))];
    found.push(Finding::ok(parts(&most)));
    if let (None, Some(available)) = (subject.args.gpus, available()) {
        let ranks = subject.args.n_workers() as usize;
        found.extend(short(ranks, most.total(), least.total(), available));
    }
    found
}

/// A table of the peak: rows a micro-batch by what is recomputed, for rows of a page and 100 tokens of text.
pub(super) fn table(subject: &Subject) -> Option<String> {
    let model = subject.model.as_ref()?;
    let tokens = model.mm_tokens_per_image + 100;
    let mut page = format!("GB at the peak of a step, rows of {tokens} tokens with a page each\n\n");
    page.push_str("rows a micro-batch      none    vision     block\n");
    for rows in [1, 2, 4, 8, 16, 32] {
        page.push_str(&format!("{rows:<18}"));
        for checkpointing in [Checkpointing::None, Checkpointing::Vision, Checkpointing::Block] {
            let memory = predict(model, &Load { checkpointing, ..load(subject, rows, tokens)? });
            page.push_str(&format!("{:>10.2}", memory.total() as f64 / 1e9));
        }
        page.push('\n');
    }
    Some(page)
}

/// Micro-batches of so many rows, of so many tokens and a page each.
fn load(subject: &Subject, rows: usize, tokens: usize) -> Option<Load> {
    let (config, model) = (subject.config.as_ref()?, subject.model.as_ref()?);
    let gpu = backend(subject);
    let mut load = trainer::memory_load(config, model, subject.n_trainable?, rows * tokens, rows, gpu);
    match &mut load.holder {
        Holder::Cpu { bf16 } => *bf16 |= subject.bf16_base,
        Holder::Gpu { nccl, .. } => *nccl = gpu == Some(Backend::Cuda) && subject.n_ranks() > 1,
    }
    Some(load)
}

/// What GPUs are reached through, in a build that has it; none on the CPU.
fn backend(subject: &Subject) -> Option<Backend> {
    let asked = subject.args.backend;
    subject.args.gpus.map(|_| Backend::of_build(asked).unwrap_or(asked.unwrap_or(Backend::Cuda)))
}

fn parts(memory: &Memory) -> String {
    memory.parts().map(|(name, bytes)| format!("{name} {}", gb(bytes))).join(", ")
}

fn gb(bytes: usize) -> String {
    format!("{:.2} GB", bytes as f64 / 1e9)
}

/// Where all ranks together need more than there is.
fn short(ranks: usize, most: usize, least: usize, available: usize) -> Option<Finding> {
    let next = "a smaller micro_batch_size, gradient_checkpointing = \"block\" or fewer ranks need less";
    let there_is = format!("{ranks} ranks on a machine with {} free", gb(available));
    if ranks * least > available {
        let error = crate::Error::Memory { needed: gb(ranks * least), there_is, next };
        return Some(Finding::error(error));
    }
    let warning = || Finding::warning(format!("long rows need {}: {there_is}", gb(ranks * most)), next);
    (ranks * most > available).then(warning)
}

/// Bytes that this machine could give to new processes; none where the system does not tell.
fn available() -> Option<usize> {
    usize::try_from(machine::bytes("/proc/meminfo", "MemAvailable")?).ok()
}

#[cfg(test)]
mod tests;
