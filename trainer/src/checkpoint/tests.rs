mod beside;
mod power_cut;

use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::*;
use crate::optimizer::{AdamW, AdamWSettings};

const FILES: [&str; 5] = ["adapter_config.json", "adapter_model.safetensors", "optimizer.safetensors", STATE, MANIFEST];

fn state(step: u64) -> State {
    State {
        step,
        epoch: step as f64 / 7.0,
        position: step * 6,
        num_tokens: 99,
        skipped_steps: 1,
        world_size: 2,
        fingerprint: "f00d".to_owned(),
        rows: "beef".to_owned(),
    }
}

fn files(step: u64) -> Vec<(&'static str, Vec<u8>)> {
    let content = |name: &str| format!("{name} of step {step}").into_bytes();
    FILES[..3].iter().map(|name| (*name, content(name))).collect()
}

fn saved(steps: &[u64]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for &step in steps {
        save(dir.path(), &state(step), &files(step)).unwrap();
    }
    dir
}

fn steps_in(dir: &Path) -> Vec<u64> {
    by_step(dir).unwrap().iter().filter_map(|dir| step_of(dir)).collect()
}

#[expect(clippy::disallowed_methods, reason = "damage is done in place")]
fn overwrite(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
}

#[test]
fn what_was_saved_is_found_again() {
    let dir = saved(&[3, 5]);
    let (found, damaged) = newest(dir.path()).unwrap();
    let found = found.unwrap();
    assert_eq!((&found.state, damaged.len()), (&state(5), 0));
    for (name, bytes) in files(5) {
        assert_eq!(found.read(name).unwrap(), bytes);
    }
    let unknown = found.read("../checkpoint-3/manifest.json").unwrap_err().to_string();
    assert!(unknown.contains("is not in the manifest"), "{unknown}");
    found.require_fingerprint("f00d").unwrap();
    let refused = found.require_fingerprint("beef").unwrap_err().to_string();
    assert!(refused.contains("is of a run with config f00d, this one is beef"), "{refused}");
}

#[test]
fn a_folder_without_checkpoints_has_none() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(newest(&dir.path().join("absent")).unwrap(), (None, vec![]));
    for name in ["checkpoint-", "checkpoint-x", "checkpoint-07", "checkpoint--1", ".checkpoint-9.unfinished", "logs"] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    assert_eq!(newest(dir.path()).unwrap(), (None, vec![]));
}

#[test]
fn the_newest_is_the_one_with_the_highest_step_whatever_the_clock_says() {
    let dir = saved(&[100, 9, 10]);
    for (age, step) in [(0, 9), (1, 10), (2, 100)] {
        let time = SystemTime::now() - Duration::from_secs(3600 * age);
        File::open(dir.path().join(format!("checkpoint-{step}"))).unwrap().set_modified(time).unwrap();
    }
    assert_eq!(newest(dir.path()).unwrap().0.unwrap().state.step, 100);
}

#[test]
fn a_save_that_was_killed_is_not_seen_and_can_be_repeated() {
    let dir = saved(&[5]);
    let unfinished = StagedDir::new(&dir.path().join("checkpoint-10")).unwrap();
    unfinished.write(MANIFEST, b"half").unwrap();
    std::mem::forget(unfinished); // A killed process does not clean up.
    assert_eq!(newest(dir.path()).unwrap().0.unwrap().state.step, 5);
    save(dir.path(), &state(10), &files(10)).unwrap();
    assert_eq!(newest(dir.path()).unwrap().0.unwrap().state.step, 10);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing unfinished is left");
}

#[test]
fn an_intact_checkpoint_is_never_overwritten_and_a_damaged_one_is_replaced() {
    let dir = saved(&[5]);
    save(dir.path(), &state(5), &files(5)).unwrap(); // The same bytes: nothing to do.
    let occupied = save(dir.path(), &state(5), &files(6)).unwrap_err().to_string();
    assert!(occupied.contains("checkpoint-5: is there already, intact and with other content"), "{occupied}");
    overwrite(&dir.path().join("checkpoint-5").join(FILES[0]), b"torn");
    assert_eq!(newest(dir.path()).unwrap().0, None);
    save(dir.path(), &state(5), &files(5)).unwrap();
    assert_eq!(newest(dir.path()).unwrap().0.unwrap().state, state(5));
}

#[test]
fn a_folder_under_another_steps_name_is_not_believed() {
    let dir = saved(&[5]);
    let other = StagedDir::new(&dir.path().join("checkpoint-8")).unwrap();
    for name in FILES {
        other.write(name, &fs::read(dir.path().join("checkpoint-5").join(name)).unwrap()).unwrap();
    }
    other.publish().unwrap();
    let (found, damaged) = newest(dir.path()).unwrap();
    assert_eq!(found.unwrap().state.step, 5);
    assert!(damaged[0].to_string().contains("checkpoint-8: trainer_state.json: is of step 5"), "{damaged:?}");
}

#[test]
fn a_manifest_that_leads_out_of_its_folder_is_not_believed() {
    for name in ["../x", "/etc/passwd", "a/b", "..", ""] {
        let dir = tempfile::tempdir().unwrap();
        let hash = |name| (name, 1, blake3::hash(b"x"));
        overwrite(&dir.path().join(MANIFEST), &Manifest::new(&state(5), [hash(STATE), hash(name)]).to_json());
        let reason = Manifest::read(dir.path()).unwrap_err();
        assert!(reason.contains("is no name of a file in this folder"), "{reason}");
    }
}

/// Ways to damage a file.
#[derive(Debug, Clone)]
enum Harm {
    Flip(prop::sample::Index, u8),
    Cut(prop::sample::Index),
    Append(u8),
    Remove,
}

fn harm() -> impl Strategy<Value = Harm> {
    prop_oneof![
        4 => (any::<prop::sample::Index>(), 0_u8..8).prop_map(|(at, bit)| Harm::Flip(at, bit)),
        2 => any::<prop::sample::Index>().prop_map(Harm::Cut),
        1 => any::<u8>().prop_map(Harm::Append),
        1 => Just(Harm::Remove),
    ]
}

#[test]
fn any_damage_to_any_file_is_noticed_and_the_next_older_one_is_used() {
    let dir = saved(&[5, 10]);
    let mut runner = TestRunner::default();
    let outcome = runner.run(&(0..FILES.len(), harm()), |(file, harm)| {
        let path = dir.path().join("checkpoint-10").join(FILES[file]);
        let whole = fs::read(&path)?;
        let mut bytes = whole.clone();
        match harm {
            Harm::Flip(at, bit) => bytes[at.index(whole.len())] ^= 1 << bit,
            Harm::Cut(at) => bytes.truncate(at.index(whole.len())),
            Harm::Append(byte) => bytes.push(byte),
            Harm::Remove => fs::remove_file(&path)?,
        }
        if path.exists() {
            overwrite(&path, &bytes);
        }
        let (found, damaged) = newest(dir.path()).unwrap();
        overwrite(&path, &whole);
        prop_assert_eq!(found.unwrap().state.step, 5);
        prop_assert_eq!(damaged.len(), 1);
        let message = damaged[0].to_string();
        prop_assert!(message.contains("checkpoint-10: ") && message.contains(FILES[file]), "{}", message);
        Ok(())
    });
    outcome.unwrap();
    assert_eq!(newest(dir.path()).unwrap().0.unwrap().state.step, 10);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]

    #[test]
    fn pruning_keeps_the_newest_intact_ones(
        broken in proptest::collection::vec(any::<bool>(), 1..7),
        keep in 1_usize..4,
    ) {
        let steps: Vec<u64> = (1..=broken.len() as u64).collect();
        let dir = saved(&steps);
        for (step, _) in steps.iter().zip(&broken).filter(|(_, broken)| **broken) {
            overwrite(&dir.path().join(format!("checkpoint-{step}")).join(FILES[1]), b"x");
        }
        let before = newest(dir.path()).unwrap();
        let removed = prune(dir.path(), keep).unwrap();
        let intact: Vec<u64> = steps.iter().zip(&broken).filter(|(_, broken)| !**broken).map(|(step, _)| *step).rev().collect();
        let lowest = intact.get(keep - 1).copied().unwrap_or(0);
        let expected: Vec<u64> = steps.iter().copied().rev().filter(|step| *step >= lowest).collect();
        prop_assert_eq!(steps_in(dir.path()), expected);
        prop_assert_eq!(removed.len(), steps.iter().filter(|step| **step < lowest).count());
        prop_assert_eq!(newest(dir.path()).unwrap(), before);
    }

    #[test]
    fn moments_come_back_to_the_bit(
        bits in proptest::collection::vec(any::<(u32, u32)>(), 0..50),
        layout in "[a-z .0-9\n\"\\\\é]{0,40}",
    ) {
        let (m, v): (Vec<f32>, Vec<f32>) = bits.iter().map(|(m, v)| (f32::from_bits(*m), f32::from_bits(*v))).unzip();
        let bytes = encode_optimizer(&optimizer(m, v), &layout);
        let (m, v) = decode_optimizer(&bytes, bits.len(), &layout).unwrap();
        prop_assert_eq!(m.iter().zip(&v).map(|(m, v)| (m.to_bits(), v.to_bits())).collect::<Vec<_>>(), bits);
    }
}

fn optimizer(exp_avg: Vec<f32>, exp_avg_sq: Vec<f32>) -> AdamW {
    let settings = AdamWSettings { betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.0 };
    AdamW::resume(vec![0.0; exp_avg.len()], exp_avg, exp_avg_sq, 1, settings).unwrap()
}

#[test]
fn moments_of_anything_else_are_refused() {
    let layout = "a.q_proj 4 8 8\na.v_proj 4 8 8";
    let bytes = encode_optimizer(&optimizer(vec![1.0; 6], vec![2.0; 6]), layout);
    #[track_caller]
    fn check(bytes: &[u8], n_params: usize, layout: &str, expected: &str) {
        let message = decode_optimizer(bytes, n_params, layout).unwrap_err().to_string();
        assert!(message.contains(expected), "{expected:?} is not in {message:?}");
    }
    check(&bytes, 7, layout, "expected exp_avg F32 [7], found exp_avg F32 [6]");
    check(&bytes, 6, "a.q_proj 4 8 8\na.k_proj 4 8 8", "expected a.k_proj 4 8 8, found a.v_proj 4 8 8");
    check(&bytes, 6, "a.q_proj 4 8 8", "expected 1 modules, found 2 modules");
    check(&bytes[..bytes.len() - 1], 6, layout, "expected a safetensors file");
    check(b"", 6, layout, "expected a safetensors file");
    let view = || safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![1], &[0; 4]).unwrap();
    let other = safetensors::serialize([("exp_avg", view()), ("max_exp_avg_sq", view())], None).unwrap();
    check(&other, 1, "", "expected the tensors [\"exp_avg\", \"exp_avg_sq\"], found [\"exp_avg\", \"max_exp_avg_sq\"]");
}
