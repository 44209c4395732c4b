use std::process::Command;

use super::*;

/// A machine below a folder: libraries and headers are where a case puts them.
struct Machine(tempfile::TempDir);

impl Machine {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    /// The stub under any name, as of CUDA 12.4.
    fn with(self, file: &str, n_devices: usize, init: i32) -> Self {
        self.of_version(file, 124, n_devices, init)
    }

    /// The stub as of ten times this version of CUDA.
    fn of_version(self, file: &str, version: i32, n_devices: usize, init: i32) -> Self {
        let file = self.at(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/engine/nvidia/stub.c");
        let defined = [format!("-DN={n_devices}"), format!("-DINIT={init}"), format!("-DVERSION={version}")];
        let made = Command::new("cc").args(defined).args(["-shared", "-fPIC", source, "-o"]).arg(file).status();
        assert!(made.unwrap().success(), "the stub compiles");
        self
    }

    fn with_headers(self, toolkit: &str) -> Self {
        for header in HEADERS {
            let header = self.at(toolkit).join(header);
            fs::create_dir_all(header.parent().unwrap()).unwrap();
            fs::File::create(header).unwrap();
        }
        self
    }

    fn search(&self, variables: &[(&str, &str)]) -> Search {
        let root = self.0.path();
        let inside = |value: &str| value.replace('@', &root.display().to_string()).into();
        Search::of(&|name| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| inside(value)), root)
    }

    /// What is said of `asked` ranks; empty: all is there.
    fn says(&self, variables: &[(&str, &str)], asked: usize) -> String {
        self.search(variables).require(asked).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[track_caller]
    fn check(&self, variables: &[(&str, &str)], asked: usize, parts: &[&str]) {
        let said = self.says(variables, asked);
        assert_eq!(said.is_empty(), parts.is_empty(), "{said}");
        assert_eq!(said.lines().count(), usize::from(!parts.is_empty()), "one line: {said}");
        for part in parts {
            assert!(
                said.contains(&part.replace('@', &self.0.path().display().to_string())),
                "{part:?} is not in {said:?}"
            );
        }
    }
}

const SYSTEM: &str = "usr/lib/x86_64-linux-gnu/libcuda.so.1";
const WHEELS: &str = "venv/lib/python3.11/site-packages/nvidia";
const VENV: [(&str, &str); 1] = [("VIRTUAL_ENV", "@/venv")];

#[test]
fn libraries_are_found_where_they_are_put() {
    let toolkit = |machine: Machine| machine.with_headers("usr/local/cuda");
    let whole = toolkit(Machine::new().with(SYSTEM, 2, 0).with("usr/local/cuda/lib64/libnvrtc.so.12", 0, 0));
    whole.check(&[], 1, &[]);
    whole.check(&[], 2, &["no NCCL (libnccl.so.2)", "looked in", "pip install nvidia-nccl-cu12", "--cpus"]);
    let elsewhere = toolkit(Machine::new().with("a/libcuda.so.1", 2, 0).with("b/libnvrtc.so.13", 0, 0));
    elsewhere.check(&[("LD_LIBRARY_PATH", "@/a:@/b")], 1, &[]);
    elsewhere.check(
        &[("LD_LIBRARY_PATH", "@/a")],
        1,
        &[
            "no NVRTC (libnvrtc.so.13, libnvrtc.so.12)",
            "@/a",
            "@/usr/local/cuda/lib64",
            "pip install nvidia-cuda-nvrtc nvidia-cuda-runtime nvidia-cuda-crt",
        ],
    );
    elsewhere.check(&[], 1, &["no NVIDIA driver (libcuda.so.1)", "install NVIDIA's driver"]);
    let distribution = Machine::new().with(SYSTEM, 1, 0).with("usr/lib/libnvrtc.so.12", 0, 0).with_headers("usr");
    distribution.check(&[], 1, &["no CUDA headers", "@/usr/local/cuda/include, @/opt/cuda/include"]);
    distribution.with("usr/bin/nvcc", 0, 0).check(&[], 1, &[]);
}

#[test]
fn wheels_of_the_active_environment_are_searched() {
    let wheels = Machine::new()
        .of_version(SYSTEM, 130, 8, 0)
        .of_version(&format!("{WHEELS}/cu13/lib/libnvrtc.so.13"), 130, 0, 0)
        .with(&format!("{WHEELS}/nccl/lib/libnccl.so.2"), 0, 0)
        .with_headers(&format!("{WHEELS}/cu13"));
    wheels.check(&VENV, 8, &["no CUDA headers", "export CUDA_PATH=@/venv/lib/python3.11/site-packages/nvidia/cu13"]);
    let path = format!("@/{WHEELS}/cu13");
    wheels.check(&[VENV[0], ("CUDA_PATH", &path)], 8, &[]);
    wheels.check(&[("CONDA_PREFIX", "@/venv"), ("CUDA_PATH", &path)], 8, &[]);
    wheels.check(&[("CUDA_PATH", &path)], 8, &["no NCCL"]);
    wheels.check(&[VENV[0], ("CUDA_PATH", "@/nothing")], 8, &["@/nothing/include", "export CUDA_PATH="]);
    // Wheels of CUDA 12 have crt/mma.h in another folder than the rest.
    fs::remove_file(wheels.at(&format!("{WHEELS}/cu13/include/crt/mma.h"))).unwrap();
    wheels.check(
        &[VENV[0], ("CUDA_PATH", &path)],
        8,
        &["no CUDA headers (cuda_fp16.h, crt/mma.h)", "pip install nvidia-cuda-runtime nvidia-cuda-crt"],
    );
}

#[test]
fn a_compiler_newer_than_the_driver_is_refused() {
    let with = |driver, nvrtc| {
        let machine = Machine::new().of_version(SYSTEM, driver, 1, 0).with_headers("usr/local/cuda");
        machine.of_version("usr/local/cuda/lib64/libnvrtc.so.12", nvrtc, 0, 0)
    };
    with(124, 124).check(&[], 1, &[]);
    with(130, 129).check(&[], 1, &[]);
    with(124, 129).check(&[], 1, &["NVRTC is of CUDA 12.9", "knows CUDA up to 12.4", "nvidia-smi"]);
    with(129, 130).check(&[], 1, &["NVRTC is of CUDA 13.0", "knows CUDA up to 12.9"]);
}

#[test]
fn more_ranks_than_devices_are_refused_with_what_is_there() {
    let with = |n, init| {
        let machine = Machine::new().with(SYSTEM, n, init).with("usr/local/cuda/lib64/libnvrtc.so.12", 0, 0);
        machine.with("usr/local/cuda/lib64/libnccl.so.2", 0, 0).with_headers("usr/local/cuda")
    };
    with(2, 0).check(&[], 2, &[]);
    with(2, 0).check(&[], 3, &["3 GPUs are asked for, and cuda has 2: Device 0, Device 1", "--gpus 2"]);
    with(0, 0).check(&[], 1, &["shows no GPU: CUDA_VISIBLE_DEVICES is not set"]);
    with(0, 100).check(&[("CUDA_VISIBLE_DEVICES", "")], 1, &["CUDA_VISIBLE_DEVICES is empty, which hides all"]);
    with(0, 100).check(&[("CUDA_VISIBLE_DEVICES", "-1")], 1, &["CUDA_VISIBLE_DEVICES is -1"]);
    with(2, 803).check(&[], 1, &["cuInit failed with CUDA error 803", "nvidia-smi"]);
}

#[test]
fn a_file_that_is_no_library_is_named_with_the_loaders_words() {
    let machine = Machine::new().with(SYSTEM, 1, 0);
    let file = machine.at("broken/libnvrtc.so.12");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::File::create(file).unwrap();
    machine.check(
        &[("LD_LIBRARY_PATH", "@/broken")],
        1,
        &["cannot be loaded from @/broken/libnvrtc.so.12", "file too short"],
    );
    let old = Machine::new().with("usr/local/cuda/lib64/libnvrtc.so.12", 0, 0);
    // SAFETY is with `symbol`; here the library has no such function.
    let library = old.search(&[]).load(Library::Nvrtc).unwrap();
    #[expect(unsafe_code, reason = "as above")]
    // SAFETY: nothing is found, so nothing is called.
    let found = unsafe { symbol::<Init>(&library, c"cuNothing") };
    assert!(found.unwrap_err().to_string().contains("no cuNothing: it is too old"));
}
