use trainer::config::{LossNorm, LossOn, Shuffle};

use super::*;

/// A shipped config; a clone does not hold the models they name.
fn shipped(name: &str, set: &[&str]) -> Config {
    let set: Vec<String> = set.iter().map(|&text| text.to_owned()).collect();
    Config::load(&Path::new(CONFIGS).join(name), &set).unwrap()
}

const CONFIGS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../configs");

/// The tiny config on a model that is here.
fn args(output_dir: Option<&str>) -> RunArgs {
    let set = vec![format!("model.path={}", json!(CONFIGS))];
    RunArgs { set, output_dir: output_dir.map(Into::into), from_scratch: false }
}

#[test]
fn the_shipped_config_is_the_model_cards_run() {
    let config = shipped("medgemma.toml", &[]);
    assert_eq!((config.lora.r, config.lora.alpha, config.lora.dropout), (32, 64.0, 0.05));
    assert_eq!((config.train.global_batch_size, config.train.micro_batches()), (192, 48));
    assert_eq!((config.train.learning_rate, config.data.max_seq_len), (1.2e-5, 2048));
    assert_eq!(config.train.total_steps(1_156_110), 6022);
    config.train.require_work_for(8).unwrap();
}

#[test]
fn as_published_differs_only_in_the_scripts_quirks() {
    let published = shipped("medgemma-as-published.toml", &[]);
    assert_eq!(published.train.loss_norm, LossNorm::MicroMean);
    assert_eq!((published.data.shuffle, published.data.replay_ranks), (Shuffle::Hf, Some(8)));
    assert_eq!((published.data.loss_on, published.data.include.as_deref()), (LossOn::All, Some("ptb-xl/")));
    assert!(published.data.double_bos && published.data.keep_image_marker);

    let mut done_right = shipped("medgemma.toml", &[]);
    done_right.output_dir.clone_from(&published.output_dir);
    done_right.data.clone_from(&published.data);
    done_right.train.loss_norm = published.train.loss_norm;
    assert_eq!(done_right, published);
}

#[test]
fn the_tiny_config_runs_on_what_the_demo_leaves() {
    let config = shipped("tiny.toml", &["train.max_steps=20"]);
    assert_eq!((config.model.path.as_str(), config.train.max_steps), ("demo/base", Some(20)));
    config.train.require_work_for(2).unwrap();
}

#[test]
fn an_output_dir_of_any_name_replaces_the_configs() {
    let path = Path::new(CONFIGS).join("tiny.toml");
    for dir in ["runs/other", "123", "with space and \"quotes\"", "back\\slash", "Gro\u{308}ße"] {
        assert_eq!(load(&path, &args(Some(dir))).unwrap().0.output_dir, Path::new(dir));
    }
}

#[cfg(not(feature = "hub"))]
#[test]
fn a_hub_id_is_refused_with_the_command_that_fetches_it() {
    let path = Path::new(CONFIGS).join("medgemma.toml");
    let error = load(&path, &RunArgs { set: Vec::new(), output_dir: None, from_scratch: false }).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("hf download google/medgemma-4b-it"), "{error}");
    assert!(error.to_string().contains("--features hub"), "{error}");
}

#[test]
fn the_resolved_config_is_in_the_run_folder() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = shipped("tiny.toml", &["seed=7"]);
    config.output_dir = dir.path().join("runs/x");
    let resolved = open(&config, true).unwrap();
    assert_eq!(resolved, config.output_dir.join("config.toml"));
    assert_eq!(Config::load(&resolved, &[]).unwrap(), config);
}
