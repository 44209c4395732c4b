//! Pages that look the same: a hash of what a page shows, and a search over a million of them.
//! It never decides that two pages are one: a near page is a hint for a person.

use std::f64::consts::PI;
use std::sync::LazyLock;

use crate::{PageError, Pixels, decode};

/// Pixels a side that a page is reduced to.
const SIDE: usize = 64;
/// Frequencies a side that are kept, the constant left out.
const KEPT: usize = 16;
const BITS: u32 = 256;
/// Parts of a hash that are looked up: of two hashes at most [`PageHash::NEAR`] apart, at least one part of
/// `NEAR / 2 + 1` differs in at most one bit.
const N_BANDS: u32 = PageHash::NEAR / 2 + 1;

/// 256 bits of what a page shows: the signs of its 16 x 16 lowest frequencies against their median (pHash).
///
/// All ECG pages have a grid and a layout in common; 64 bits do not tell them apart. Of 7,905 pairs of pages of different
/// real recordings the nearest two are 46 bits apart, while a page re-encoded as JPEG of quality 30 or more, scaled to
/// 0.5 ... 1.5 of its size, to the tower's square or to grey stays within 18.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageHash([u64; 4]);

impl PageHash {
    /// Pages up to so many bits apart are near.
    pub const NEAR: u32 = 20;

    /// Of an encoded page.
    ///
    /// # Errors
    /// A page that does not decode.
    pub fn of(bytes: &[u8]) -> Result<Self, PageError> {
        Ok(Self::of_pixels(&decode(bytes)?))
    }

    /// Of a decoded page.
    #[must_use]
    pub fn of_pixels(page: &Pixels) -> Self {
        let grey: Vec<f64> = page.resize(SIDE).as_chunks().0.iter().map(|&[r, g, b]| luma(r, g, b)).collect();
        // Frequencies 1..=KEPT of the rows, then of the columns.
        let mut by_row = [0.0; SIDE * KEPT];
        for (row, out) in grey.chunks_exact(SIDE).zip(by_row.chunks_exact_mut(KEPT)) {
            for (out, waves) in out.iter_mut().zip(WAVES.chunks_exact(SIDE)) {
                *out = row.iter().zip(waves).map(|(pixel, wave)| pixel * wave).sum();
            }
        }
        let mut kept = [0.0; KEPT * KEPT];
        for (out, waves) in kept.chunks_exact_mut(KEPT).zip(WAVES.chunks_exact(SIDE)) {
            for (row, wave) in by_row.chunks_exact(KEPT).zip(waves) {
                out.iter_mut().zip(row).for_each(|(out, value)| *out += value * wave);
            }
        }
        let mut sorted = kept;
        sorted.sort_unstable_by(f64::total_cmp);
        let median = f64::midpoint(sorted[KEPT * KEPT / 2 - 1], sorted[KEPT * KEPT / 2]);
        let mut bits = [0; 4];
        for (i, _) in kept.iter().enumerate().filter(|(_, value)| **value > median) {
            bits[i / 64] |= 1 << (i % 64);
        }
        Self(bits)
    }

    /// The bytes to store.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes.as_chunks_mut().0.iter_mut().zip(self.0).for_each(|(out, word)| *out = word.to_le_bytes());
        bytes
    }

    /// Reads what [`PageHash::to_bytes`] wrote.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        let mut words = [0; 4];
        words.iter_mut().zip(bytes.as_chunks().0).for_each(|(word, bytes)| *word = u64::from_le_bytes(*bytes));
        Self(words)
    }

    /// Bits in which two hashes differ.
    #[must_use]
    pub fn distance(self, other: Self) -> u32 {
        self.0.iter().zip(other.0).map(|(a, b)| (a ^ b).count_ones()).sum()
    }

    /// The bits of one band.
    fn band(self, band: u32) -> u32 {
        let bits = band * BITS / N_BANDS..(band + 1) * BITS / N_BANDS;
        bits.rev().fold(0, |value, bit| value << 1 | (self.0[bit as usize / 64] >> (bit % 64)) as u32 & 1)
    }
}

/// ITU-R BT.601, as `convert("L")`.
fn luma(r: u8, g: u8, b: u8) -> f64 {
    0.299 * f64::from(r) + 0.587 * f64::from(g) + 0.114 * f64::from(b)
}

/// [KEPT, SIDE]: the waves of a DCT-II without its constant one.
static WAVES: LazyLock<Vec<f64>> = LazyLock::new(|| {
    let wave = |k: usize, x: usize| (PI * (2 * x + 1) as f64 * k as f64 / (2 * SIDE) as f64).cos();
    (1..=KEPT).flat_map(|k| (0..SIDE).map(move |x| wave(k, x))).collect()
});

/// Many hashes, to be asked which of them are near another one (multi-index hashing, Norouzi et al. 2012): of a
/// million, a query looks at some hundred instead of all. 120 bytes a hash.
#[derive(Debug)]
pub struct NearPages {
    hashes: Vec<PageHash>,
    /// For each band its bits in every hash, with the hash's index, sorted.
    bands: Vec<Vec<(u32, u32)>>,
}

impl NearPages {
    /// An index of `hashes`.
    #[must_use]
    pub fn new(hashes: Vec<PageHash>) -> Self {
        let sorted = |band| {
            let mut entries: Vec<(u32, u32)> = (0..).zip(&hashes).map(|(i, hash)| (hash.band(band), i)).collect();
            entries.sort_unstable();
            entries
        };
        let bands = (0..N_BANDS).map(sorted).collect();
        Self { hashes, bands }
    }

    /// Every hash at most [`PageHash::NEAR`] bits from `hash`: its index and distance, the nearest first.
    #[must_use]
    pub fn near(&self, hash: PageHash) -> Vec<(usize, u32)> {
        let mut candidates = Vec::new();
        for (band, entries) in (0..).zip(&self.bands) {
            let bits = (band + 1) * BITS / N_BANDS - band * BITS / N_BANDS;
            let value = hash.band(band);
            for value in std::iter::once(value).chain((0..bits).map(|bit| value ^ 1 << bit)) {
                let first = entries.partition_point(|entry| entry.0 < value);
                candidates.extend(entries[first..].iter().take_while(|entry| entry.0 == value).map(|entry| entry.1));
            }
        }
        candidates.sort_unstable();
        candidates.dedup();
        let measured = candidates.into_iter().map(|i| (i as usize, hash.distance(self.hashes[i as usize])));
        let mut near: Vec<(usize, u32)> = measured.filter(|(_, distance)| *distance <= PageHash::NEAR).collect();
        near.sort_by_key(|&(i, distance)| (distance, i));
        near
    }
}

#[cfg(test)]
mod tests;
