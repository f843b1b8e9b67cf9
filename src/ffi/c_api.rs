//! The C functions by which other extension modules use the loop: `_ferroloop._C_API`.
//!
//! `include/ferroloop.rs` defines the table and contains the extension's side. A higher layer
//! defines what the functions do, by an [`Implementation`].

use std::ffi::{c_int, c_void};
use std::future::Future;
use std::mem::ManuallyDrop;
use std::os::fd::RawFd;
use std::pin::Pin;
use std::time::Duration;

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;

use crate::ffi::panic;

#[path = "../../include/ferroloop.rs"]
mod abi;

use abi::{Api, HandleFunctions, RawCall, RawFuture, RawHandle};
pub use abi::{ExecutorFuture, ExecutorTask, run_on_executor};

/// A future that another module has passed to us.
pub type ForeignFuture = abi::LoopFuture;

/// A future that is passed to another module.
pub type ExportedFuture = Pin<Box<dyn Future<Output = PyResult<Py<PyAny>>>>>;

/// A call that another module makes in a loop's thread.
pub struct ForeignCall(RawCall);

// SAFETY: a call is made in another thread than the one that passed it to us, by its contract.
unsafe impl Send for ForeignCall {}

impl ForeignCall {
    /// Makes the call.
    pub fn make(self, event_loop: &Bound<'_, PyAny>) -> PyResult<()> {
        let call = ManuallyDrop::new(self);
        // SAFETY: attached, with a live object; the call releases the data, which is not used again.
        let made = unsafe { ((*call.0.functions).call)(call.0.data, event_loop.as_ptr()) };
        if made == 0 { Ok(()) } else { Err(PyErr::fetch(event_loop.py())) }
    }
}

impl Drop for ForeignCall {
    fn drop(&mut self) {
        // SAFETY: the call was not made; the data is not used again.
        unsafe { ((*self.0.functions).drop)(self.0.data) };
    }
}

/// The behaviour of the functions of the table.
pub trait Implementation {
    /// Refers to a loop from any thread.
    type Handle: Clone + Send + Sync + 'static;

    /// Creates a coroutine that runs `future`.
    fn coroutine<'py>(
        py: Python<'py>,
        name: String,
        future: ForeignFuture,
    ) -> PyResult<Bound<'py, PyAny>>;
    /// Creates a task that runs `future`, in a context or in a copy of the current one.
    fn spawn<'py>(
        py: Python<'py>,
        name: Option<String>,
        context: Option<Bound<'py, PyAny>>,
        future: ForeignFuture,
    ) -> PyResult<Bound<'py, PyAny>>;
    /// Awaits a Python awaitable.
    fn await_object(awaitable: Bound<'_, PyAny>) -> PyResult<ExportedFuture>;
    /// Waits for `duration`.
    fn sleep(duration: Duration) -> ExportedFuture;
    /// Waits until a descriptor is ready, for writing or for reading.
    fn ready(fd: RawFd, for_writing: bool) -> ExportedFuture;
    /// The loop that runs in this thread.
    fn running_loop(py: Python<'_>) -> PyResult<Bound<'_, PyAny>>;
    /// A handle of a loop.
    fn handle(event_loop: &Bound<'_, PyAny>) -> PyResult<Self::Handle>;
    /// Makes a call in the thread of a loop. Returns false if the loop is closed. Needs no GIL.
    fn call(handle: &Self::Handle, call: ForeignCall) -> bool;
}

/// The capsule that contains the table.
pub fn capsule<I: Implementation>(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    let table: &'static Api = const {
        &Api {
            version: abi::VERSION,
            size: size_of::<Api>() as u32,
            coroutine: coroutine::<I>,
            spawn: spawn::<I>,
            await_object: await_object::<I>,
            sleep: sleep::<I>,
            ready: ready::<I>,
            running_loop: running_loop::<I>,
            spawn_with: spawn_with::<I>,
            handle: handle::<I>,
        }
    };
    // SAFETY: attached; table and name live as long as the process, and there is no destructor.
    unsafe {
        let pointer = std::ptr::from_ref(table).cast_mut().cast();
        let capsule = ffi::PyCapsule_New(pointer, abi::CAPSULE.as_ptr(), None);
        Bound::from_owned_ptr_or_err(py, capsule)
    }
}

/// Runs `body` for a C caller that holds the GIL. Errors and panics are set as the raised
/// exception, and `failure` is returned.
fn call_for_c<R>(failure: R, body: impl FnOnce(Python<'_>) -> PyResult<R>) -> R {
    Python::attach(|py| {
        let done = panic::catch(|| body(py)).unwrap_or_else(|_message| {
            Err(PyRuntimeError::new_err("ferroloop: internal error (panic)"))
        });
        done.unwrap_or_else(|error| {
            error.restore(py);
            failure
        })
    })
}

/// The text of `length` bytes at `start`, or `None` if `start` is null.
///
/// # Safety
/// `length` bytes must be readable at `start`, unless it is null.
unsafe fn text(start: *const u8, length: usize) -> PyResult<Option<String>> {
    if start.is_null() {
        return Ok(None);
    }
    // SAFETY: guaranteed by the caller.
    let bytes = unsafe { std::slice::from_raw_parts(start, length) };
    let text = std::str::from_utf8(bytes).map_err(|error| PyValueError::new_err(error.to_string()));
    text.map(|text| Some(text.to_owned()))
}

unsafe extern "C" fn coroutine<I: Implementation>(
    future: RawFuture,
    name: *const u8,
    length: usize,
) -> *mut ffi::PyObject {
    // SAFETY: the caller passes ownership of the future.
    let future = unsafe { ForeignFuture::from_raw(future) };
    call_for_c(std::ptr::null_mut(), |py| {
        // SAFETY: the caller passes a name of this length.
        let name = unsafe { text(name, length) }?.unwrap_or_default();
        I::coroutine(py, name, future).map(Bound::into_ptr)
    })
}

unsafe extern "C" fn spawn<I: Implementation>(
    future: RawFuture,
    name: *const u8,
    length: usize,
) -> *mut ffi::PyObject {
    // SAFETY: as this function; a null context is allowed.
    unsafe { spawn_with::<I>(future, name, length, std::ptr::null_mut()) }
}

unsafe extern "C" fn spawn_with<I: Implementation>(
    future: RawFuture,
    name: *const u8,
    length: usize,
    context: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the caller passes ownership of the future.
    let future = unsafe { ForeignFuture::from_raw(future) };
    call_for_c(std::ptr::null_mut(), |py| {
        // SAFETY: the caller passes a name of this length, or null.
        let name = unsafe { text(name, length) }?;
        // SAFETY: the caller passes a live object, or null.
        let context = unsafe { Bound::from_borrowed_ptr_or_opt(py, context) };
        I::spawn(py, name, context, future).map(Bound::into_ptr)
    })
}

unsafe extern "C" fn await_object<I: Implementation>(
    awaitable: *mut ffi::PyObject,
    out: *mut RawFuture,
) -> c_int {
    call_for_c(-1, |py| {
        // SAFETY: the caller passes a live object.
        let awaitable = unsafe { Bound::from_borrowed_ptr(py, awaitable) };
        let future = I::await_object(awaitable)?;
        // SAFETY: the caller passes a valid pointer.
        unsafe { out.write(abi::into_raw(future)) };
        Ok(0)
    })
}

unsafe extern "C" fn sleep<I: Implementation>(seconds: f64, out: *mut RawFuture) -> c_int {
    call_for_c(-1, |_py| {
        // `Duration::MAX` in seconds is rounded up.
        let duration = if seconds >= Duration::MAX.as_secs_f64() {
            Duration::MAX
        } else {
            Duration::try_from_secs_f64(seconds)
                .map_err(|error| PyValueError::new_err(error.to_string()))?
        };
        // SAFETY: the caller passes a valid pointer.
        unsafe { out.write(abi::into_raw(I::sleep(duration))) };
        Ok(0)
    })
}

unsafe extern "C" fn ready<I: Implementation>(
    fd: c_int,
    direction: c_int,
    out: *mut RawFuture,
) -> c_int {
    call_for_c(-1, |_py| {
        let for_writing = match direction {
            abi::READ => false,
            abi::WRITE => true,
            _ => return Err(PyValueError::new_err("direction must be READ or WRITE")),
        };
        // SAFETY: the caller passes a valid pointer.
        unsafe { out.write(abi::into_raw(I::ready(fd, for_writing))) };
        Ok(0)
    })
}

unsafe extern "C" fn running_loop<I: Implementation>() -> *mut ffi::PyObject {
    call_for_c(std::ptr::null_mut(), |py| I::running_loop(py).map(Bound::into_ptr))
}

unsafe extern "C" fn handle<I: Implementation>(
    event_loop: *mut ffi::PyObject,
    out: *mut RawHandle,
) -> c_int {
    call_for_c(-1, |py| {
        // SAFETY: the caller passes a live object.
        let event_loop = unsafe { Bound::from_borrowed_ptr(py, event_loop) };
        let handle = Box::into_raw(Box::new(I::handle(&event_loop)?));
        let functions = const {
            &HandleFunctions {
                clone: clone_handle::<I>,
                call: call_handle::<I>,
                drop: drop_handle::<I>,
            }
        };
        // SAFETY: the caller passes a valid pointer.
        unsafe { out.write(RawHandle { data: handle.cast_const().cast(), functions }) };
        Ok(0)
    })
}

unsafe extern "C" fn clone_handle<I: Implementation>(data: *const c_void) -> *const c_void {
    // SAFETY: the data of a live handle.
    let handle = unsafe { &*data.cast::<I::Handle>() };
    Box::into_raw(Box::new(handle.clone())).cast_const().cast()
}

unsafe extern "C" fn call_handle<I: Implementation>(data: *const c_void, call: RawCall) -> c_int {
    // SAFETY: the data of a live handle.
    let handle = unsafe { &*data.cast::<I::Handle>() };
    if I::call(handle, ForeignCall(call)) { 0 } else { -1 }
}

unsafe extern "C" fn drop_handle<I: Implementation>(data: *const c_void) {
    // SAFETY: the box of `handle` or `clone_handle`, dropped once.
    drop(unsafe { Box::from_raw(data.cast_mut().cast::<I::Handle>()) });
}
