//! Engines: what computes the operations of [`crate::Ops`]. Backends are named here and nowhere else.

mod burn;
mod burn_attention;

pub use self::burn::{Burn, Precision};

/// The CPU engine.
#[cfg(feature = "flex")]
pub type Cpu = Burn<::burn::backend::Flex>;

/// The CPU engine in a precision.
#[cfg(feature = "flex")]
#[must_use]
pub fn cpu(precision: Precision) -> Cpu {
    Burn::new(Default::default(), precision)
}

/// The NVIDIA engine.
#[cfg(feature = "cuda")]
pub type Cuda = Burn<::burn::backend::Cuda>;

/// The NVIDIA engine on device `index` of those visible to the process.
#[cfg(feature = "cuda")]
#[must_use]
pub fn cuda(index: usize, precision: Precision) -> Cuda {
    Burn::new(::burn::backend::cuda::CudaDevice::new(index), precision)
}
