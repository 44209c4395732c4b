//! Bilinear resize with antialias, equal to the bit to classic Pillow's `Image.resize((size, size), BILINEAR)`.
//! It never looks at a file format. (Pillow 13 swapped the two passes for some shapes; this is the order up to 12.)

use crate::PageError;
use pulp::{Arch, Simd, WithSimd};

/// Fraction bits of a weight: `PRECISION_BITS` of Pillow's Resample.c. A sum of weights times pixels stays below 2^31.
const BITS: u32 = 32 - 8 - 2;
const HALF: u32 = 1 << (BITS - 1);

/// A pixel padded to four lanes, as in Pillow; the fourth is never looked at.
type Rgbx = [u8; 4];

/// A decoded page, 8 bits a channel.
#[derive(Debug)]
pub struct Pixels {
    /// Pixels a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha; alpha is dropped.
    pub channels: usize,
    /// [height, width, channels]
    pub bytes: Vec<u8>,
}

impl Pixels {
    /// A lossless PNG of `size` pixels a side, for people.
    ///
    /// # Errors
    /// What the encoder says; a page in memory gives it no reason to.
    pub fn thumbnail(&self, size: usize) -> Result<Vec<u8>, PageError> {
        let damaged = |e: png::EncodingError| PageError::Damaged { format: "PNG", reason: e.to_string() };
        crate::page::encode(&self.resize(size), size).map_err(damaged)
    }

    /// [size, size, 3] u8: the second half of [`crate::page`].
    #[must_use]
    pub fn resize(&self, size: usize) -> Vec<u8> {
        resize(self, size)
    }
}

/// [size, size, 3] u8: the horizontal pass, then the vertical one, each skipped if that side has the size already.
pub(crate) fn resize(page: &Pixels, size: usize) -> Vec<u8> {
    // The dispatch compiles the passes for the vector unit that this machine has.
    Arch::new().dispatch(Resize { page, size })
}

struct Resize<'a> {
    page: &'a Pixels,
    size: usize,
}

impl WithSimd for Resize<'_> {
    type Output = Vec<u8>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Vec<u8> {
        let narrowed = horizontal(self.page, self.size);
        let resized =
            if self.page.height == self.size { narrowed } else { vertical(&narrowed, self.page.height, self.size) };
        let mut rgb = vec![0; resized.len() * 3];
        for (out, &[r, g, b, _]) in rgb.as_chunks_mut::<3>().0.iter_mut().zip(&resized) {
            *out = [r, g, b];
        }
        rgb
    }
}

/// [height, width] -> [height, size]
#[inline(always)]
fn horizontal(page: &Pixels, size: usize) -> Vec<Rgbx> {
    let windows = Windows::new(page.width, size);
    let mut out = vec![[0; 4]; page.height * size];
    let mut row = vec![[0; 4]; page.width];
    for (bytes, out) in page.bytes.chunks_exact(page.width * page.channels).zip(out.chunks_exact_mut(size)) {
        if page.width == size {
            widen(bytes, page.channels, out);
            continue;
        }
        widen(bytes, page.channels, &mut row);
        for (out, (start, weights)) in out.iter_mut().zip(windows.iter()) {
            let mut sum = [HALF; 4];
            for (pixel, &weight) in row[start..start + weights.len()].iter().zip(weights) {
                add(&mut sum, pixel, weight);
            }
            *out = sum.map(clip);
        }
    }
    out
}

/// [height, size] -> [size, size]
#[inline(always)]
fn vertical(src: &[Rgbx], height: usize, size: usize) -> Vec<Rgbx> {
    let windows = Windows::new(height, size);
    let mut out = vec![[0; 4]; size * size];
    let mut sums = vec![[0; 4]; size];
    for (out, (start, weights)) in out.chunks_exact_mut(size).zip(windows.iter()) {
        sums.fill([HALF; 4]);
        for (row, &weight) in src[start * size..].chunks_exact(size).zip(weights) {
            for (sum, pixel) in sums.iter_mut().zip(row) {
                add(sum, pixel, weight);
            }
        }
        for (out, sum) in out.iter_mut().zip(&sums) {
            *out = sum.map(clip);
        }
    }
    out
}

/// Nothing wraps here (see [`BITS`]); the wrapping operations keep overflow checks out of the vector loop.
#[inline(always)]
fn add(sum: &mut [u32; 4], pixel: &Rgbx, weight: u32) {
    *sum = std::array::from_fn(|c| sum[c].wrapping_add(weight.wrapping_mul(u32::from(pixel[c]))));
}

#[inline(always)]
fn clip(sum: u32) -> u8 {
    (sum >> BITS).min(255) as u8
}

/// One row to four lanes, as Pillow's `convert("RGB")`: grey is repeated, alpha is dropped and not composited.
#[inline(always)]
fn widen(bytes: &[u8], channels: usize, row: &mut [Rgbx]) {
    match channels {
        1 => row.iter_mut().zip(bytes).for_each(|(out, &v)| *out = [v; 4]),
        2 => row.iter_mut().zip(bytes.as_chunks().0).for_each(|(out, &[v, _])| *out = [v; 4]),
        3 => row.iter_mut().zip(bytes.as_chunks().0).for_each(|(out, &[r, g, b])| *out = [r, g, b, 0]),
        _ => row.copy_from_slice(bytes.as_chunks().0),
    }
}

/// For every output pixel its first source pixel and as many weights as any output pixel needs.
struct Windows {
    n_taps: usize,
    starts: Vec<usize>,
    /// [to, n_taps]
    weights: Vec<u32>,
}

impl Windows {
    /// `precompute_coeffs` and `normalize_coeffs_8bpc` of Pillow's Resample.c with its triangle filter.
    fn new(from: usize, to: usize) -> Self {
        let scale = from as f64 / to as f64;
        let support = scale.max(1.0);
        let n_taps = from.min((2.0 * support).ceil() as usize + 1);
        let (mut starts, mut weights) = (Vec::with_capacity(to), vec![0; to * n_taps]);
        for (i, weights) in weights.chunks_exact_mut(n_taps).enumerate() {
            let center = (i as f64 + 0.5) * scale;
            let start = (center - support + 0.5).max(0.0) as usize;
            let end = ((center + support + 0.5) as usize).min(from);
            let triangle = |x: usize| (1.0 - ((x as f64 - center + 0.5) * (1.0 / support)).abs()).max(0.0);
            let total: f64 = (start..end).map(triangle).sum();
            let first = start.min(from - n_taps); // All windows are of one length; what is not needed weighs 0.
            for x in start..end {
                weights[x - first] = (triangle(x) / total * f64::from(1 << BITS) + 0.5) as u32;
            }
            starts.push(first);
        }
        Self { n_taps, starts, weights }
    }

    #[inline(always)]
    fn iter(&self) -> impl Iterator<Item = (usize, &[u32])> {
        self.starts.iter().copied().zip(self.weights.chunks_exact(self.n_taps))
    }
}
