//! Sums of int64 between GPUs over NCCL. It is loaded by name and called itself: cudarc looks for `libnccl.so` and for
//! CUDA's version numbers behind it, and NVIDIA's packages hold `libnccl.so.2`; its `Comm` aborts when dropped, which can
//! block. A communicator is never given back here: after a failure the process ends, and that is the abort.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::fmt;
use std::mem;
use std::ptr;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use model::engine::nvidia::{self, Search, symbol};

use super::Error;
use super::gpu::Gpu;

/// Of nccl.h.
type Code = c_int;
const IN_PROGRESS: Code = 7;
const INT64: c_int = 4;
const SUM: c_int = 0;
const UNDEFINED: c_int = c_int::MIN;
/// Between two looks at a sum under way.
const TICK: Duration = Duration::from_micros(100);

/// `ncclUniqueId`.
#[derive(Clone, Copy)]
#[repr(C)]
struct UniqueId([u8; 128]);

/// `ncclConfig_t` as of NCCL 2.17, which later ones take by its size and version.
#[repr(C)]
struct Config {
    size: usize,
    magic: c_uint,
    version: c_uint,
    blocking: c_int,
    cga_cluster_size: c_int,
    min_ctas: c_int,
    max_ctas: c_int,
    net_name: *const c_char,
    split_share: c_int,
}

struct Calls {
    unique_id: unsafe extern "C" fn(*mut UniqueId) -> Code,
    init: unsafe extern "C" fn(*mut *mut c_void, c_int, UniqueId, c_int, *mut Config) -> Code,
    state: unsafe extern "C" fn(*mut c_void, *mut Code) -> Code,
    all_reduce: unsafe extern "C" fn(u64, u64, usize, c_int, c_int, *mut c_void, *mut c_void) -> Code,
    words: unsafe extern "C" fn(Code) -> *const c_char,
}

/// NCCL and a device, before the ranks have met in it.
pub(super) struct Library {
    calls: Calls,
    gpu: Gpu,
}

impl Library {
    #[expect(unsafe_code, reason = "NCCL is called")]
    pub(super) fn open(search: &Search, index: usize) -> Result<Self, Error> {
        let nccl = search.load(nvidia::Library::Nccl)?;
        // SAFETY: names and signatures are those of nccl.h, stable since NCCL 2.18; the library is never unloaded.
        let calls = unsafe {
            Calls {
                unique_id: symbol(&nccl, c"ncclGetUniqueId")?,
                init: symbol(&nccl, c"ncclCommInitRankConfig")?,
                state: symbol(&nccl, c"ncclCommGetAsyncError")?,
                all_reduce: symbol(&nccl, c"ncclAllReduce")?,
                words: symbol(&nccl, c"ncclGetErrorString")?,
            }
        };
        mem::forget(nccl);
        Ok(Self { calls, gpu: Gpu::open(search, index)? })
    }

    /// What rank 0 tells the others.
    #[expect(unsafe_code, reason = "NCCL is called")]
    pub(super) fn unique_id(&self) -> Result<[u8; 128], Error> {
        let mut id = UniqueId([0; 128]);
        // SAFETY: `id` is as long as nccl.h says and outlives the call.
        self.calls.done("ncclGetUniqueId", unsafe { (self.calls.unique_id)(&raw mut id) })?;
        Ok(id.0)
    }

    /// Meets the others; `watch` ends the wait.
    #[expect(unsafe_code, reason = "NCCL is called")]
    pub(super) fn join(
        self,
        id: &[u8],
        rank: usize,
        world_size: usize,
        watch: &dyn Fn() -> Result<(), Error>,
    ) -> Result<Nccl, Error> {
        let wrong = |_| Error::Nccl { call: "ncclGetUniqueId", said: format!("an id of {} bytes", id.len()) };
        let id = UniqueId(id.try_into().map_err(wrong)?);
        let [world_size, rank] = [world_size, rank].map(|n| c_int::try_from(n).unwrap_or(c_int::MAX));
        let mut config = Config {
            size: mem::size_of::<Config>(),
            magic: 0xcafe_beef,
            version: 21_800,
            blocking: 0,
            cga_cluster_size: UNDEFINED,
            min_ctas: UNDEFINED,
            max_ctas: UNDEFINED,
            net_name: ptr::null(),
            split_share: UNDEFINED,
        };
        self.gpu.enter()?;
        let mut comm = ptr::null_mut();
        // SAFETY: `comm` and `config` outlive the call, which copies what it goes on to use.
        let begun = unsafe { (self.calls.init)(&raw mut comm, world_size, id, rank, &raw mut config) };
        self.calls.begun("ncclCommInitRankConfig", begun)?;
        let nccl = Nccl { calls: self.calls, comm: comm.expose_provenance(), gpu: Mutex::new(self.gpu) };
        nccl.settle("ncclCommInitRankConfig", watch)?;
        Ok(nccl)
    }
}

/// A communicator of all ranks of the job.
pub(super) struct Nccl {
    calls: Calls,
    /// `ncclComm_t`, as a number.
    comm: usize,
    gpu: Mutex<Gpu>,
}

impl Nccl {
    /// Adds up `values` over all ranks, wrapping. `watch` is asked while that is under way, and ends it.
    #[expect(unsafe_code, reason = "NCCL is called")]
    pub(super) fn all_reduce(&self, values: &mut [i64], watch: &dyn Fn() -> Result<(), Error>) -> Result<(), Error> {
        let mut gpu = self.gpu.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        gpu.enter()?;
        let buffer = gpu.upload(values)?;
        // SAFETY: the buffer holds that many int64 and is not touched before the stream is idle; in place is allowed.
        let begun =
            unsafe { (self.calls.all_reduce)(buffer, buffer, values.len(), INT64, SUM, self.comm(), gpu.stream()) };
        self.calls.begun("ncclAllReduce", begun)?;
        self.settle("ncclAllReduce", watch)?;
        while !gpu.is_idle()? {
            self.state("ncclAllReduce")?;
            watch()?;
            thread::sleep(TICK);
        }
        gpu.download(values)
    }

    /// Waits until NCCL has put what it was asked for on the stream.
    fn settle(&self, call: &'static str, watch: &dyn Fn() -> Result<(), Error>) -> Result<(), Error> {
        while self.state(call)? == IN_PROGRESS {
            watch()?;
            thread::sleep(TICK);
        }
        Ok(())
    }

    #[expect(unsafe_code, reason = "NCCL is called")]
    fn state(&self, call: &'static str) -> Result<Code, Error> {
        let mut state = 0;
        // SAFETY: the communicator is never destroyed, and `state` outlives the call.
        self.calls.done("ncclCommGetAsyncError", unsafe { (self.calls.state)(self.comm(), &raw mut state) })?;
        self.calls.begun(call, state)?;
        Ok(state)
    }

    fn comm(&self) -> *mut c_void {
        ptr::with_exposed_provenance_mut(self.comm)
    }
}

impl fmt::Debug for Nccl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Nccl")
    }
}

impl Calls {
    /// Under way is as good as done.
    fn begun(&self, call: &'static str, code: Code) -> Result<(), Error> {
        if code == IN_PROGRESS { Ok(()) } else { self.done(call, code) }
    }

    #[expect(unsafe_code, reason = "NCCL is called")]
    fn done(&self, call: &'static str, code: Code) -> Result<(), Error> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: the words are a constant of the library, which is never unloaded.
        let words = unsafe {
            let words = (self.words)(code);
            if words.is_null() { c"" } else { CStr::from_ptr(words) }
        };
        Err(Error::Nccl { call, said: words.to_string_lossy().into_owned() })
    }
}

#[cfg(test)]
mod tests;
