//! Engines: what computes the operations of [`crate::Ops`]. Backends are named here and nowhere else.
//!
//! [`Cpu`] is written for processors, [`Burn`] works on any Burn backend: GPUs, and the CPU as a second witness.

mod burn;
mod burn_attention;
mod cpu;
mod device;
pub mod kernels;
pub mod nvidia;
#[cfg(feature = "vulkan")]
mod vulkan;

pub use self::burn::Burn;
pub(crate) use self::burn::MAX_SCORES;
pub(crate) use self::cpu::exp;
pub use self::cpu::{Cpu, Matrix};
pub use self::device::{Backend, Device, DeviceError, Work};

/// Precision of activations and frozen weights; adapters and their gradients are always f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    F32,
    Bf16,
}

/// The NVIDIA engine.
#[cfg(feature = "cuda")]
pub type Cuda = Burn<::burn::backend::Cuda, kernels::Cube>;

/// The NVIDIA engine on device `index` of those visible to the process.
///
/// # Errors
/// A library is missing, or there is no such device.
#[cfg(feature = "cuda")]
pub fn cuda(index: usize, precision: Precision) -> Result<Cuda, DeviceError> {
    nvidia::Search::of_process().require_devices(index + 1)?;
    Ok(Burn::new(::burn::backend::cuda::CudaDevice::new(index), precision))
}

/// The engine on a GPU of any vendor.
#[cfg(feature = "vulkan")]
pub type Vulkan = Burn<::burn::backend::Vulkan, kernels::Cube>;

/// The engine on Vulkan's device `index`: GPUs first, the CPU through a software driver where there is none.
///
/// # Errors
/// There is no driver, or no such device.
#[cfg(feature = "vulkan")]
pub fn vulkan(index: usize, precision: Precision) -> Result<Vulkan, DeviceError> {
    Ok(Burn::new(vulkan::device(index)?, precision))
}

/// `(v / 255 - 0.5) / 0.5` of each u8, in the order of roundings of the reference's image processor.
fn normalised_pixels() -> [f32; 256] {
    std::array::from_fn(|v| ((v as f64 * (1.0 / 255.0)) as f32 - 0.5) / 0.5)
}
