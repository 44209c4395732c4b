//! One GPU as a collective sees it: a buffer and a stream of its own, in the context that Burn computes in.
//! It never waits for the GPU where another rank may be waited for.

use std::ffi::{c_int, c_uint, c_void};
use std::mem;
use std::ptr;

use model::engine::nvidia::{Library, Search, symbol};

use super::Error;

/// Of cuda.h: 0 is success.
type Code = c_int;
const NOT_READY: Code = 600;
/// CU_STREAM_NON_BLOCKING: it does not wait for Burn's streams.
const NON_BLOCKING: c_uint = 1;

struct Calls {
    set_current: unsafe extern "C" fn(*mut c_void) -> Code,
    allocate: unsafe extern "C" fn(*mut u64, usize) -> Code,
    free: unsafe extern "C" fn(u64) -> Code,
    to_device: unsafe extern "C" fn(u64, *const c_void, usize, *mut c_void) -> Code,
    to_host: unsafe extern "C" fn(*mut c_void, u64, usize, *mut c_void) -> Code,
    query: unsafe extern "C" fn(*mut c_void) -> Code,
}

/// A device with a stream. Nothing is given back: it lives as long as its process, whose end may be an abort.
pub(super) struct Gpu {
    calls: Calls,
    /// CUcontext and CUstream, as numbers: any thread may use them after `enter`.
    context: usize,
    stream: usize,
    /// Device memory, and its bytes.
    buffer: u64,
    capacity: usize,
}

impl Gpu {
    /// Device `index` of those visible.
    #[expect(unsafe_code, reason = "the driver is called")]
    pub(super) fn open(search: &Search, index: usize) -> Result<Self, Error> {
        let driver = search.load(Library::Driver)?;
        // SAFETY: names and signatures are those of cuda.h; the library is never unloaded, see the end.
        let (init, device, retain, create, calls) = unsafe {
            let init: unsafe extern "C" fn(c_uint) -> Code = symbol(&driver, c"cuInit")?;
            let device: unsafe extern "C" fn(*mut c_int, c_int) -> Code = symbol(&driver, c"cuDeviceGet")?;
            let retain: unsafe extern "C" fn(*mut *mut c_void, c_int) -> Code =
                symbol(&driver, c"cuDevicePrimaryCtxRetain")?;
            let create: unsafe extern "C" fn(*mut *mut c_void, c_uint) -> Code = symbol(&driver, c"cuStreamCreate")?;
            let calls = Calls {
                set_current: symbol(&driver, c"cuCtxSetCurrent")?,
                allocate: symbol(&driver, c"cuMemAlloc_v2")?,
                free: symbol(&driver, c"cuMemFree_v2")?,
                to_device: symbol(&driver, c"cuMemcpyHtoDAsync_v2")?,
                to_host: symbol(&driver, c"cuMemcpyDtoHAsync_v2")?,
                query: symbol(&driver, c"cuStreamQuery")?,
            };
            (init, device, retain, create, calls)
        };
        mem::forget(driver);
        let (mut ordinal, mut context, mut stream) = (0, ptr::null_mut(), ptr::null_mut());
        let index = c_int::try_from(index).unwrap_or(c_int::MAX);
        // SAFETY: each call writes into a variable that outlives it, and the context is current before the stream is made.
        unsafe {
            done("cuInit", init(0))?;
            done("cuDeviceGet", device(&raw mut ordinal, index))?;
            done("cuDevicePrimaryCtxRetain", retain(&raw mut context, ordinal))?;
            done("cuCtxSetCurrent", (calls.set_current)(context))?;
            done("cuStreamCreate", create(&raw mut stream, NON_BLOCKING))?;
        }
        Ok(Self {
            calls,
            context: context.expose_provenance(),
            stream: stream.expose_provenance(),
            buffer: 0,
            capacity: 0,
        })
    }

    /// Makes this device the thread's.
    #[expect(unsafe_code, reason = "the driver is called")]
    pub(super) fn enter(&self) -> Result<(), Error> {
        // SAFETY: the context was retained and is never released.
        done("cuCtxSetCurrent", unsafe { (self.calls.set_current)(handle(self.context)) })
    }

    pub(super) fn stream(&self) -> *mut c_void {
        handle(self.stream)
    }

    /// Puts `values` at the beginning of the stream; the address where they will be.
    #[expect(unsafe_code, reason = "the driver is called")]
    pub(super) fn upload(&mut self, values: &[i64]) -> Result<u64, Error> {
        let bytes = mem::size_of_val(values);
        if bytes > self.capacity {
            // SAFETY: nothing is under way in the old buffer, as every sum was waited for; 0 is no buffer and is let be.
            unsafe {
                if self.buffer != 0 {
                    done("cuMemFree", (self.calls.free)(self.buffer))?;
                }
                (self.buffer, self.capacity) = (0, 0);
                done("cuMemAlloc", (self.calls.allocate)(&raw mut self.buffer, bytes))?;
            }
            self.capacity = bytes;
        }
        // SAFETY: both sides are `bytes` long; pageable memory is read before the call returns.
        done("cuMemcpyHtoDAsync", unsafe {
            (self.calls.to_device)(self.buffer, values.as_ptr().cast(), bytes, self.stream())
        })?;
        Ok(self.buffer)
    }

    /// Whether all that was put on the stream is over.
    #[expect(unsafe_code, reason = "the driver is called")]
    pub(super) fn is_idle(&self) -> Result<bool, Error> {
        // SAFETY: the stream is never destroyed.
        match unsafe { (self.calls.query)(self.stream()) } {
            NOT_READY => Ok(false),
            code => done("cuStreamQuery", code).map(|()| true),
        }
    }

    /// Fetches what lies in the buffer. The stream is idle: this waits for a copy and for nobody else.
    #[expect(unsafe_code, reason = "the driver is called")]
    pub(super) fn download(&self, values: &mut [i64]) -> Result<(), Error> {
        let bytes = mem::size_of_val(values).min(self.capacity);
        // SAFETY: both sides hold `bytes`; into pageable memory the call returns when the copy is over.
        done("cuMemcpyDtoHAsync", unsafe {
            (self.calls.to_host)(values.as_mut_ptr().cast(), self.buffer, bytes, self.stream())
        })
    }
}

/// The driver's handle that was kept as a number.
fn handle(number: usize) -> *mut c_void {
    ptr::with_exposed_provenance_mut(number)
}

fn done(call: &'static str, code: Code) -> Result<(), Error> {
    if code == 0 { Ok(()) } else { Err(Error::Nccl { call, said: format!("CUDA error {code}") }) }
}
