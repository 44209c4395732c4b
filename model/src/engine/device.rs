//! Which engine computes, chosen while the program runs. Features say what a build has; this file alone looks at them.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::nvidia::Library;
use super::{Cpu, Precision};
use crate::ops::Ops;

/// What GPUs are reached through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backend {
    /// NVIDIA's driver.
    Cuda,
    /// Any vendor's driver of Vulkan; Mesa's software Vulkan where there is no GPU.
    Vulkan,
}

/// Where the model is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// This machine's cores.
    Cpu,
    /// A GPU, by its index among those the process may see.
    Gpu(Backend, usize),
}

/// Why there is no engine on a device.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// This build has no engine of any backend.
    #[error(
        "--gpus needs a build with an engine for GPUs; make one with `cargo build --release -p launch --features cuda` (NVIDIA) or `--features vulkan` (any vendor), or use --cpus"
    )]
    NoneBuilt,
    /// This build has no engine of the backend.
    #[error(
        "--backend {0} needs a build with that engine; make one with `cargo build --release -p launch --features {0}`, or use --cpus"
    )]
    NotBuilt(Backend),
    /// No driver of Vulkan, or one without a device.
    #[error(
        "no Vulkan device: libvulkan.so.1 and the drivers of /etc/vulkan/icd.d, /usr/share/vulkan/icd.d and VK_DRIVER_FILES (VK_ICD_FILENAMES) were asked; install the vendor's driver, or Mesa's software Vulkan (Debian: apt install libvulkan1 mesa-vulkan-drivers), and see `vulkaninfo --summary`"
    )]
    NoVulkan,
    /// A library of NVIDIA's is nowhere.
    #[error("no {library}: looked in {looked}; {}, or use --cpus", library.how_to_get())]
    NoLibrary {
        /// Which.
        library: Library,
        /// Where it was looked for.
        looked: String,
    },
    /// A library of NVIDIA's is there and of no use.
    #[error("{library} cannot be loaded from {}: {reason}; {}", file.display(), library.how_to_get())]
    Unloadable {
        /// Which.
        library: Library,
        /// Its file.
        file: PathBuf,
        /// The loader's words.
        reason: String,
    },
    /// A library of NVIDIA's that is too old.
    #[error("NVIDIA's library has no {name}: it is too old; docs/gpu.md has the versions that are needed")]
    NoFunction {
        /// What it does not have.
        name: &'static str,
    },
    /// Kernels cannot be compiled.
    #[error("no CUDA headers (cuda_fp16.h, crt/mma.h): looked in {looked}; {}", wheel.as_ref().map_or_else(
        || "install the CUDA toolkit, or `pip install nvidia-cuda-runtime nvidia-cuda-crt` and set CUDA_PATH to their folder nvidia/cu13".to_owned(),
        |wheel| format!("a wheel has them: export CUDA_PATH={}", wheel.display()),
    ))]
    NoHeaders {
        /// Where they were looked for.
        looked: String,
        /// A folder of a wheel that has them.
        wheel: Option<PathBuf>,
    },
    /// The driver cannot take what NVRTC makes.
    #[error("NVRTC is of CUDA {}.{} and NVIDIA's driver knows CUDA up to {}.{}: it would refuse every kernel; install a newer driver or an NVRTC no newer than that, see `nvidia-smi`", nvrtc[0], nvrtc[1], driver[0], driver[1])]
    NewerCompiler {
        /// Major and minor version.
        nvrtc: [i32; 2],
        /// The newest that the driver knows.
        driver: [i32; 2],
    },
    /// NVIDIA's driver does not answer.
    #[error("NVIDIA's driver: {call} failed with CUDA error {code}; see `nvidia-smi`")]
    Driver {
        /// What was asked.
        call: &'static str,
        /// Its answer, of cuda.h.
        code: i32,
    },
    /// NVIDIA's driver shows this process no device.
    #[error("NVIDIA's driver shows no GPU: {visible}; see `nvidia-smi -L`, or use --cpus")]
    NoneVisible {
        /// What CUDA_VISIBLE_DEVICES says.
        visible: String,
    },
    /// More devices are asked for than there are.
    #[error("{asked} GPUs are asked for, and {backend} has {n}: {}; one rank a device, so give --gpus {n} at most", names.join(", "), n = names.len())]
    TooFew {
        /// What they were looked for with.
        backend: Backend,
        /// The number of devices that are needed.
        asked: usize,
        /// Those that were found.
        names: Vec<String>,
    },
}

impl DeviceError {
    /// Nothing is wrong but that this machine has no GPU that can be seen.
    #[must_use]
    pub fn is_of_a_machine_without_gpu(&self) -> bool {
        let no_driver = matches!(self, Self::NoLibrary { library: Library::Driver, .. });
        no_driver || matches!(self, Self::NoVulkan | Self::NoneVisible { .. })
    }
}

impl Backend {
    /// The one asked for, or the best of this build.
    ///
    /// # Errors
    /// This build does not have it, or none.
    pub fn of_build(asked: Option<Self>) -> Result<Self, DeviceError> {
        match asked {
            Some(backend) if backend.is_built() => Ok(backend),
            Some(backend) => Err(DeviceError::NotBuilt(backend)),
            None => [Self::Cuda, Self::Vulkan].into_iter().find(|b| b.is_built()).ok_or(DeviceError::NoneBuilt),
        }
    }

    fn is_built(self) -> bool {
        match self {
            Self::Cuda => cfg!(feature = "cuda"),
            Self::Vulkan => cfg!(feature = "vulkan"),
        }
    }

    /// Refuses more ranks than devices, where these can be counted before they are used.
    ///
    /// # Errors
    /// This build does not have the backend; no driver; fewer devices than `asked`.
    pub fn require(self, asked: usize) -> Result<(), DeviceError> {
        match self {
            #[cfg(feature = "cuda")]
            Self::Cuda => super::nvidia::Search::of_process().require(asked),
            #[cfg(feature = "vulkan")]
            Self::Vulkan => super::vulkan::device(asked.saturating_sub(1)).map(|_| ()),
            #[cfg(not(all(feature = "cuda", feature = "vulkan")))]
            backend => {
                let _ = asked; // Of an engine that is not here nothing is counted.
                Err(DeviceError::NotBuilt(backend))
            }
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cuda => "cuda",
            Self::Vulkan => "vulkan",
        })
    }
}

/// What is done on an engine that is known only when the program runs.
pub trait Work {
    /// What comes of it.
    type Done;
    /// Does it.
    fn on<O: Ops>(self, ops: O) -> Self::Done;
}

impl Device {
    /// The CPU; or the first GPU, through the backend asked for or the best of this build.
    ///
    /// # Errors
    /// As of [`Backend::of_build`].
    pub fn first(gpu: bool, asked: Option<Backend>) -> Result<Self, DeviceError> {
        if gpu { Ok(Self::Gpu(Backend::of_build(asked)?, 0)) } else { Ok(Self::Cpu) }
    }

    /// Does `work` on this device.
    ///
    /// # Errors
    /// This build has no engine for it, or the machine no such device.
    pub fn run<W: Work>(self, precision: Precision, work: W) -> Result<W::Done, DeviceError> {
        match self {
            Self::Cpu => Ok(work.on(Cpu::new(precision))),
            #[cfg(feature = "cuda")]
            Self::Gpu(Backend::Cuda, index) => Ok(work.on(super::cuda(index, precision)?)),
            #[cfg(feature = "vulkan")]
            Self::Gpu(Backend::Vulkan, index) => Ok(work.on(super::vulkan(index, precision)?)),
            #[cfg(not(all(feature = "cuda", feature = "vulkan")))]
            Self::Gpu(backend, _) => Err(DeviceError::NotBuilt(backend)),
        }
    }
}
