use super::*;
use crate::adapter::{CONFIG_FILE, MODEL_FILE};
use crate::base::SINGLE_FILE;
use crate::fixtures::{self, Tensors};
use crate::{AdapterConfig, Layout, Module, Targets, init, names, write_adapter};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

const ONE_FILE: u64 = u64::MAX;

fn options(dtype: Option<Dtype>, max_shard_bytes: u64) -> MergeOptions {
    MergeOptions { dtype, max_shard_bytes, rounding: Rounding::Once }
}

/// Merges into a folder of its own, `<temporary>/out`.
fn merged(base: &Path, adapter: &Path, options: MergeOptions) -> (tempfile::TempDir, PathBuf, MergeReport) {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let report = merge(base, adapter, &out, options, &|_| String::new()).unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside the result");
    (dir, out, report)
}

fn case(case: &str, options: MergeOptions) -> (tempfile::TempDir, PathBuf, MergeReport) {
    let dir = fixtures::path(case);
    merged(&dir.join("base"), &dir.join("adapter_final"), options)
}

#[test]
fn the_bf16_merge_is_pefts_byte_for_byte() {
    for name in ["case_a", "case_b"] {
        let (_dir, out, report) = case(name, options(Some(Dtype::Bf16), ONE_FILE));
        let expected = fixtures::path(name).join("merged_bf16");
        assert_eq!(fs::read(out.join(SINGLE_FILE)).unwrap(), fs::read(expected.join(SINGLE_FILE)).unwrap(), "{name}");
        assert_eq!(
            fs::read(out.join("config.json")).unwrap(),
            fs::read(expected.join("config.json")).unwrap(),
            "{name}"
        );
        assert_eq!(report.files, 1);
    }
}

#[test]
fn the_f32_merge_is_pefts_to_the_bit() {
    for name in ["case_a", "case_b"] {
        let expected = fixtures::read(&fixtures::path(name).join("merged.safetensors"));
        for dtype in [None, Some(Dtype::F32)] {
            let (_dir, out, _) = case(name, options(dtype, ONE_FILE));
            let base = Base::open(&out).unwrap();
            let pinned = expected
                .iter()
                .filter_map(|(key, tensor)| Some((names::canonical(key.strip_prefix("fp32.")?)?, tensor)));
            let pinned: Vec<_> = pinned.collect();
            assert_eq!(pinned.len(), 2);
            for (tensor, (_, _, numbers)) in pinned {
                assert_eq!(&base.read_f32(&tensor).unwrap(), numbers, "{name}: {tensor}");
            }
        }
    }
}

#[test]
fn what_is_not_adapted_is_copied_byte_for_byte() {
    for name in ["case_a", "case_b"] {
        let (_dir, out, report) = case(name, options(None, ONE_FILE));
        let (before, after) = (Base::open(&fixtures::path(name).join("base")).unwrap(), Base::open(&out).unwrap());
        assert_eq!(report.tensors, before.tensors().len());
        for tensor in before.tensors().keys() {
            let is_same = before.read_bytes(tensor).unwrap() == after.read_bytes(tensor).unwrap();
            assert_eq!(is_same, !report.changed.contains_key(tensor), "{name}: {tensor}");
            assert_eq!(report.changed.contains_key(tensor), names::linear(tensor).is_some(), "{name}: {tensor}");
        }
        for file in [
            "config.json",
            "tokenizer.json",
            "chat_template.jinja",
            "preprocessor_config.json",
            "generation_config.json",
        ] {
            let source = fixtures::path(name).join("base").join(file);
            assert_eq!(fs::read(out.join(file)).unwrap(), fs::read(source).unwrap(), "{name}: {file}");
        }
    }
}

#[test]
fn an_untrained_adapter_leaves_the_base_as_it_was_file_by_file() {
    let dir = fixtures::path("case_a");
    // B is zero; 600 kB is how transformers' save_pretrained split this base.
    let (_dir, out, report) = merged(&dir.join("base"), &dir.join("adapter_init"), options(None, 600_000));
    for entry in fs::read_dir(dir.join("base")).unwrap() {
        let name = entry.unwrap().file_name();
        let (before, after) = (fs::read(dir.join("base").join(&name)).unwrap(), fs::read(out.join(&name)).unwrap());
        if name == crate::base::INDEX_FILE {
            let json = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).unwrap();
            assert_eq!(json(&before), json(&after));
        } else {
            assert_eq!(before, after, "{name:?}");
        }
    }
    assert_eq!(
        fs::read_dir(&out).unwrap().count(),
        fs::read_dir(dir.join("base")).unwrap().count() + 2,
        "and report and card"
    );
    assert_eq!(report.untouched, report.tensors);
    assert_eq!((report.files, report.bytes), (3, 1_446_464));
    assert!(report.changed.values().all(|change| change.wanted == 0));
}

#[test]
fn sharding_changes_no_tensor() {
    let (_a, whole, _) = case("case_b", options(Some(Dtype::Bf16), ONE_FILE));
    let (_b, sharded, report) = case("case_b", options(Some(Dtype::Bf16), 40_000));
    let (whole, sharded) = (Base::open(&whole).unwrap(), Base::open(&sharded).unwrap());
    assert!(report.files > 5);
    for tensor in whole.tensors().keys() {
        assert_eq!(whole.read_bytes(tensor).unwrap(), sharded.read_bytes(tensor).unwrap(), "{tensor}");
    }
}

#[test]
fn shards_are_split_as_transformers_splits_them() {
    let check = |sizes: &[u64], max_bytes, expected: &[&[&str]]| {
        let tensors = ["a", "b", "c", "d"].iter().zip(sizes).map(|(name, size)| ((*name).to_owned(), *size));
        assert_eq!(shards(tensors, max_bytes), expected);
    };
    check(&[4, 4, 4], 12, &[&["a", "b", "c"]]);
    check(&[4, 4, 5], 12, &[&["a", "b"], &["c"]]);
    check(&[4, 20, 4, 9], 12, &[&["b"], &["a", "c"], &["d"]]);
    check(&[4, 4], 0, &[&["a"], &["b"]]);
    check(&[], 12, &[]);
}

#[test]
fn the_report_is_a_line_that_says_what_rounding_took() {
    let (.., report) = case("case_a", options(Some(Dtype::Bf16), ONE_FILE));
    let line = report.to_string();
    assert!(
        line.starts_with("61 of 132 tensors changed, 0.001 GB in 1 file(s), all read again; ")
            && line.contains(" (least: "),
        "{line}"
    );
    let (least, most) =
        report.changed.values().fold((1.0_f64, 0.0_f64), |(l, m), c| (l.min(c.share()), m.max(c.share())));
    assert!(0.5 < least && least < most && most <= 1.0, "{least} {most}");
}

#[test]
fn a_merge_that_cannot_be_whole_leaves_nothing() {
    let a_key = "base_model.model.model.language_model.layers.6.self_attn.q_proj.lora_A.weight";
    let check = |damage: &dyn Fn(&Path, &Path), dtype, expected: &str| {
        let (base, adapter, dir) =
            (fixtures::copy("case_a/base"), fixtures::copy("case_a/adapter_final"), tempfile::tempdir().unwrap());
        damage(base.path(), adapter.path());
        let error =
            merge(base.path(), adapter.path(), &dir.path().join("out"), options(dtype, ONE_FILE), &|_| String::new())
                .unwrap_err()
                .to_string();
        assert!(error.contains(expected), "{expected:?} is not in: {error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "{expected}");
    };
    let edit = |edit: fn(&mut Tensors, &str)| {
        move |_: &Path, adapter: &Path| {
            fixtures::edit_tensors(&adapter.join(MODEL_FILE), |tensors| edit(tensors, a_key));
        }
    };
    check(&edit(|t, key| t.get_mut(key).unwrap().2[0] = f32::NAN), None, "element 0 is not finite");
    check(&edit(|t, key| drop(t.remove(key))), None, "missing: base_model.model.model.language_model.layers.6");
    check(&edit(|t, key| t.get_mut(key).unwrap().1.reverse()), None, "shape [64, 4], expected [4, 64]");
    check(&edit(|t, key| t.get_mut(key).unwrap().2.fill(3e38)), Some(Dtype::F16), "q_proj.weight as float16: element");
    let lose_shard = |base: &Path, _: &Path| fs::remove_file(base.join("model-00003-of-00003.safetensors")).unwrap();
    check(&lose_shard, None, "missing shard: model-00003");
    let scale = |base: &Path, _: &Path| {
        fixtures::edit_tensors(&base.join("model-00003-of-00003.safetensors"), |tensors| {
            tensors.get_mut("vision_tower.vision_model.post_layernorm.bias").unwrap().2[5] = 1e30;
        });
    };
    check(&scale, Some(Dtype::F16), "post_layernorm.bias as float16: element 5 is not finite");
}

#[test]
fn an_existing_folder_is_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let case = fixtures::path("case_b");
    let error =
        merge(&case.join("base"), &case.join("adapter_final"), dir.path(), options(None, ONE_FILE), &|_| String::new())
            .unwrap_err();
    assert!(error.to_string().contains("exists"), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// A base of one layer in each tower, of any widths, with numbers that depend on name and element.
fn write_base(dir: &Path, sizes: [usize; 4], dtypes: [Dtype; 2], generation: usize, n_files: usize) {
    let [hidden, inner, vision, vocab] = sizes;
    let mut files = vec![Tensors::new(); n_files];
    for (i, name) in names::all(1, 1).into_iter().enumerate() {
        let is_vision = name.starts_with("vision");
        let width = if is_vision { vision } else { hidden };
        let shape = match name.rsplit('.').nth(1).unwrap() {
            _ if name.ends_with("bias") => vec![width],
            "q_proj" | "gate_proj" | "fc1" => vec![inner, width],
            "o_proj" | "out_proj" | "down_proj" | "fc2" => vec![width, inner],
            "embed_tokens" => vec![vocab, width],
            _ if names::linear(&name).is_some() => vec![width, width],
            _ => vec![width],
        };
        let layout =
            Layout::new(vec![Module { name: name.clone(), in_features: shape.iter().product(), out_features: 0 }], 1);
        let key = names::generations(&name)[generation % names::generations(&name).len()].clone();
        let dtype = dtypes[i % 2];
        let numbers = init(&layout, 1);
        files[i % n_files].insert(key, (dtype, shape, numbers));
    }
    let config = r#"{"text_config": {"num_hidden_layers": 1}, "vision_config": {"num_hidden_layers": 1}}"#;
    storage::publish_file(&dir.join("config.json"), config.as_bytes()).unwrap();
    if n_files == 1 {
        return fixtures::write(&dir.join(SINGLE_FILE), &files[0]);
    }
    let mut weight_map = BTreeMap::new();
    for (i, tensors) in files.iter().enumerate() {
        let file = format!("part-{i}.safetensors");
        fixtures::write(&dir.join(&file), tensors);
        weight_map.extend(tensors.keys().map(|key| (key.clone(), file.clone())));
    }
    let index = serde_json::json!({ "weight_map": weight_map });
    storage::publish_file(&dir.join(crate::base::INDEX_FILE), index.to_string().as_bytes()).unwrap();
}

/// An adapter on `targets` of a base, whose A and B both hold numbers.
fn write_random_adapter(
    dir: &Path,
    base: &Base,
    targets: Targets,
    r: usize,
    seed: u64,
) -> (Layout, Vec<f32>, AdapterConfig) {
    let layout = Layout::new(targets.select(&base.linears()).unwrap(), r);
    let mut flat = init(&layout, seed);
    for i in 0..layout.modules().len() {
        for (element, b) in flat[layout.b(i)].iter_mut().enumerate() {
            *b = ((element as f32 + seed as f32 % 97.0) * 0.7).sin();
        }
    }
    let config = AdapterConfig {
        r,
        lora_alpha: 5.0,
        lora_dropout: 0.0,
        target_modules: targets,
        base_model_name_or_path: String::new(),
    };
    let (model, json) = write_adapter(&layout, &flat, &config);
    storage::publish_file(&dir.join(MODEL_FILE), &model).unwrap();
    storage::publish_file(&dir.join(CONFIG_FILE), &json).unwrap();
    (layout, flat, config)
}

/// Every number of the result against `W + alpha/r B A` in f64, to half a unit in the last place of the dtype
/// and the f32 errors of the product.
fn check_merge(base: &Base, out: &Base, layout: &Layout, flat: &[f32], config: &AdapterConfig, dtype: Option<Dtype>) {
    assert!(base.tensors().keys().eq(out.tensors().keys()));
    for (tensor, info) in base.tensors() {
        let dtype = dtype.unwrap_or(info.dtype);
        assert_eq!((out.tensors()[tensor].dtype, &out.tensors()[tensor].key), (dtype, tensor), "hub names are written");
        let module = names::linear(tensor).and_then(|module| layout.index(module));
        let unit = match dtype {
            Dtype::F16 => 2f64.powi(-11),
            Dtype::Bf16 => 2f64.powi(-8),
            Dtype::F32 => 2f64.powi(-24),
        };
        let mut weights = base.read_f32(tensor).unwrap();
        dtype.round(&mut weights);
        for (i, (w, merged)) in weights.into_iter().zip(out.read_f32(tensor).unwrap()).enumerate() {
            let Some(m) = module else {
                assert_eq!(merged, w, "{tensor}");
                continue;
            };
            let (lora_a, lora_b, width) = (&flat[layout.a(m)], &flat[layout.b(m)], info.shape[1]);
            let product =
                |k: usize| f64::from(lora_b[i / width * config.r + k]) * f64::from(lora_a[k * width + i % width]);
            let scaling = config.lora_alpha / config.r as f64;
            let w = f64::from(w);
            let exact = w + scaling * (0..config.r).map(product).sum::<f64>();
            let summed = w.abs() + scaling * (0..config.r).map(|k| product(k).abs()).sum::<f64>();
            // One rounding to the dtype (or to f16's smallest step), and f32's own for each term, the factor and the sum.
            let bound = unit * exact.abs() + 2f64.powi(-25) + (config.r + 3) as f64 * 2f64.powi(-24) * summed;
            assert!((f64::from(merged) - exact).abs() <= bound, "{tensor}[{i}]: {merged}, exactly {exact}");
        }
    }
}

fn any_dtype() -> impl Strategy<Value = Dtype> {
    prop_oneof![Just(Dtype::F32), Just(Dtype::Bf16), Just(Dtype::F16)]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(32) })]
    #[test]
    fn a_merge_is_base_plus_product_for_any_shape_dtype_split_and_names(
        sizes in [1usize..20, 1usize..20, 1usize..20, 1usize..20],
        dtypes in [any_dtype(), any_dtype()],
        dtype in proptest::option::of(any_dtype()),
        generation in 0usize..4,
        n_files in 1usize..4,
        max_shard_bytes in 0u64..4000,
        r in 1usize..5,
        seed in 0u64..1000,
        all_linear: bool,
    ) {
        let (base_dir, adapter_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write_base(base_dir.path(), sizes, dtypes, generation, n_files);
        let base = Base::open(base_dir.path()).unwrap();
        let targets = if all_linear { Targets::AllLinear } else { Targets::Suffixes(vec!["mlp.fc1".into(), "v_proj".into()]) };
        let (layout, flat, config) = write_random_adapter(adapter_dir.path(), &base, targets, r, seed);
        let (_dir, out, report) = merged(base_dir.path(), adapter_dir.path(), options(dtype, max_shard_bytes));
        prop_assert_eq!(report.changed.len(), layout.modules().len());
        check_merge(&base, &Base::open(&out).unwrap(), &layout, &flat, &config, dtype);
    }
}

#[test]
fn a_tensor_larger_than_a_slice_is_merged_whole() {
    let (base_dir, adapter_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_base(base_dir.path(), [1100, 1003, 8, 1000], [Dtype::F32, Dtype::Bf16], 0, 1);
    let base = Base::open(base_dir.path()).unwrap();
    let (layout, flat, config) = write_random_adapter(adapter_dir.path(), &base, Targets::AllLinear, 2, 3);
    let (_dir, out, _) = merged(base_dir.path(), adapter_dir.path(), options(Some(Dtype::Bf16), ONE_FILE));
    check_merge(&base, &Base::open(&out).unwrap(), &layout, &flat, &config, Some(Dtype::Bf16));
}
