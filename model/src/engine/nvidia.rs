//! NVIDIA's libraries and devices before anything is computed with them: where the libraries lie, what the driver shows.
//! It never makes a context, so a supervisor may ask; Burn and NCCL then find what was loaded here by its name.

use std::env;
use std::error::Error as _;
use std::ffi::{CStr, OsString, c_char, c_int, c_uint};
use std::fmt;
use std::fs;
use std::mem;
use std::path::{Path, PathBuf};

use super::{Backend, DeviceError};

/// What a GPU of NVIDIA's needs beside this program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Library {
    /// `libcuda`, of the driver.
    Driver,
    /// The compiler of kernels.
    Nvrtc,
    /// Sums between several GPUs.
    Nccl,
}

/// Kernels include `cuda_runtime.h` and the first of these, and those that multiply tiles of bf16 the second, which a package of
/// its own holds.
const HEADERS: [&str; 2] = ["include/cuda_fp16.h", "include/crt/mma.h"];

impl Library {
    /// By which the loader and the wheels know it, the best first.
    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Driver => &["libcuda.so.1"],
            Self::Nvrtc => &["libnvrtc.so.13", "libnvrtc.so.12"],
            Self::Nccl => &["libnccl.so.2"],
        }
    }

    pub(super) fn how_to_get(self) -> &'static str {
        match self {
            Self::Driver => "install NVIDIA's driver, 525 or newer (in a container: start it with its GPUs)",
            Self::Nvrtc => {
                "install the CUDA toolkit, or `pip install nvidia-cuda-nvrtc nvidia-cuda-runtime nvidia-cuda-crt` in an active environment"
            }
            Self::Nccl => "install NCCL 2.18 or newer, or `pip install nvidia-nccl-cu12` in an active environment",
        }
    }
}

impl fmt::Display for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self {
            Self::Driver => "NVIDIA driver",
            Self::Nvrtc => "NVRTC",
            Self::Nccl => "NCCL",
        };
        write!(f, "{what} ({})", self.names().join(", "))
    }
}

/// Where libraries and headers are looked for.
#[derive(Clone, Debug)]
pub struct Search {
    /// The loader's own folders first: those of LD_LIBRARY_PATH and of ld.so.conf.
    by_loader: bool,
    folders: Vec<PathBuf>,
    /// Folders of Python packages; wheels keep libraries in `nvidia/*/lib` and headers in `nvidia/*/include`.
    packages: Vec<PathBuf>,
    /// Where kernels are compiled against: the folders above `include`.
    toolkits: Vec<PathBuf>,
    /// CUDA_VISIBLE_DEVICES.
    visible: Option<OsString>,
}

impl Search {
    /// What this process can see.
    #[must_use]
    pub fn of_process() -> Self {
        Self { by_loader: true, ..Self::of(&|name| env::var_os(name), Path::new("/")) }
    }

    /// With these variables, below `root`, and without asking the loader.
    #[must_use]
    pub fn of(variable: &dyn Fn(&str) -> Option<OsString>, root: &Path) -> Self {
        let is_set = |name| variable(name).filter(|value| !value.is_empty());
        let mut folders: Vec<PathBuf> = is_set("LD_LIBRARY_PATH").iter().flat_map(env::split_paths).collect();
        // Burn's own order: a distribution's compiler comes last.
        let of_distribution = root.join("usr/bin/nvcc").exists().then_some("usr");
        let toolkit = is_set("CUDA_PATH").map_or_else(
            || ["usr/local/cuda", "opt/cuda"].into_iter().chain(of_distribution).map(|at| root.join(at)).collect(),
            |folder| vec![PathBuf::from(folder)],
        );
        folders.extend(toolkit.iter().flat_map(|toolkit| ["lib64", "lib"].map(|lib| toolkit.join(lib))));
        let standard =
            ["usr/lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu", "usr/lib64", "usr/lib", "usr/lib/wsl/lib"];
        folders.extend(standard.map(|folder| root.join(folder)).into_iter().filter(|folder| folder.is_dir()));
        let mut packages = Vec::new();
        for home in ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(is_set).map(PathBuf::from) {
            packages.extend(below(&home.join("lib"), "python3", "site-packages"));
        }
        if let Some(home) = is_set("HOME") {
            packages.extend(below(&PathBuf::from(home).join(".local/lib"), "python3", "site-packages"));
        }
        packages.extend(below(&root.join("usr/local/lib"), "python3", "dist-packages"));
        packages.extend(below(&root.join("usr/lib"), "python3", "dist-packages"));
        Self { by_loader: false, folders, packages, toolkits: toolkit, visible: variable("CUDA_VISIBLE_DEVICES") }
    }

    /// Loads a library for the rest of the process, so that whoever asks the loader for its name gets it.
    ///
    /// # Errors
    /// It is nowhere, or cannot be loaded.
    #[expect(unsafe_code, reason = "a library of NVIDIA's is loaded")]
    pub fn load(&self, library: Library) -> Result<libloading::Library, DeviceError> {
        let wheels = self.packages.iter().flat_map(|packages| below(&packages.join("nvidia"), "", "lib"));
        let folders: Vec<PathBuf> = self.folders.iter().cloned().chain(wheels).collect();
        let by_name = library.names().iter().filter(|_| self.by_loader).map(PathBuf::from);
        let by_path = folders.iter().flat_map(|folder| library.names().iter().map(|name| folder.join(name)));
        let mut refused = None;
        for file in by_name.chain(by_path.filter(|file| file.exists())) {
            // SAFETY: its initialisers are NVIDIA's, which any program that uses these libraries runs.
            match unsafe { libloading::Library::new(&file) } {
                Ok(loaded) => {
                    keep_builtins(&file);
                    return Ok(loaded);
                }
                Err(error) if file.is_absolute() => {
                    let words = error.source().map_or_else(|| error.to_string(), ToString::to_string);
                    refused = Some((file, words));
                }
                Err(_) => {}
            }
        }
        Err(match refused {
            Some((file, reason)) => DeviceError::Unloadable { library, file, reason },
            None => DeviceError::NoLibrary { library, looked: self.looked() },
        })
    }

    fn looked(&self) -> String {
        let loader = ["the loader's folders (LD_LIBRARY_PATH, ld.so.conf)".to_owned()];
        let folders = self.folders.iter().map(|folder| folder.display().to_string());
        let wheels = self.packages.iter().map(|packages| format!("{}/nvidia/*/lib", packages.display()));
        let places: Vec<String> = loader.into_iter().filter(|_| self.by_loader).chain(folders).chain(wheels).collect();
        places.join(", ")
    }

    /// The compiler of kernels needs CUDA's headers where Burn looks for them.
    fn require_headers(&self) -> Result<(), DeviceError> {
        let is_there = |toolkit: &Path| HEADERS.iter().all(|header| toolkit.join(header).is_file());
        if self.toolkits.iter().find(|toolkit| toolkit.is_dir()).is_some_and(|toolkit| is_there(toolkit)) {
            return Ok(());
        }
        let mut wheels = self.packages.iter().flat_map(|packages| below(&packages.join("nvidia"), "", ""));
        let looked: Vec<String> =
            self.toolkits.iter().map(|toolkit| toolkit.join("include").display().to_string()).collect();
        Err(DeviceError::NoHeaders { looked: looked.join(", "), wheel: wheels.find(|wheel| is_there(wheel)) })
    }

    /// Kernels go from NVRTC to the driver as PTX, which a driver takes from a compiler no newer than itself.
    #[expect(unsafe_code, reason = "compiler and driver are asked")]
    fn require_versions(&self) -> Result<(), DeviceError> {
        let (driver, nvrtc) = (self.load(Library::Driver)?, self.load(Library::Nvrtc)?);
        // SAFETY: names and signatures are those of cuda.h and nvrtc.h; the libraries are never unloaded.
        let (driver_version, nvrtc_version) = unsafe {
            let driver_version: DriverVersion = symbol(&driver, c"cuDriverGetVersion")?;
            let nvrtc_version: NvrtcVersion = symbol(&nvrtc, c"nvrtcVersion")?;
            (driver_version, nvrtc_version)
        };
        mem::forget((driver, nvrtc));
        let (mut known, mut major, mut minor) = (0, 0, 0);
        // SAFETY: the variables outlive the calls; the driver answers this before it is initialised, too.
        let codes = unsafe { [driver_version(&raw mut known), nvrtc_version(&raw mut major, &raw mut minor)] };
        for (call, code) in ["cuDriverGetVersion", "nvrtcVersion"].into_iter().zip(codes) {
            said(call, code)?;
        }
        let (nvrtc, driver) = ([major, minor], [known / 1000, known % 1000 / 10]);
        if nvrtc > driver { Err(DeviceError::NewerCompiler { nvrtc, driver }) } else { Ok(()) }
    }

    /// The devices that the driver shows this process, by name, in the order in which LOCAL_RANK counts them. It is the
    /// driver that reads CUDA_VISIBLE_DEVICES: indices, UUIDs and MIG devices.
    ///
    /// # Errors
    /// There is no driver, or it does not answer.
    #[expect(unsafe_code, reason = "the driver is asked")]
    pub fn device_names(&self) -> Result<Vec<String>, DeviceError> {
        const NO_DEVICE: c_int = 100;
        let driver = self.load(Library::Driver)?;
        // SAFETY: names and signatures are those of cuda.h, stable since CUDA 2.
        let (init, count, name) = unsafe {
            let init: Init = symbol(&driver, c"cuInit")?;
            let count: Count = symbol(&driver, c"cuDeviceGetCount")?;
            let name: Name = symbol(&driver, c"cuDeviceGetName")?;
            (init, count, name)
        };
        let mut n = 0;
        // SAFETY: the flags must be 0; `n` outlives the call.
        let (begun, counted) = unsafe { (init(0), count(&raw mut n)) };
        if begun == NO_DEVICE {
            return Ok(Vec::new());
        }
        said("cuInit", begun)?;
        said("cuDeviceGetCount", counted)?;
        let mut names = Vec::new();
        for device in 0..n {
            let mut text = [0_u8; 256];
            // SAFETY: the driver writes at most 255 bytes and a zero.
            said("cuDeviceGetName", unsafe { name(text.as_mut_ptr().cast(), 255, device) })?;
            names.push(CStr::from_bytes_until_nul(&text).unwrap_or_default().to_string_lossy().into_owned());
        }
        mem::forget(driver); // What a driver has begun goes on until the process ends.
        Ok(names)
    }

    /// All that `asked` ranks on this machine need; what is loaded stays. One rank needs no NCCL.
    ///
    /// # Errors
    /// As of [`Search::require_devices`]; or there is no NCCL.
    pub fn require(&self, asked: usize) -> Result<(), DeviceError> {
        self.require_devices(asked)?;
        if asked > 1 {
            mem::forget(self.load(Library::Nccl)?);
        }
        Ok(())
    }

    /// All that the engine needs for as many devices; what is loaded stays.
    ///
    /// # Errors
    /// A library or the headers are missing, NVRTC is newer than the driver, or there are fewer devices.
    pub fn require_devices(&self, asked: usize) -> Result<(), DeviceError> {
        mem::forget(self.load(Library::Driver)?);
        mem::forget(self.load(Library::Nvrtc)?);
        self.require_headers()?;
        self.require_versions()?;
        self.require_visible(asked)
    }

    /// As many devices as are asked for, whatever else the engine needs.
    ///
    /// # Errors
    /// There is no driver, or there are fewer devices.
    pub fn require_visible(&self, asked: usize) -> Result<(), DeviceError> {
        let names = self.device_names()?;
        match names.len() {
            0 => Err(DeviceError::NoneVisible { visible: self.visible() }),
            n if n < asked => Err(DeviceError::TooFew { backend: Backend::Cuda, asked, names }),
            _ => Ok(()),
        }
    }

    fn visible(&self) -> String {
        match &self.visible {
            None => "CUDA_VISIBLE_DEVICES is not set".to_owned(),
            Some(list) if list.is_empty() => "CUDA_VISIBLE_DEVICES is empty, which hides all; unset it".to_owned(),
            Some(list) => format!("CUDA_VISIBLE_DEVICES is {}; correct it", list.to_string_lossy()),
        }
    }
}

type Init = unsafe extern "C" fn(c_uint) -> c_int;
type Count = unsafe extern "C" fn(*mut c_int) -> c_int;
type Name = unsafe extern "C" fn(*mut c_char, c_int, c_int) -> c_int;
type DriverVersion = unsafe extern "C" fn(*mut c_int) -> c_int;
type NvrtcVersion = unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int;

fn said(call: &'static str, code: c_int) -> Result<(), DeviceError> {
    if code == 0 { Ok(()) } else { Err(DeviceError::Driver { call, code }) }
}

/// A function of a library that stays loaded.
///
/// # Errors
/// The library does not have it: it is older than what is asked for.
///
/// # Safety
/// `F` is the type of a pointer to the function of that name, and the library is never unloaded.
#[expect(unsafe_code, reason = "a name has no type")]
pub unsafe fn symbol<F: Copy>(library: &libloading::Library, name: &'static CStr) -> Result<F, DeviceError> {
    // SAFETY: what the caller promises.
    let found = unsafe { library.get::<F>(name) };
    found.map(|function| *function).map_err(|_| DeviceError::NoFunction { name: name.to_str().unwrap_or_default() })
}

/// NVRTC loads a second file by name, which the loader does not look for in a wheel's folder.
#[expect(unsafe_code, reason = "a library of NVIDIA's is loaded")]
fn keep_builtins(file: &Path) {
    let is_nvrtc = file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("libnvrtc."));
    let folder = file.parent().filter(|_| is_nvrtc && file.is_absolute());
    for builtins in folder.map(|folder| below(folder, "libnvrtc-builtins.so", "")).unwrap_or_default() {
        // SAFETY: as of NVRTC itself. Where it cannot be loaded, NVRTC says so.
        if let Ok(loaded) = unsafe { libloading::Library::new(builtins) } {
            mem::forget(loaded);
        }
    }
}

/// `folder`/`prefix`*/`inside`, those that exist, in order.
fn below(folder: &Path, prefix: &str, inside: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let matching = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
    let mut found: Vec<PathBuf> =
        matching.map(|entry| if inside.is_empty() { entry.path() } else { entry.path().join(inside) }).collect();
    found.retain(|path| path.exists());
    found.sort();
    found
}

#[cfg(test)]
mod tests;
