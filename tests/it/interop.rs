//! Other programs' files are ours and ours are theirs: adapters and merged folders go both ways between ecg-train and
//! transformers with PEFT. What needs those packages runs where `ECG_TRAIN_PYTHON` names a Python that has them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use lora::base::BaseHashes;
use model::engine::{Cpu, Precision};
use model::generate::{GenerateRequest, Generator};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use crate::fixture::{self, Tensors};
use crate::forward::{self, Case, Rows, check_every_fourth, pages};
use crate::journey::succeed;
use crate::traces;

const CASES: [&str; 2] = ["case_a", "case_b"];

/// The batch of a case.
fn batch(name: &str) -> Rows {
    forward::rows(&Tensors::open(&format!("{name}/forward.safetensors")), "labels_notebook")
}

/// `ecg-train merge` of a case's base with an adapter folder.
fn merge(name: &str, adapter: &Path, out: &Path, dtype: &str) {
    let base = fixture::path(&format!("{name}/base"));
    let [base, adapter, out] = [&base, adapter, out].map(|dir| dir.to_str().unwrap());
    succeed(&["merge", "--base", base, "--adapter", adapter, "--out", out, "--dtype", dtype]);
}

/// f32: the reference differs by 9e-6 between adapter and merged weights (trace.json, `notes`). bf16: as in `forward`, two
/// forwards that round in other places differ by as much as the reference's bf16 differs from its f32 (`notes`; 0.25 is
/// enough for the fixtures); the weights themselves are equal byte for byte (lora/src/merge/tests.rs).
fn check_merged_logits(name: &str) {
    let expected = Tensors::open(&format!("{name}/merged.safetensors"));
    let trace = json(&format!("{name}/trace.json"));
    let bf16 = trace["notes"]["bf16_vs_fp32_max_logit_diff"].as_f64().unwrap().max(0.25);
    let dir = tempfile::tempdir().unwrap();
    for (dtype, key, precision, tolerance) in
        [("f32", "fp32.logits_every4", Precision::F32, 1e-4), ("bf16", "bf16.logits_every4", Precision::Bf16, bf16)]
    {
        let merged = dir.path().join(dtype);
        merge(name, &fixture::path(&format!("{name}/adapter_final")), &merged, dtype);
        let logits = Case::with_base(name, &merged, precision).logits(&batch(name));
        check_every_fourth(&format!("{name}: {dtype}"), batch(name), &logits, expected.get(key), tolerance);
    }
}

fn json(name: &str) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(fixture::path(name)).unwrap()).unwrap()
}

#[test]
fn merged_models_have_the_references_logits() {
    CASES.iter().for_each(|name| check_merged_logits(name));
}

/// The prompts of `generate.json` and the tokens that follow, up to where an answer ends.
fn prompts(name: &str, model: &str, ends: &[u32]) -> Vec<(GenerateRequest, Vec<u32>)> {
    let json = json(&format!("{name}/generate.json"));
    let numbers = |key: &str| -> Vec<Vec<u32>> { serde_json::from_value(json[model][key].clone()).unwrap() };
    let train = Tensors::open(&format!("{name}/train.safetensors"));
    let pool = train.get("pool.pixel_values");
    let pages: Vec<Vec<u8>> =
        pages(pool).pixels.chunks(3 * pool.shape[2] * pool.shape[3]).map(<[u8]>::to_vec).collect();
    let (padded, masks) = (numbers("input_ids_left_padded"), numbers("attention_mask"));
    let prompt = |row: usize| {
        let ids = padded[row].iter().zip(&masks[row]).filter(|(_, mask)| **mask == 1).map(|(&id, _)| id).collect();
        let pages = numbers("image_index")[row].iter().map(|&page| pages[page as usize].clone()).collect();
        let answer = numbers("new_tokens")[row].iter().copied().take_while(|id| !ends.contains(id)).collect();
        (GenerateRequest { input_ids: ids, pages }, answer)
    };
    (0..padded.len()).map(prompt).collect()
}

/// Greedy tokens of a model folder: each prompt alone, then as a row of a batch in which the other row sees another page.
fn check_generation(name: &str, model: &str, dir: &Path) {
    let generator = Generator::open(Cpu::new(Precision::F32), dir, None).unwrap();
    let answer = |requests: &[GenerateRequest]| generator.generate(requests, 12, &mut |_, _| {}).unwrap();
    let prompts = prompts(name, model, &generator.config().eos_token_ids);
    for (request, expected) in &prompts {
        assert_eq!(&answer(std::slice::from_ref(request))[0], expected, "{name}, {model}");
        for (other, _) in &prompts {
            let other = GenerateRequest { pages: other.pages.clone(), ..request.clone() };
            let alone = answer(std::slice::from_ref(&other)).remove(0);
            assert_eq!(answer(&[other, request.clone()]), [alone, expected.clone()], "{name}, {model}: batch");
        }
    }
}

fn check_greedy(name: &str) {
    check_generation(name, "base", &fixture::path(&format!("{name}/base")));
    let dir = tempfile::tempdir().unwrap();
    let merged = dir.path().join("merged");
    merge(name, &fixture::path(&format!("{name}/adapter_final")), &merged, "f32");
    check_generation(name, "merged", &merged);
}

#[test]
fn greedy_tokens_equal_the_references_alone_and_in_a_batch() {
    CASES.iter().for_each(|name| check_greedy(name));
}

/// Copies a folder; tensors of its safetensors files get other names.
fn copy_renamed(from: &Path, to: &Path, rename: &dyn Fn(&str) -> String) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        let bytes = match name {
            "model.safetensors.index.json" => rename_index(&bytes, rename),
            _ if name.ends_with(".safetensors") => {
                let file = SafeTensors::deserialize(&bytes).unwrap();
                safetensors::serialize(file.iter().map(|(key, view)| (rename(key), view)), None).unwrap()
            }
            _ => bytes,
        };
        storage::publish_file(&to.join(name), &bytes).unwrap();
    }
}

fn rename_index(bytes: &[u8], rename: &dyn Fn(&str) -> String) -> Vec<u8> {
    let mut index: serde_json::Value = serde_json::from_slice(bytes).unwrap();
    let files: BTreeMap<String, serde_json::Value> = serde_json::from_value(index["weight_map"].take()).unwrap();
    index["weight_map"] = files.into_iter().map(|(key, file)| (rename(&key), file)).collect();
    serde_json::to_vec(&index).unwrap()
}

/// Base and adapter under the names that `base` and `adapter` make of the fixtures' give the very same logits.
fn check_names(name: &str, base: &dyn Fn(&str) -> String, adapter: &dyn Fn(&str) -> String) {
    let dir = tempfile::tempdir().unwrap();
    let (base_dir, adapter_dir) = (dir.path().join("base"), dir.path().join("adapter"));
    copy_renamed(&fixture::path(&format!("{name}/base")), &base_dir, base);
    copy_renamed(&fixture::path(&format!("{name}/adapter_rand")), &adapter_dir, adapter);
    let mut renamed = Case::with_base(name, &base_dir, Precision::F32);
    renamed.adapt_from(&adapter_dir);
    let mut case = Case::open(name, Precision::F32);
    case.adapt("adapter_rand");
    assert_eq!(renamed.logits(&batch(name)), case.logits(&batch(name)), "{name}");
}

#[test]
fn bases_and_adapters_of_every_generation_of_names_give_the_same_logits() {
    let since_4_52 = |key: &str| match key.strip_prefix("language_model.model.") {
        Some(rest) => format!("model.language_model.{rest}"),
        None => format!("model.{key}"),
    };
    let since_5_8 = |key: &str| since_4_52(key).replace("vision_tower.vision_model.", "vision_tower.");
    let hub_adapter = |key: &str| {
        key.replace("model.model.language_model.", "model.language_model.model.")
            .replace("model.model.vision_tower.", "model.vision_tower.")
    };
    let adapter_since_5_8 = |key: &str| key.replace("vision_tower.vision_model.", "vision_tower.");
    for name in CASES {
        check_names(name, &str::to_owned, &hub_adapter);
        check_names(name, &since_4_52, &str::to_owned);
        check_names(name, &since_5_8, &adapter_since_5_8);
    }
}

/// The Python with the reference packages; `None`, said aloud, where nobody named one.
fn python() -> Option<PathBuf> {
    let python = std::env::var_os("ECG_TRAIN_PYTHON").map(PathBuf::from);
    if python.is_none() {
        eprintln!(
            "skipped: loading our files in transformers and PEFT themselves; to run it:\n  \
             ECG_TRAIN_PYTHON=$(tests/reference/environment.sh) cargo test --workspace --test it -- --nocapture interop"
        );
    }
    python
}

/// Writes an adapter and both merges of a case, has `interop.py` load them, and reads what PEFT wrote.
fn check_live(python: &Path, name: &str) {
    let dir = tempfile::tempdir().unwrap();
    let at = |file: &str| dir.path().join(file);
    let mut case = Case::open(name, Precision::F32);
    let (layout, flat, config) = case.adapt("adapter_final");
    let (model, json) = lora::write_adapter(&layout, &flat, &config);
    std::fs::create_dir(at("adapter")).unwrap();
    storage::publish_file(&at("adapter/adapter_model.safetensors"), &model).unwrap();
    storage::publish_file(&at("adapter/adapter_config.json"), &json).unwrap();
    let (_, hashes) = case.config.open_base_read(&fixture::path(&format!("{name}/base"))).unwrap();
    storage::publish_file(&at("adapter").join(BaseHashes::FILE), &hashes.to_json()).unwrap();
    merge(name, &at("adapter"), &at("merged_f32"), "f32");
    merge(name, &at("adapter"), &at("merged_bf16"), "bf16");
    let merged = Case::with_base(name, &at("merged_f32"), Precision::F32);
    let logits = [("adapter", case.logits(&batch(name))), ("merged_f32", merged.logits(&batch(name)))];
    write_logits(&at("logits.safetensors"), &logits, &batch(name), case.config.text.vocab_size);

    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/reference/interop.py");
    let args = [script.as_ref(), fixture::path(name).as_os_str(), dir.path().as_os_str()].map(|arg| arg.to_owned());
    let output = Command::new(python)
        .args(args)
        .env("HF_HUB_OFFLINE", "1")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    println!("{name}\n{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(lora::read_adapter(&at("peft_adapter"), &layout).unwrap().0, flat, "{name}: PEFT's file, read by us");
}

fn write_logits(file: &Path, logits: &[(&str, Vec<f32>)], rows: &Rows, vocab_size: usize) {
    let shape = vec![rows.n_rows, rows.seq_len, vocab_size];
    let bytes: Vec<Vec<u8>> = logits.iter().map(|(_, x)| x.iter().flat_map(|v| v.to_le_bytes()).collect()).collect();
    let view = |bytes| TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap();
    let views = logits.iter().zip(&bytes).map(|((name, _), bytes)| (*name, view(bytes)));
    storage::publish_file(file, &safetensors::serialize(views, None).unwrap()).unwrap();
}

#[test]
fn transformers_and_peft_load_what_we_write() {
    let Some(python) = python() else { return };
    CASES.iter().for_each(|name| check_live(&python, name));
}

/// Everything that is held for the fixtures holds for a case folder that `tests/reference/compare.py` has just made.
#[test]
fn a_case_made_elsewhere_is_followed_as_well() {
    let Some(name) = std::env::var("ECG_TRAIN_CASE_DIR").ok() else {
        eprintln!(
            "skipped: a random new configuration; to run it: tests/reference/compare.py --seed N (README.md there)"
        );
        return;
    };
    forward::check_intermediates(&Case::open(&name, Precision::F32));
    forward::check_losses(&Case::open(&name, Precision::F32));
    forward::check_lora(Case::open(&name, Precision::F32));
    traces::check_case(&name);
    check_merged_logits(&name);
    check_greedy(&name);
    println!("equal: intermediates, losses, LoRA gradients, traces, merges, greedy tokens");
    if let Some(python) = python() {
        check_live(&python, &name);
    }
}
