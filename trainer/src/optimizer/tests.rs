use std::fs;

use proptest::prelude::*;
use safetensors::SafeTensors;

use super::*;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures");
const SETTINGS: AdamWSettings = AdamWSettings { betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.1 };

/// Both tensors of the fixture, one behind the other, as in the flat buffer.
fn flat(file: &SafeTensors, names: [String; 2]) -> Vec<f32> {
    let bytes = names.iter().flat_map(|name| file.tensor(name).unwrap().data());
    bytes.copied().collect::<Vec<u8>>().chunks_exact(4).map(bytemuck::pod_read_unaligned).collect()
}

#[track_caller]
fn check_close(found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len());
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!((f - e).abs() <= tolerance * e.abs().max(1.0), "element {i}: {f:e}, expected {e:e}");
    }
}

/// torch adds the norm in float32 in another order, and its kernels fuse some multiplications with additions. So the
/// weights, which are about 1, may differ by 2 units in the last place, and the moments, about 0.1, by as many.
fn check_against_torch(weight_decay: f64) {
    let bytes = fs::read(format!("{FIXTURES}/ops/ops.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let name = |what: &str, step: usize| [0, 1].map(|i| format!("adamw_wd{weight_decay:.1}.{what}{i}.{step}"));
    let moment = |what: &str| [0, 1].map(|i| format!("adamw_wd{weight_decay:.1}.{what}{i}"));

    let mut optimizer = AdamW::new(flat(&file, name("p", 0)), AdamWSettings { weight_decay, ..SETTINGS });
    let mut clipped = 0;
    for step in 1..=5 {
        let grads = flat(&file, name("g", step));
        let norm = grad_norm(&grads);
        let norm_name = format!("adamw_wd{weight_decay:.1}.norm.{step}");
        let expected: f32 = bytemuck::pod_read_unaligned(file.tensor(&norm_name).unwrap().data());
        check_close(&[norm as f32], &[expected], 2.5e-7);
        let clip = clip_coefficient(norm, 1.0);
        clipped += usize::from(clip < 1.0);
        optimizer.update(&grads, 1e-2, clip);
        check_close(optimizer.params(), &flat(&file, name("p", step)), 2.5e-7);
    }
    assert_eq!((optimizer.step(), clipped), (5, 4), "the third step's gradient is short enough");
    check_close(optimizer.exp_avg(), &flat(&file, moment("m")), 3e-8);
    check_close(optimizer.exp_avg_sq(), &flat(&file, moment("v")), 3e-8);
}

#[test]
fn five_steps_equal_torch() {
    check_against_torch(0.0);
    check_against_torch(0.1);
}

#[test]
fn clipping_shortens_only_what_is_too_long() {
    assert_eq!(clip_coefficient(0.5, 1.0), 1.0);
    assert_eq!(clip_coefficient(4.0, 1.0), 1.0 / (4.0 + 1e-6));
    assert_eq!(clip_coefficient(1e30, f64::INFINITY), 1.0, "`inf` never clips");
}

#[test]
fn a_norm_is_finite_exactly_if_every_gradient_is() {
    assert!(grad_norm(&[f32::MAX; 100]).is_finite());
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut grads = vec![1.0; 3 * CHUNK];
        grads[2 * CHUNK + 5] = bad;
        assert!(!grad_norm(&grads).is_finite());
    }
    assert_eq!(grad_norm(&[]), 0.0);
}

#[test]
fn a_buffer_large_enough_for_threads_has_the_bits_of_its_parts() {
    let n = 16 * CHUNK + 17;
    let values = |scale: f32| (0..n).map(|i| ((i * 7919 % 1013) as f32 - 506.0) * scale).collect::<Vec<_>>();
    let (params, grads) = (values(1e-3), values(1e-4));
    let mut whole = AdamW::new(params.clone(), SETTINGS);
    whole.update(&grads, 1e-3, 0.5);
    whole.update(&grads, 1e-3, 1.0);
    for (i, (params, grads)) in params.chunks(100_003).zip(grads.chunks(100_003)).enumerate() {
        let mut part = AdamW::new(params.to_vec(), SETTINGS);
        part.update(grads, 1e-3, 0.5);
        part.update(grads, 1e-3, 1.0);
        assert_eq!(part.params(), &whole.params()[i * 100_003..][..params.len()]);
    }
    let in_order: f64 = grads.chunks(CHUNK).map(sum_of_squares).sum();
    assert_eq!(grad_norm(&grads).to_bits(), in_order.sqrt().to_bits());
}

#[test]
fn moments_of_another_adapter_are_refused() {
    let refused = AdamW::resume(vec![0.0; 3], vec![0.0; 3], vec![0.0; 2], 1, SETTINGS).unwrap_err().to_string();
    assert!(refused.contains("3 and 2 moments does not fit 3 weights"), "{refused}");
}

proptest! {
    #[test]
    fn a_resumed_optimizer_goes_on_with_the_same_bits(
        params in proptest::collection::vec(-10.0_f32..10.0, 1..40),
        scales in proptest::array::uniform6(-2.0_f32..2.0),
        stop in 0_usize..6,
    ) {
        let grads = |step: usize| params.iter().map(|p| p * scales[step] + scales[5 - step]).collect::<Vec<_>>();
        let mut straight = AdamW::new(params.clone(), SETTINGS);
        let mut resumed = straight.clone();
        for step in 0..6 {
            if step == stop {
                let (m, v) = (resumed.exp_avg().to_vec(), resumed.exp_avg_sq().to_vec());
                resumed = AdamW::resume(resumed.params().to_vec(), m, v, resumed.step(), SETTINGS).unwrap();
            }
            straight.update(&grads(step), 1e-2, 1.0);
            resumed.update(&grads(step), 1e-2, 1.0);
        }
        prop_assert_eq!(straight.digest(), resumed.digest());
    }

    #[test]
    fn every_bit_of_the_state_is_in_the_digest(
        params in proptest::collection::vec(-10.0_f32..10.0, 1..20),
        at in any::<proptest::sample::Index>(),
        bit in 0..32_u32,
        buffer in 0_usize..3,
    ) {
        let mut other = AdamW::new(params, SETTINGS);
        let digest = other.digest();
        let flipped = [&mut other.params, &mut other.exp_avg, &mut other.exp_avg_sq][buffer].as_mut_slice();
        let element = &mut flipped[at.index(flipped.len())];
        *element = f32::from_bits(element.to_bits() ^ (1_u32 << bit));
        prop_assert_ne!(other.digest(), digest);
    }
}
