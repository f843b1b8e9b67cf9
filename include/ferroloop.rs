//! Rust futures on ferroloop's event loop, for other extension modules.
//!
//! Copy this file into your PyO3 extension; it needs `pyo3` and nothing of ferroloop's crate. At
//! run time it finds the Python package `ferroloop` and talks to it through a table of C functions
//! (the capsule `ferroloop._ferroloop._C_API`), so the two modules may be built by different
//! compilers and with different versions of PyO3.
//!
//! ```ignore
//! mod ferroloop;
//!
//! #[pyfunction]
//! fn answer(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
//!     ferroloop::coroutine(py, "answer", async {
//!         ferroloop::sleep(Duration::from_millis(5)).await?;
//!         Ok(42)
//!     })
//! }
//! ```
//!
//! Futures are made, polled and dropped in the loop's thread, with the GIL held; wakers may be
//! called in any thread and need no GIL.

use std::ffi::{c_int, c_void};
use std::future::Future;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::os::fd::RawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::ptr;
use std::task::{Context, Poll, RawWaker, RawWakerVTable, Waker};
use std::time::Duration;

use pyo3::IntoPyObjectExt;
use pyo3::exceptions::{PyImportError, PyRuntimeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyCapsule;

/// The version of the table below. Fields are only ever added at its end.
pub const VERSION: u32 = 1;

/// [`FutureFunctions::poll`]: not ready; the waker will be called.
pub const PENDING: c_int = 0;
/// [`FutureFunctions::poll`]: done; the result is a new reference.
pub const READY: c_int = 1;
/// [`FutureFunctions::poll`]: done; an exception is set.
pub const FAILED: c_int = -1;

/// [`Api::ready`]: data, a connection, end of file or an error can be read.
pub const READ: c_int = 0;
/// [`Api::ready`]: something can be written.
pub const WRITE: c_int = 1;

/// A future, owned by whoever holds this. All calls in the thread that made it, with the GIL.
#[repr(C)]
pub struct RawFuture {
    /// Argument of the functions.
    pub data: *mut c_void,
    /// What can be done with it.
    pub functions: *const FutureFunctions,
}

/// What can be done with a [`RawFuture`]. No function may unwind.
#[repr(C)]
pub struct FutureFunctions {
    /// Polls; answers [`PENDING`], [`READY`] or [`FAILED`]. Not called again after the latter two.
    /// The waker is lent: to keep it, clone it.
    pub poll: unsafe extern "C" fn(
        data: *mut c_void,
        waker: *const BorrowedWaker,
        result: *mut *mut ffi::PyObject,
    ) -> c_int,
    /// Drops the future, done or not. The last call.
    pub drop: unsafe extern "C" fn(data: *mut c_void),
}

/// A waker. Its functions may be called in any thread, without the GIL.
#[repr(C)]
pub struct BorrowedWaker {
    /// Argument of the functions.
    pub data: *const c_void,
    /// What can be done with it.
    pub functions: *const WakerFunctions,
}

/// What can be done with a waker.
#[repr(C)]
pub struct WakerFunctions {
    /// A new reference, as data for the same functions.
    pub clone: unsafe extern "C" fn(data: *const c_void) -> *const c_void,
    /// Wakes; keeps the reference.
    pub wake: unsafe extern "C" fn(data: *const c_void),
    /// Gives a reference of `clone` back.
    pub drop: unsafe extern "C" fn(data: *const c_void),
}

/// The table that the capsule points to. All functions need the GIL; those that return a pointer
/// or an int answer null or -1 with an exception set when they fail.
#[repr(C)]
pub struct Api {
    /// [`VERSION`] of the module that made the table; a higher one has more fields.
    pub version: u32,
    /// Size of the table in bytes.
    pub size: u32,
    /// A coroutine (a new reference) that runs the future, which it owns even if it fails. The
    /// name is UTF-8 of the length given, and is copied.
    pub coroutine:
        unsafe extern "C" fn(RawFuture, name: *const u8, length: usize) -> *mut ffi::PyObject,
    /// As `coroutine`, but a task of the running loop; without a name for a null pointer.
    pub spawn:
        unsafe extern "C" fn(RawFuture, name: *const u8, length: usize) -> *mut ffi::PyObject,
    /// A future that awaits a Python awaitable, of which it takes a reference.
    pub await_object: unsafe extern "C" fn(*mut ffi::PyObject, *mut RawFuture) -> c_int,
    /// A future that is ready after so many seconds, with None.
    pub sleep: unsafe extern "C" fn(seconds: f64, *mut RawFuture) -> c_int,
    /// A future that is ready, with None, when the descriptor is, in direction [`READ`] or
    /// [`WRITE`]. The descriptor must stay open until the future is dropped.
    pub ready: unsafe extern "C" fn(fd: c_int, direction: c_int, *mut RawFuture) -> c_int,
}

/// The capsule's name.
pub const CAPSULE: &std::ffi::CStr = c"ferroloop._ferroloop._C_API";

fn api(py: Python<'_>) -> PyResult<&'static Api> {
    struct Table(&'static Api);
    static TABLE: PyOnceLock<Table> = PyOnceLock::new();
    let find = || {
        let module = py.import("ferroloop")?.getattr("_ferroloop")?;
        let capsule = module.getattr("_C_API")?;
        let capsule = capsule.cast::<PyCapsule>()?;
        let pointer = capsule.pointer_checked(Some(CAPSULE))?;
        // SAFETY: a capsule of this name points to a table that lives as long as the process.
        let table = unsafe { pointer.cast::<Api>().as_ref() };
        if table.version < VERSION {
            return Err(PyImportError::new_err("this extension needs a newer ferroloop"));
        }
        Ok(Table(table))
    };
    Ok(TABLE.get_or_try_init(py, find)?.0)
}

/// A Python coroutine that runs `future` when it is awaited, on ferroloop's loop of this thread.
///
/// A panic becomes RuntimeError. Cancellation drops the future.
pub fn coroutine<'py, F, T>(py: Python<'py>, name: &str, future: F) -> PyResult<Bound<'py, PyAny>>
where
    F: Future<Output = PyResult<T>> + 'static,
    T: for<'a> IntoPyObject<'a> + 'static,
{
    let api = api(py)?;
    // SAFETY: attached; the name lives during the call; answers a new reference or null.
    unsafe {
        let coroutine = (api.coroutine)(into_raw(converted(future)), name.as_ptr(), name.len());
        Bound::from_owned_ptr_or_err(py, coroutine)
    }
}

/// Runs `future` as a task of ferroloop's loop that runs in this thread; returns the task.
pub fn spawn<'py, F, T>(
    py: Python<'py>,
    name: Option<&str>,
    future: F,
) -> PyResult<Bound<'py, PyAny>>
where
    F: Future<Output = PyResult<T>> + 'static,
    T: for<'a> IntoPyObject<'a> + 'static,
{
    let api = api(py)?;
    let (start, length) = name.map_or((ptr::null(), 0), |name| (name.as_ptr(), name.len()));
    // SAFETY: as above.
    unsafe {
        Bound::from_owned_ptr_or_err(py, (api.spawn)(into_raw(converted(future)), start, length))
    }
}

/// Awaits a Python awaitable. Dropping the future cancels what it awaits.
pub fn into_future(awaitable: &Bound<'_, PyAny>) -> PyResult<LoopFuture> {
    let api = api(awaitable.py())?;
    // SAFETY: attached, a live object; the place is valid.
    LoopFuture::made_by(awaitable.py(), |place| unsafe {
        (api.await_object)(awaitable.as_ptr(), place)
    })
}

/// Waits for `duration`, counted from the first poll.
pub async fn sleep(duration: Duration) -> PyResult<()> {
    let sleep = Python::attach(|py| {
        let api = api(py)?;
        // SAFETY: attached; the place is valid.
        LoopFuture::made_by(py, |place| unsafe { (api.sleep)(duration.as_secs_f64(), place) })
    })?;
    sleep.await.map(drop)
}

/// Waits until `fd`, which must stay open meanwhile, is ready: [`READ`] or [`WRITE`].
pub async fn ready(fd: RawFd, direction: c_int) -> PyResult<()> {
    let ready = Python::attach(|py| {
        let api = api(py)?;
        // SAFETY: attached; the place is valid.
        LoopFuture::made_by(py, |place| unsafe { (api.ready)(fd, direction, place) })
    })?;
    ready.await.map(drop)
}

/// A future that ferroloop has made. It stays in its thread.
pub struct LoopFuture {
    raw: RawFuture,
    _local: PhantomData<*const ()>,
}

impl LoopFuture {
    /// # Safety
    /// The future is owned by nobody else, and its functions do what they should.
    pub unsafe fn from_raw(raw: RawFuture) -> Self {
        Self { raw, _local: PhantomData }
    }

    fn made_by(py: Python<'_>, make: impl FnOnce(*mut RawFuture) -> c_int) -> PyResult<Self> {
        let mut raw = RawFuture { data: ptr::null_mut(), functions: ptr::null() };
        if make(&mut raw) != 0 {
            return Err(PyErr::fetch(py));
        }
        // SAFETY: just made, for us.
        Ok(unsafe { Self::from_raw(raw) })
    }
}

impl Future for LoopFuture {
    type Output = PyResult<Py<PyAny>>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // A waker of ours as data, for the functions below.
        let waker = BorrowedWaker {
            data: ptr::from_ref(context.waker()).cast(),
            functions: &FOR_FERROLOOP,
        };
        Python::attach(|py| {
            let mut result = ptr::null_mut();
            // SAFETY: attached, in the future's thread; both places are valid during the call.
            match unsafe { ((*self.raw.functions).poll)(self.raw.data, &waker, &mut result) } {
                PENDING => Poll::Pending,
                // SAFETY: a new reference.
                READY => Poll::Ready(Ok(unsafe { Bound::from_owned_ptr(py, result) }.unbind())),
                _ => Poll::Ready(Err(PyErr::fetch(py))),
            }
        })
    }
}

impl Drop for LoopFuture {
    fn drop(&mut self) {
        // While the interpreter ends the future is left alone.
        let _ = Python::try_attach(|_py| {
            // SAFETY: attached, in the future's thread; dropped once.
            unsafe { ((*self.raw.functions).drop)(self.raw.data) };
        });
    }
}

/// The future with its output made a Python object.
async fn converted<F, T>(future: F) -> PyResult<Py<PyAny>>
where
    F: Future<Output = PyResult<T>> + 'static,
    T: for<'a> IntoPyObject<'a> + 'static,
{
    let value = future.await?;
    Python::attach(|py| value.into_py_any(py))
}

/// A future of this module for ferroloop.
pub fn into_raw<F: Future<Output = PyResult<Py<PyAny>>> + 'static>(future: F) -> RawFuture {
    RawFuture {
        data: Box::into_raw(Box::new(future)).cast(),
        functions: const { &FutureFunctions { poll: poll_boxed::<F>, drop: drop_boxed::<F> } },
    }
}

unsafe extern "C" fn poll_boxed<F: Future<Output = PyResult<Py<PyAny>>>>(
    data: *mut c_void,
    waker: *const BorrowedWaker,
    result: *mut *mut ffi::PyObject,
) -> c_int {
    // SAFETY: `data` is the box of `into_raw`, which nobody else uses during the call and which
    // stays where it is until it is dropped.
    let future = unsafe { Pin::new_unchecked(&mut *data.cast::<F>()) };
    // SAFETY: the waker is valid during the call, and so is this one, which is lent on.
    let waker = ManuallyDrop::new(unsafe { Waker::new(waker.cast(), &LENT) });
    let polled = catch_unwind(AssertUnwindSafe(|| future.poll(&mut Context::from_waker(&waker))));
    Python::attach(|py| match polled {
        Ok(Poll::Pending) => PENDING,
        Ok(Poll::Ready(Ok(value))) => {
            // SAFETY: a valid place; it gets the reference.
            unsafe { *result = value.into_ptr() };
            READY
        }
        Ok(Poll::Ready(Err(error))) => {
            error.restore(py);
            FAILED
        }
        Err(payload) => {
            let message = payload
                .downcast_ref::<&str>()
                .copied()
                .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
                .unwrap_or("unknown reason");
            PyRuntimeError::new_err(format!("Rust future panicked: {message}")).restore(py);
            FAILED
        }
    })
}

unsafe extern "C" fn drop_boxed<F>(data: *mut c_void) {
    // SAFETY: the box of `into_raw`, dropped once.
    let future = unsafe { Box::from_raw(data.cast::<F>()) };
    // A panic in a destructor has been told of by the hook, and must not get into C.
    drop(catch_unwind(AssertUnwindSafe(|| drop(future))));
}

/// A reference to a waker of the other side.
struct OwnedWaker {
    data: *const c_void,
    functions: *const WakerFunctions,
}

impl OwnedWaker {
    /// # Safety
    /// The waker must be valid, and its functions as long as the process.
    unsafe fn raw(data: *const c_void, functions: *const WakerFunctions) -> RawWaker {
        // SAFETY: by the contract of this function.
        let data = unsafe { ((*functions).clone)(data) };
        let owned = Box::new(OwnedWaker { data, functions });
        RawWaker::new(Box::into_raw(owned).cast_const().cast(), &OWNED)
    }
}

/// For a [`BorrowedWaker`] during a poll.
static LENT: RawWakerVTable = RawWakerVTable::new(
    |data| {
        // SAFETY: the pointer is to a waker that is valid during the poll.
        unsafe {
            let waker = &*data.cast::<BorrowedWaker>();
            OwnedWaker::raw(waker.data, waker.functions)
        }
    },
    wake_lent,
    wake_lent,
    |_data| {},
);

unsafe fn wake_lent(data: *const ()) {
    // SAFETY: the pointer is to a waker that is valid during the poll.
    unsafe {
        let waker = &*data.cast::<BorrowedWaker>();
        ((*waker.functions).wake)(waker.data);
    }
}

/// For a box of an [`OwnedWaker`], which works in any thread.
static OWNED: RawWakerVTable = RawWakerVTable::new(
    |data| {
        // SAFETY: the pointer is to a box made by `OwnedWaker::raw`.
        unsafe {
            let waker = &*data.cast::<OwnedWaker>();
            OwnedWaker::raw(waker.data, waker.functions)
        }
    },
    |data| {
        // SAFETY: as above; the last use of the box.
        unsafe {
            let waker = Box::from_raw(data.cast_mut().cast::<OwnedWaker>());
            ((*waker.functions).wake)(waker.data);
            ((*waker.functions).drop)(waker.data);
        }
    },
    |data| {
        // SAFETY: as the first.
        unsafe {
            let waker = &*data.cast::<OwnedWaker>();
            ((*waker.functions).wake)(waker.data);
        }
    },
    |data| {
        // SAFETY: as above; the last use of the box.
        unsafe {
            let waker = Box::from_raw(data.cast_mut().cast::<OwnedWaker>());
            ((*waker.functions).drop)(waker.data);
        }
    },
);

/// Wakers of this module for the other side: the data is a `Waker`, lent or boxed.
static FOR_FERROLOOP: WakerFunctions =
    WakerFunctions { clone: clone_waker, wake: wake_waker, drop: drop_waker };

unsafe extern "C" fn clone_waker(data: *const c_void) -> *const c_void {
    // SAFETY: a live waker.
    Box::into_raw(Box::new(unsafe { &*data.cast::<Waker>() }.clone())).cast_const().cast()
}

unsafe extern "C" fn wake_waker(data: *const c_void) {
    // SAFETY: a live waker.
    unsafe { &*data.cast::<Waker>() }.wake_by_ref();
}

unsafe extern "C" fn drop_waker(data: *const c_void) {
    // SAFETY: a box of `clone_waker`, dropped once.
    drop(unsafe { Box::from_raw(data.cast_mut().cast::<Waker>()) });
}
