//! A small counter-based generator (SplitMix64): number n of a stream is a pure function of (seed, name, index, n).
//! It never asks the system for entropy, and calls no function of libm: its numbers are the same on every machine.

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// One stream of numbers; streams of different names or indices are independent of each other.
#[derive(Debug, Clone)]
pub struct Random {
    state: u64,
}

impl Random {
    /// The stream `name` of `seed`, for the `index`-th thing that needs one.
    #[must_use]
    pub fn new(seed: u64, name: &str, index: u64) -> Self {
        let named = name.bytes().fold(mix(seed.wrapping_add(GOLDEN)), |key, byte| mix(key ^ u64::from(byte)));
        Self { state: mix(named ^ mix(index.wrapping_add(GOLDEN))) }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GOLDEN);
        mix(self.state)
    }

    /// A whole number in `0..n`.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }

    /// Uniform in `[low, high)`.
    pub fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Mean 0, variance 1, almost normal: the sum of twelve uniform numbers (Irwin and Hall), so never beyond six.
    pub fn normal(&mut self) -> f64 {
        let sixteen_bits = |word: u64| (0..4).map(|i| word >> (16 * i) & 0xFFFF).sum::<u64>();
        let sum: u64 = (0..3).map(|_| sixteen_bits(self.next())).sum();
        (sum as f64 + 6.0) / 65_536.0 - 6.0
    }

    /// The numbers `0..n` in random order (Fisher and Yates).
    pub fn permutation(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for last in (1..n).rev() {
            order.swap(last, self.below(last + 1));
        }
        order
    }
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014): every bit of the word reaches every bit of the result.
fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}
