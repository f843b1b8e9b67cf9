//! Rust futures on ferroloop's event loop, for other extension modules.
//!
//! Copy this file into your PyO3 extension; it depends on `pyo3` but not on ferroloop's crate. At
//! run time it imports the Python package `ferroloop` and calls it through a table of C functions
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

/// The version of [`Api`]. New versions only add fields at its end.
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

/// A future, owned by the holder of this struct. All functions must be called in the thread that
/// created it, with the GIL held.
#[repr(C)]
pub struct RawFuture {
    /// The argument of the functions.
    pub data: *mut c_void,
    /// The functions.
    pub functions: *const FutureFunctions,
}

/// The functions of a [`RawFuture`]. None of them may unwind.
#[repr(C)]
pub struct FutureFunctions {
    /// Polls the future; returns [`PENDING`], [`READY`] or [`FAILED`], and must not be called again
    /// after the latter two. The waker is borrowed: the future must clone it to keep it.
    pub poll: unsafe extern "C" fn(
        data: *mut c_void,
        waker: *const BorrowedWaker,
        result: *mut *mut ffi::PyObject,
    ) -> c_int,
    /// Drops the future, whether it is done or not. Must be the last call.
    pub drop: unsafe extern "C" fn(data: *mut c_void),
}

/// A waker. Its functions may be called in any thread, without the GIL.
#[repr(C)]
pub struct BorrowedWaker {
    /// The argument of the functions.
    pub data: *const c_void,
    /// The functions.
    pub functions: *const WakerFunctions,
}

/// The functions of a waker.
#[repr(C)]
pub struct WakerFunctions {
    /// Returns a new reference, as data for the same functions.
    pub clone: unsafe extern "C" fn(data: *const c_void) -> *const c_void,
    /// Wakes the task; does not release the reference.
    pub wake: unsafe extern "C" fn(data: *const c_void),
    /// Releases a reference that `clone` has returned.
    pub drop: unsafe extern "C" fn(data: *const c_void),
}

/// The table that the capsule points to. All functions need the GIL. On failure they set an
/// exception and return null or -1.
#[repr(C)]
pub struct Api {
    /// [`VERSION`] of the module that owns the table; a higher version has more fields.
    pub version: u32,
    /// The size of the table in bytes.
    pub size: u32,
    /// Returns a coroutine (a new reference) that runs the future. It takes ownership of the future
    /// even on failure. The name is UTF-8 of `length` bytes, and is copied.
    pub coroutine:
        unsafe extern "C" fn(RawFuture, name: *const u8, length: usize) -> *mut ffi::PyObject,
    /// Like `coroutine`, but returns a task of the running loop. If `name` is null, the task gets a
    /// default name.
    pub spawn:
        unsafe extern "C" fn(RawFuture, name: *const u8, length: usize) -> *mut ffi::PyObject,
    /// Makes a future that awaits a Python awaitable, of which it takes a new reference.
    pub await_object: unsafe extern "C" fn(*mut ffi::PyObject, *mut RawFuture) -> c_int,
    /// Makes a future whose output, after `seconds`, is None.
    pub sleep: unsafe extern "C" fn(seconds: f64, *mut RawFuture) -> c_int,
    /// Makes a future whose output is None as soon as the descriptor is ready in direction [`READ`]
    /// or [`WRITE`]. The descriptor must stay open until the future is dropped.
    pub ready: unsafe extern "C" fn(fd: c_int, direction: c_int, *mut RawFuture) -> c_int,
}

/// The name of the capsule.
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
///
/// # Errors
/// ImportError if ferroloop is not installed or older than this file.
pub fn coroutine<'py, F, T>(py: Python<'py>, name: &str, future: F) -> PyResult<Bound<'py, PyAny>>
where
    F: Future<Output = PyResult<T>> + 'static,
    T: for<'a> IntoPyObject<'a> + 'static,
{
    let api = api(py)?;
    // SAFETY: attached; the name lives during the call; returns a new reference or null.
    unsafe {
        let coroutine = (api.coroutine)(into_raw(converted(future)), name.as_ptr(), name.len());
        Bound::from_owned_ptr_or_err(py, coroutine)
    }
}

/// Runs `future` as a task of ferroloop's loop that runs in this thread; returns the task.
///
/// # Errors
/// RuntimeError if no loop of ferroloop runs in this thread; ImportError if ferroloop is not
/// installed or older than this file.
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

/// Awaits a Python awaitable. Dropping the future cancels the awaited task or future.
///
/// # Errors
/// RuntimeError if no loop of ferroloop runs in this thread; TypeError if the object is not
/// awaitable.
pub fn into_future(awaitable: &Bound<'_, PyAny>) -> PyResult<LoopFuture> {
    let api = api(awaitable.py())?;
    // SAFETY: attached, a live object; `out` is valid.
    LoopFuture::made_by(awaitable.py(), |out| unsafe {
        (api.await_object)(awaitable.as_ptr(), out)
    })
}

/// Waits for `duration`, measured from the first poll.
///
/// # Errors
/// ImportError if ferroloop is not installed or older than this file.
pub async fn sleep(duration: Duration) -> PyResult<()> {
    let sleep = Python::attach(|py| {
        let api = api(py)?;
        // SAFETY: attached; `out` is valid.
        LoopFuture::made_by(py, |out| unsafe { (api.sleep)(duration.as_secs_f64(), out) })
    })?;
    sleep.await.map(drop)
}

/// Waits until `fd` is ready in direction [`READ`] or [`WRITE`]. The caller must keep it open.
///
/// # Errors
/// OSError if the descriptor cannot be registered with the poller, as for a regular file.
pub async fn ready(fd: RawFd, direction: c_int) -> PyResult<()> {
    let ready = Python::attach(|py| {
        let api = api(py)?;
        // SAFETY: attached; `out` is valid.
        LoopFuture::made_by(py, |out| unsafe { (api.ready)(fd, direction, out) })
    })?;
    ready.await.map(drop)
}

/// A future that ferroloop has made. It is not `Send`.
pub struct LoopFuture {
    raw: RawFuture,
    _local: PhantomData<*const ()>,
}

impl LoopFuture {
    /// # Safety
    /// `raw` has no other owner, and its functions fulfil the contract of [`FutureFunctions`].
    pub unsafe fn from_raw(raw: RawFuture) -> Self {
        Self { raw, _local: PhantomData }
    }

    fn made_by(py: Python<'_>, make: impl FnOnce(*mut RawFuture) -> c_int) -> PyResult<Self> {
        let mut raw = RawFuture { data: ptr::null_mut(), functions: ptr::null() };
        if make(&mut raw) != 0 {
            return Err(PyErr::fetch(py));
        }
        // SAFETY: just made, and not used elsewhere.
        Ok(unsafe { Self::from_raw(raw) })
    }
}

impl Future for LoopFuture {
    type Output = PyResult<Py<PyAny>>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // Valid during the poll, as `WAKER_FUNCTIONS` require.
        let waker = BorrowedWaker {
            data: ptr::from_ref(context.waker()).cast(),
            functions: &WAKER_FUNCTIONS,
        };
        Python::attach(|py| {
            let mut result = ptr::null_mut();
            // SAFETY: attached, in the future's thread; both pointers are valid during the call.
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
        // While the interpreter shuts down the future is leaked.
        let _ = Python::try_attach(|_py| {
            // SAFETY: attached, in the future's thread; dropped once.
            unsafe { ((*self.raw.functions).drop)(self.raw.data) };
        });
    }
}

/// Converts the output of a future to a Python object.
async fn converted<F, T>(future: F) -> PyResult<Py<PyAny>>
where
    F: Future<Output = PyResult<T>> + 'static,
    T: for<'a> IntoPyObject<'a> + 'static,
{
    let value = future.await?;
    Python::attach(|py| value.into_py_any(py))
}

/// Makes a future of this module usable by ferroloop.
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
    // SAFETY: `data` is the box of `into_raw`, which nothing else accesses during the call and
    // which does not move until it is dropped.
    let future = unsafe { Pin::new_unchecked(&mut *data.cast::<F>()) };
    // SAFETY: the waker is valid during the call, and this one, which borrows it, is not used
    // longer.
    let waker = ManuallyDrop::new(unsafe { Waker::new(waker.cast(), &BORROWED) });
    let polled = catch_unwind(AssertUnwindSafe(|| future.poll(&mut Context::from_waker(&waker))));
    Python::attach(|py| match polled {
        Ok(Poll::Pending) => PENDING,
        Ok(Poll::Ready(Ok(value))) => {
            // SAFETY: a valid pointer, through which the caller takes the reference.
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
    // The panic hook has reported a panic of the destructor, which must not unwind into C.
    drop(catch_unwind(AssertUnwindSafe(|| drop(future))));
}

/// An owned reference to one of ferroloop's wakers.
struct OwnedWaker {
    data: *const c_void,
    functions: *const WakerFunctions,
}

impl OwnedWaker {
    /// # Safety
    /// The waker must be valid, and its functions must live as long as the process.
    unsafe fn raw(data: *const c_void, functions: *const WakerFunctions) -> RawWaker {
        // SAFETY: by the contract of this function.
        let data = unsafe { ((*functions).clone)(data) };
        let owned = Box::new(OwnedWaker { data, functions });
        RawWaker::new(Box::into_raw(owned).cast_const().cast(), &OWNED)
    }
}

/// For a [`BorrowedWaker`] during a poll.
static BORROWED: RawWakerVTable = RawWakerVTable::new(
    |data| {
        // SAFETY: the pointer is to a waker that is valid during the poll.
        unsafe {
            let waker = &*data.cast::<BorrowedWaker>();
            OwnedWaker::raw(waker.data, waker.functions)
        }
    },
    wake_borrowed,
    wake_borrowed,
    |_data| {},
);

unsafe fn wake_borrowed(data: *const ()) {
    // SAFETY: the pointer is to a waker that is valid during the poll.
    unsafe {
        let waker = &*data.cast::<BorrowedWaker>();
        ((*waker.functions).wake)(waker.data);
    }
}

/// For a boxed [`OwnedWaker`], which works in any thread.
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

/// Wakers of this module for ferroloop. The data is a pointer to a `Waker`, borrowed during a poll
/// or owned and boxed.
static WAKER_FUNCTIONS: WakerFunctions =
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
