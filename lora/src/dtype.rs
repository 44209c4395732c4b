//! The number formats that weights are stored in: f32, bf16, f16, little-endian.
//! It never guesses: any other format is refused where the header is read.

use half::f16;

/// How a tensor's numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Dtype {
    /// IEEE half precision.
    F16,
    /// bfloat16.
    Bf16,
    /// IEEE single precision.
    F32,
}

impl Dtype {
    /// Bytes of one number.
    #[must_use]
    pub const fn size(self) -> usize {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
        }
    }

    /// The name that torch, and so `config.json`, has for it.
    #[must_use]
    pub const fn torch_name(self) -> &'static str {
        match self {
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
            Self::F32 => "float32",
        }
    }

    /// Stored bytes to numbers; exact.
    #[must_use]
    pub fn decode(self, bytes: &[u8]) -> Vec<f32> {
        let mut numbers = vec![0.0; bytes.len() / self.size()];
        self.decode_into(bytes, &mut numbers);
        numbers
    }

    /// As [`Dtype::decode`], into as many numbers as there are.
    pub fn decode_into(self, bytes: &[u8], numbers: &mut [f32]) {
        match self {
            Self::F16 => {
                numbers.iter_mut().zip(bytes.as_chunks().0).for_each(|(x, b)| *x = f16::from_le_bytes(*b).into())
            }
            Self::Bf16 => numbers.iter_mut().zip(bytes.as_chunks().0).for_each(|(x, b)| {
                *x = f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16);
            }),
            Self::F32 => numbers.iter_mut().zip(bytes.as_chunks().0).for_each(|(x, b)| *x = f32::from_le_bytes(*b)),
        }
    }

    /// The first NaN or infinity among stored bytes, as the index of its number.
    #[must_use]
    pub fn first_not_finite(self, bytes: &[u8]) -> Option<usize> {
        match self {
            Self::F16 => first(bytes.as_chunks().0, |b| u16::from_le_bytes(b) & 0x7c00 == 0x7c00),
            Self::Bf16 => first(bytes.as_chunks().0, |b| u16::from_le_bytes(b) & 0x7f80 == 0x7f80),
            Self::F32 => first(bytes.as_chunks().0, |b| u32::from_le_bytes(b) & 0x7f80_0000 == 0x7f80_0000),
        }
    }

    /// Numbers to stored bytes; rounds to nearest, ties to even, as torch does.
    #[must_use]
    pub fn encode(self, numbers: &[f32]) -> Vec<u8> {
        let mut bytes = vec![0; numbers.len() * self.size()];
        self.encode_into(numbers, &mut bytes);
        bytes
    }

    /// As [`Dtype::encode`], into as many bytes as they take.
    pub fn encode_into(self, numbers: &[f32], bytes: &mut [u8]) {
        match self {
            Self::F16 => each(numbers, bytes, |x| f16::from_f32(x).to_le_bytes()),
            Self::Bf16 => each(numbers, bytes, |x| ((round_bf16(x).to_bits() >> 16) as u16).to_le_bytes()),
            Self::F32 => each(numbers, bytes, f32::to_le_bytes),
        }
    }

    /// Makes each number the nearest one that this format holds, as [`Dtype::encode`] would.
    pub fn round(self, numbers: &mut [f32]) {
        match self {
            Self::F16 => numbers.iter_mut().for_each(|x| *x = round_f16(*x)),
            Self::Bf16 => numbers.iter_mut().for_each(|x| *x = round_bf16(*x)),
            Self::F32 => {}
        }
    }
}

/// The nearest number that f16 holds.
pub(crate) fn round_f16(x: f32) -> f32 {
    f16::from_f32(x).into()
}

/// The nearest number that bf16 holds, ties to even, without a branch: loops over it run in vector units. A NaN stays one.
#[inline(always)]
pub(crate) fn round_bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) & 0xffff_0000;
    let nan = (bits | 0x0040_0000) & 0xffff_0000;
    f32::from_bits(if x.is_nan() { nan } else { rounded })
}

/// The first of `items` that `is` so; whole blocks are looked at without a branch, in vector units.
fn first<T: Copy>(items: &[T], is: impl Fn(T) -> bool) -> Option<usize> {
    const BLOCK: usize = 1024;
    let found = items.chunks(BLOCK).position(|block| block.iter().fold(false, |any, item| any | is(*item)))? * BLOCK;
    items[found..].iter().position(|item| is(*item)).map(|at| found + at)
}

fn each<const N: usize>(numbers: &[f32], bytes: &mut [u8], encode: impl Fn(f32) -> [u8; N]) {
    for (bytes, number) in bytes.as_chunks_mut().0.iter_mut().zip(numbers) {
        *bytes = encode(*number);
    }
}

impl TryFrom<safetensors::Dtype> for Dtype {
    type Error = safetensors::Dtype;

    fn try_from(dtype: safetensors::Dtype) -> Result<Self, Self::Error> {
        match dtype {
            safetensors::Dtype::F16 => Ok(Self::F16),
            safetensors::Dtype::BF16 => Ok(Self::Bf16),
            safetensors::Dtype::F32 => Ok(Self::F32),
            other => Err(other),
        }
    }
}

impl From<Dtype> for safetensors::Dtype {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F16 => Self::F16,
            Dtype::Bf16 => Self::BF16,
            Dtype::F32 => Self::F32,
        }
    }
}

#[cfg(test)]
mod tests;
