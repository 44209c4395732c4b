use proptest::prelude::*;

use super::*;

const CARD: &str = r#"seed = 42
output_dir = "runs/medgemma-ecg"

[model]
path = "google/medgemma-4b-it"
revision = "main"

[data]
train = "PULSE-ECG/ECGInstruct"
shuffle = true
max_seq_len = 2048
loss_on = "all"
double_bos = false
keep_image_marker = false

[lora]
r = 32
alpha = 64
dropout = 0.05
target_modules = "all-linear"

[train]
global_batch_size = 192
micro_batch_size = 4
learning_rate = 1.2e-5
lr_scheduler = "cosine"
warmup_ratio = 0.1
weight_decay = 0.005
max_grad_norm = 1.0
betas = [0.9, 0.999]
eps = 1e-8
epochs = 1.0
precision = "bf16"
gradient_checkpointing = "block"
loss_norm = "global_tokens"

[checkpoint]
every_steps = 10
keep = 3

[log]
every_steps = 1
tensorboard = true
"#;

fn with(overrides: &[&str]) -> Result<Config, ConfigError> {
    let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
    Config::parse("card.toml", CARD, &overrides)
}

/// The card's config with one line replaced.
fn edited(line: &str, by: &str) -> Result<Config, ConfigError> {
    assert!(CARD.contains(line), "{line}");
    Config::parse("card.toml", &CARD.replace(line, by), &[])
}

#[track_caller]
fn check_refused(config: Result<Config, ConfigError>, expected: &[&str]) {
    let message = config.unwrap_err().to_string();
    for part in expected {
        assert!(message.contains(part), "{part:?} is not in\n{message}");
    }
}

#[test]
fn steps_that_are_not_finite_may_be_skipped_within_a_limit() {
    check_refused(with(&["train.on_nonfinite=skip"]), &["`on_nonfinite` needs `max_skipped_steps`"]);
    check_refused(with(&["train.on_nonfinite=ignore"]), &["stop", "skip"]);
    let skips = ["train.on_nonfinite=skip", "train.max_skipped_steps=0"];
    check_refused(with(&skips), &["`max_skipped_steps` must be at least 1"]);
    let skipping = with(&[skips[0], "train.max_skipped_steps=3"]).unwrap();
    assert_eq!(skipping.fingerprint(), with(&[]).unwrap().fingerprint(), "a run that stopped may go on so");
    assert_eq!(Config::parse("again", &skipping.to_toml(), &[]).unwrap(), skipping);
}

#[test]
fn the_cards_run_is_read_as_written() {
    let card = with(&[]).unwrap();
    assert_eq!((card.seed, card.lora.r, card.train.betas), (42, 32, [0.9, 0.999]));
    assert_eq!(card.data.train, ["PULSE-ECG/ECGInstruct"]);
    assert_eq!(card.lora.target_modules, TargetModules::AllLinear(AllLinear::AllLinear));
    assert_eq!(card.train.micro_batches(), 48);
    assert_eq!(card.train.total_steps(1_156_110), 6_022, "REFERENCE: optimizer steps of an epoch");
    assert_eq!(card.train.schedule(6_022).warmup_steps, 603);
}

#[test]
fn wrong_keys_are_shown_with_their_line_a_caret_and_the_nearest_key() {
    let message = edited("learning_rate = 1.2e-5", "learning_rat = 1.2e-5\nepocs = 2").unwrap_err().to_string();
    let expected = "\
card.toml:25:1: unknown key `learning_rat`; did you mean `learning_rate`?
   |
25 | learning_rat = 1.2e-5
   | ^^^^^^^^^^^^

card.toml:26:1: unknown key `epocs`; did you mean `epochs`?
   |
26 | epocs = 2
   | ^^^^^";
    assert_eq!(message, expected);
}

#[test]
fn problems_of_every_kind_are_found_at_once() {
    let edits = [
        ("seed = 42", "seed = \"x\""),
        ("revision = \"main\"", "revison = \"main\""),
        ("max_seq_len = 2048", ""),
        ("r = 32", "r = -1\nrank = 3"),
        ("dropout = 0.05", "dropout = 2.0"),
        ("\"cosine\"", "\"cosin\""),
        ("betas = [0.9, 0.999]", "betas = [0.9, \"x\"]"),
        ("keep = 3", "keep = 0"),
        ("[log]\nevery_steps = 1\n", ""),
    ];
    let text = edits.iter().fold(CARD.to_owned(), |text, (line, by)| {
        assert!(text.contains(line), "{line}");
        text.replacen(line, by, 1)
    });
    let overrides = ["data.loss_on=answers".to_owned(), "data.eval_rows=[]".to_owned(), "tran.x=1".to_owned()];
    let Err(ConfigError::Invalid { problems }) = Config::parse("card.toml", &text, &overrides) else { panic!() };
    let heads: Vec<&str> = problems.iter().filter_map(|problem| problem.lines().next()).collect();
    let expected = "\
card.toml:1:1: the key `log` is missing
card.toml:1:8: invalid type: string \"x\", expected u64
card.toml:6:1: unknown key `revison`; did you mean `revision`?
card.toml:8:1: the key `max_seq_len` is missing
card.toml:17:5: invalid value: integer `-1`, expected usize
card.toml:18:1: unknown key `rank`; did you mean `r`?
card.toml:20:11: `dropout` must be in [0, 1)
card.toml:27:16: unknown value `cosin`; did you mean `cosine`?
card.toml:31:15: invalid type: string \"x\", expected f64
card.toml:40:8: `keep` must be at least 1
card.toml:42:1: unknown key `tensorboard`; known here: every_steps, keep
command line: unknown value `answers`; known here: all, assistant
command line: invalid type: sequence, expected u64
command line: unknown key `tran`; did you mean `train`?";
    assert_eq!(heads.join("\n"), expected);
}

#[test]
fn wrong_names_types_and_texts_are_refused() {
    check_refused(
        edited("\"cosine\"", "\"cosin\""),
        &["card.toml:26:16: unknown value `cosin`; did you mean `cosine`?"],
    );
    check_refused(edited("\"bf16\"", "\"int4\""), &["unknown value `int4`; known here: bf16, f32"]);
    check_refused(
        edited("shuffle = true", "shuffle = \"torch\""),
        &["card.toml:10:11: expected true, false or \"hf\""],
    );
    check_refused(
        edited("train = \"PULSE-ECG/ECGInstruct\"", "train = 3"),
        &[":9:9: expected a text or a list of texts"],
    );
    check_refused(edited("\"all-linear\"", "\"all_linear\""), &["expected \"all-linear\" or a list"]);
    check_refused(edited("r = 32", "r = -1"), &["card.toml:17:5: invalid value: integer `-1`"]);
    check_refused(edited("seed = 42", "seed = 42\nseed = 43"), &["card.toml:2:1: duplicate key"]);
    check_refused(edited("[lora]", "[lora"), &["card.toml:16:6"]);
    check_refused(edited("[log]", "[logs]"), &["unknown key `logs`; did you mean `log`?"]);
    check_refused(Config::parse("empty.toml", "", &[]), &["empty.toml:1:1: the key `seed` is missing"]);
    check_refused(edited("[0.9, 0.999]", "[0.9]"), &["card.toml:30:9: invalid length 1"]);
}

#[test]
fn every_broken_value_is_reported_at_once() {
    let broken = [
        ("output_dir=", "`output_dir` must name a folder"),
        ("model.path=", "`path` must name a folder or a hub id"),
        ("data.train=[]", "`train` must name at least one, none of them empty"),
        ("data.eval=[\"\"]", "`eval` must name at least one, none of them empty"),
        ("data.eval_rows=0", "`eval_rows` must be at least 1"),
        ("data.replay_ranks=8", "`replay_ranks` is only for shuffle = \"hf\""),
        ("data.group_by_page=5", "`group_by_page` must be at most `train.micro_batch_size`"),
        ("data.max_seq_len=0", "`max_seq_len` must be at least 1"),
        ("lora.r=0", "`r` must be at least 1"),
        ("lora.alpha=-1", "`alpha` must be a positive number"),
        ("lora.dropout=1", "`dropout` must be in [0, 1)"),
        ("lora.target_modules=[]", "`target_modules` must name at least one"),
        ("train.global_batch_size=190", "`global_batch_size` must be a multiple of `micro_batch_size`"),
        ("train.learning_rate=nan", "`learning_rate` must be a positive number"),
        ("train.warmup_ratio=1.5", "`warmup_ratio` must be in [0, 1]"),
        ("train.weight_decay=-0.1", "`weight_decay` must not be negative"),
        ("train.max_skipped_steps=3", "`max_skipped_steps` is only for on_nonfinite"),
        ("train.max_grad_norm=0", "`max_grad_norm` must be positive"),
        ("train.betas=[0.9, 1.0]", "`betas` must both be in [0, 1)"),
        ("train.eps=0", "`eps` must be a positive number"),
        ("train.epochs=inf", "`epochs` must be a positive number"),
        ("checkpoint.every_steps=0", "`every_steps` must be at least 1"),
        ("checkpoint.keep=0", "`keep` must be at least 1"),
        ("log.every_steps=0", "`every_steps` must be at least 1"),
    ];
    let overrides: Vec<&str> = broken.iter().map(|(argument, _)| *argument).collect();
    let expected: Vec<&str> = broken.iter().map(|(_, problem)| *problem).collect();
    check_refused(with(&overrides), &expected);
    for (argument, problem) in broken {
        check_refused(with(&[argument]), &[problem, "--set | "]);
    }
}

#[test]
fn keys_that_contradict_each_other_are_refused() {
    check_refused(
        edited("epochs = 1.0", "epochs = 1.0\nmax_steps = 5"),
        &[":33:13: `max_steps` and `epochs` both say"],
    );
    check_refused(edited("epochs = 1.0\n", ""), &["card.toml:22:1: `train` needs `epochs` or `max_steps`"]);
    check_refused(
        edited("warmup_ratio = 0.1", "warmup_ratio = 0.1\nwarmup_steps = 5"),
        &["both say how long to warm up"],
    );
    check_refused(
        with(&["train.lr_scheduler=constant"]),
        &["`lr_scheduler` has no warm-up; use \"constant_with_warmup\""],
    );
    for grouped in ["data.group_by_page=2", "data.group_by_length=true"] {
        check_refused(with(&["data.shuffle=hf", grouped]), &["shuffle = "]);
        with(&[grouped]).unwrap();
    }
    check_refused(with(&["data.eval_every=5"]), &["`eval_every` needs `eval`"]);
    check_refused(with(&["data.eval=rows.parquet"]), &["`eval` needs `eval_every`"]);
    assert_eq!(edited("warmup_ratio = 0.1\n", "").unwrap().train.schedule(10).warmup_steps, 0, "neither means none");
}

#[test]
fn the_command_line_overrides_the_file() {
    let config = with(&["train.max_steps=5", "seed = 7", "data.include=ptb-xl/", "data.train=[\"a\", \"b\"]"]).unwrap();
    assert_eq!((config.train.max_steps, config.train.epochs), (Some(5), None), "max_steps takes epochs out");
    assert_eq!((config.seed, config.data.include.as_deref()), (7, Some("ptb-xl/")));
    assert_eq!(config.data.train, ["a", "b"]);
    let last = with(&["train.max_steps=5", "train.epochs=2", "train.warmup_steps=3"]).unwrap().train;
    assert_eq!((last.max_steps, last.epochs, last.warmup_ratio), (None, Some(2.0), None), "the last one counts");
    assert_eq!(with(&["data.shuffle=hf", "data.replay_ranks=8"]).unwrap().data.shuffle, Shuffle::Hf);

    let expected = "\
command line: unknown key `max_step`; did you mean `max_steps`?
      |
--set | train.max_step=5
      |       ^^^^^^^^";
    assert_eq!(with(&["seed=7", "train.max_step=5"]).unwrap_err().to_string(), expected);
    check_refused(with(&["train.max_steps=soon"]), &["command line: invalid type: string \"soon\""]);
    check_refused(with(&["max_steps"]), &["command line: ", "--set | max_steps"]);
    check_refused(with(&["a b=1"]), &["command line: ", "--set | a b=1"]);
    check_refused(with(&["train=1"]), &["command line: invalid type: integer `1`, expected struct TrainConfig"]);
}

#[test]
fn a_config_is_read_from_a_file_of_bounded_size() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run.toml");
    check_refused(Config::load(&path, &[]), &["run.toml: No such file"]);
    storage::publish_file(&path, CARD.as_bytes()).unwrap();
    assert_eq!(Config::load(&path, &[]).unwrap(), with(&[]).unwrap());
    storage::publish_file(&path, &vec![b'#'; (1 << 20) + 1]).unwrap();
    check_refused(Config::load(&path, &[]), &["larger than 1048576 bytes"]);
    storage::publish_file(&path, b"\xff\xfe").unwrap();
    check_refused(Config::load(&path, &[]), &["run.toml", "UTF-8"]);
}

#[test]
fn the_fingerprint_covers_what_determines_the_numbers_and_nothing_else() {
    let card = with(&[]).unwrap().fingerprint();
    for same in
        ["output_dir=elsewhere", "checkpoint.keep=9", "log.tensorboard=false", "train.gradient_checkpointing=none"]
    {
        assert_eq!(with(&[same]).unwrap().fingerprint(), card, "{same}");
    }
    assert_eq!(with(&["data.eval=x", "data.eval_every=9"]).unwrap().fingerprint(), card);
    for other in [
        "seed=1",
        "model.path=x",
        "data.include=x",
        "data.group_by_page=2",
        "data.group_by_length=true",
        "lora.r=8",
        "train.eps=1e-7",
        "train.max_steps=3",
        "train.precision=f32",
    ] {
        assert_ne!(with(&[other]).unwrap().fingerprint(), card, "{other}");
    }
}

#[test]
fn as_many_ranks_as_micro_batches_can_work() {
    let train = with(&[]).unwrap().train;
    for world_size in [1, 5, 48] {
        train.require_work_for(world_size).unwrap();
    }
    let refused = train.require_work_for(49).unwrap_err().to_string();
    assert!(refused.contains("49 ranks cannot share 48 micro-batches"), "{refused}");
}

proptest! {
    #[test]
    fn a_resolved_config_reads_back_as_itself(
        seed in 0..=i64::MAX as u64,
        rates in proptest::array::uniform4(1e-300_f64..0.99),
        shuffle in prop_oneof![Just(Shuffle::FileOrder), Just(Shuffle::Own), Just(Shuffle::Hf)],
        texts in proptest::collection::vec(".+", 1..4),
        steps in proptest::option::of(1..u32::MAX as u64),
    ) {
        let mut config = with(&[]).unwrap();
        config.seed = seed;
        config.output_dir = PathBuf::from(&texts[0]);
        config.data.include = Some(texts[0].clone());
        config.data.train = texts.clone();
        config.data.shuffle = shuffle;
        config.lora.dropout = rates[0];
        config.lora.target_modules = TargetModules::Suffixes(texts);
        config.train.learning_rate = rates[1];
        config.train.betas = [rates[2], rates[3]];
        config.train.max_steps = steps;
        config.train.epochs = steps.is_none().then_some(rates[1]);
        let read = Config::parse("config.toml", &config.to_toml(), &[]).unwrap();
        prop_assert_eq!(read.fingerprint(), config.fingerprint());
        prop_assert_eq!(read, config);
    }

    #[test]
    fn no_text_makes_it_panic(text in "(?s).{0,200}", argument in ".{0,40}", cut in 0..CARD.len()) {
        let _ = Config::parse("any.toml", &text, std::slice::from_ref(&argument));
        let _ = Config::parse("any.toml", &format!("{}{text}{}", &CARD[..cut], &CARD[cut..]), &[argument]);
    }
}
