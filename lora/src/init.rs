//! PEFT's initialisation: A uniform in ±1/sqrt(in) (kaiming_uniform with a = sqrt 5), B zero (lora/layer.py, `reset_lora_parameters`).
//! It never depends on an order or a generator: each number is a pure function of (seed, module name, element).

use crate::Layout;

/// The adapters before the first step, in one flat buffer.
#[must_use]
pub fn init(layout: &Layout, seed: u64) -> Vec<f32> {
    let mut flat = vec![0.0; layout.len()];
    for (i, module) in layout.modules().iter().enumerate() {
        let key = key(seed, &module.name);
        let bound = 1.0 / (module.in_features as f32).sqrt();
        for (element, a) in (0u64..).zip(&mut flat[layout.a(i)]) {
            *a = bound * uniform(key, element);
        }
    }
    flat
}

/// Number `element` of the stream `key`, uniform in [-1, 1).
#[inline]
pub(crate) fn uniform(key: u64, element: u64) -> f32 {
    symmetric_unit(splitmix64(key.wrapping_add(element.wrapping_mul(GOLDEN_GAMMA))))
}

/// The step of splitmix64's counter, 2^64 / golden ratio (Steele, Lea, Flood 2014).
const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// splitmix64's output function of a counter.
fn splitmix64(counter: u64) -> u64 {
    let mut z = counter.wrapping_add(GOLDEN_GAMMA);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

pub(crate) fn key(seed: u64, name: &str) -> u64 {
    name.bytes().fold(splitmix64(seed), |key, byte| splitmix64(key ^ u64::from(byte)))
}

/// The top 24 bits as a number in [-1, 1), all values equally likely and exact in f32.
fn symmetric_unit(bits: u64) -> f32 {
    (bits >> 40) as f32 / (1u64 << 23) as f32 - 1.0
}

#[cfg(test)]
mod tests;
