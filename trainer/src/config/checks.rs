//! What the values of a config must satisfy, beyond their types.
//! It never stops at the first problem: all are reported at once.

use super::{Config, DataConfig, LoraConfig, OnNonfinite, Shuffle, TargetModules, TrainConfig};
use crate::schedule::LrScheduler;

/// A key, as `section.key`; whether its value is fine; and what to say if not.
type Rule = (&'static str, bool, &'static str);

const AT_LEAST_1: &str = "must be at least 1";
const POSITIVE: &str = "must be a positive number";
const NAMES: &str = "must name at least one, none of them empty";
const NO_EVAL: &str = "needs `eval`: there is nothing to evaluate";

/// Every rule that `config` breaks, as key and problem; none: it can be run.
pub(super) fn problems(config: &Config) -> impl Iterator<Item = (&'static str, &'static str)> {
    let rules = [
        run(config),
        data(&config.data, config.train.micro_batch_size),
        lora(&config.lora),
        length(&config.train),
        optimizer(&config.train),
    ];
    rules.into_iter().flatten().filter(|(_, holds, _)| !holds).map(|(key, _, problem)| (key, problem))
}

fn run(config: &Config) -> Vec<Rule> {
    vec![
        ("output_dir", !config.output_dir.as_os_str().is_empty(), "must name a folder"),
        ("model.path", !config.model.path.is_empty(), "must name a folder or a hub id"),
        ("checkpoint.every_steps", config.checkpoint.every_steps > 0, AT_LEAST_1),
        ("checkpoint.keep", config.checkpoint.keep > 0, AT_LEAST_1),
        ("log.every_steps", config.log.every_steps > 0, AT_LEAST_1),
    ]
}

fn data(data: &DataConfig, micro_batch_size: usize) -> Vec<Rule> {
    let together = data.group_by_page.unwrap_or(1);
    let own = data.shuffle == Shuffle::Own;
    let evaluates = data.eval.is_some();
    let replays = data.shuffle == Shuffle::Hf;
    vec![
        ("data.train", all_named(&data.train), NAMES),
        ("data.eval", data.eval.as_deref().is_none_or(all_named), NAMES),
        ("data.eval", !evaluates || data.eval_every.is_some(), "needs `eval_every`, the steps between evaluations"),
        ("data.eval_rows", evaluates || data.eval_rows.is_none(), NO_EVAL),
        ("data.eval_rows", data.eval_rows != Some(0), AT_LEAST_1),
        ("data.eval_every", evaluates || data.eval_every.is_none(), NO_EVAL),
        ("data.eval_every", data.eval_every != Some(0), AT_LEAST_1),
        ("data.replay_ranks", replays || data.replay_ranks.is_none(), "is only for shuffle = \"hf\"; take it out"),
        ("data.replay_ranks", data.replay_ranks != Some(0), AT_LEAST_1),
        ("data.group_by_page", together > 0, AT_LEAST_1),
        ("data.group_by_page", together <= micro_batch_size.max(1), "must be at most `train.micro_batch_size`"),
        ("data.group_by_page", own || data.group_by_page.is_none(), "is only for shuffle = true; take it out"),
        (
            "data.group_by_length",
            !replays || data.group_by_length.is_none(),
            "would not replay shuffle = \"hf\"; take it out",
        ),
        ("data.max_seq_len", data.max_seq_len > 0, AT_LEAST_1),
    ]
}

fn lora(lora: &LoraConfig) -> Vec<Rule> {
    let targets = match &lora.target_modules {
        TargetModules::AllLinear(_) => true,
        TargetModules::Suffixes(names) => all_named(names),
    };
    vec![
        ("lora.r", lora.r > 0, AT_LEAST_1),
        ("lora.alpha", positive(lora.alpha), POSITIVE),
        ("lora.dropout", (0.0..1.0).contains(&lora.dropout), "must be in [0, 1)"),
        ("lora.target_modules", targets, NAMES),
    ]
}

fn length(train: &TrainConfig) -> Vec<Rule> {
    let (global, micro) = (train.global_batch_size, train.micro_batch_size);
    let both = train.epochs.is_some() && train.max_steps.is_some();
    let neither = train.epochs.is_none() && train.max_steps.is_none();
    vec![
        ("train.global_batch_size", global > 0, AT_LEAST_1),
        ("train.global_batch_size", micro == 0 || global % micro == 0, "must be a multiple of `micro_batch_size`"),
        ("train.micro_batch_size", micro > 0, AT_LEAST_1),
        ("train.epochs", train.epochs.is_none_or(positive), POSITIVE),
        ("train.max_steps", train.max_steps != Some(0), AT_LEAST_1),
        ("train.max_steps", !both, "and `epochs` both say how long to train; take one out"),
        ("train", !neither, "needs `epochs` or `max_steps`"),
    ]
}

fn optimizer(train: &TrainConfig) -> Vec<Rule> {
    let ratio = train.warmup_ratio.unwrap_or(0.0);
    let both = train.warmup_ratio.is_some() && train.warmup_steps.is_some();
    let skips = train.on_nonfinite == Some(OnNonfinite::Skip);
    let limit = train.max_skipped_steps;
    let ignored = train.lr_scheduler == LrScheduler::Constant && (ratio > 0.0 || train.warmup_steps > Some(0));
    vec![
        ("train.learning_rate", positive(train.learning_rate), POSITIVE),
        ("train.lr_scheduler", !ignored, "has no warm-up; use \"constant_with_warmup\" or take the warm-up out"),
        ("train.warmup_ratio", (0.0..=1.0).contains(&ratio), "must be in [0, 1]"),
        ("train.warmup_steps", !both, "and `warmup_ratio` both say how long to warm up; take one out"),
        ("train.weight_decay", train.weight_decay == 0.0 || positive(train.weight_decay), "must not be negative"),
        ("train.max_grad_norm", train.max_grad_norm > 0.0, "must be positive; `inf` never clips"),
        ("train.betas", train.betas.iter().all(|beta| (0.0..1.0).contains(beta)), "must both be in [0, 1)"),
        ("train.eps", positive(train.eps), POSITIVE),
        ("train.on_nonfinite", !skips || limit.is_some(), "needs `max_skipped_steps`, beyond which the run stops"),
        ("train.max_skipped_steps", skips || limit.is_none(), "is only for on_nonfinite = \"skip\"; take it out"),
        ("train.max_skipped_steps", limit != Some(0), "must be at least 1; on_nonfinite = \"stop\" skips none"),
    ]
}

fn positive(value: f64) -> bool {
    value > 0.0 && value.is_finite()
}

fn all_named(names: &[String]) -> bool {
    !names.is_empty() && names.iter().all(|name| !name.is_empty())
}
