//! Resumes coroutines.

use std::ffi::c_int;
#[cfg(not(Py_3_12))]
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::exceptions::PyStopIteration;
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;

use crate::ffi::call::call_method;
use crate::ffi::exception::{PyOutcome, Raised};
use crate::ffi::thread_exit;

const NEXT: c_int = ffi::PySendResult::PYGEN_NEXT as c_int;
const RETURN: c_int = ffi::PySendResult::PYGEN_RETURN as c_int;

unsafe extern "C" {
    // Not PyO3's declaration, which returns an enum: another module's slot may return any number.
    fn PyIter_Send(
        coroutine: *mut ffi::PyObject,
        value: *mut ffi::PyObject,
        result: *mut *mut ffi::PyObject,
    ) -> c_int;
}

/// The result of resuming a coroutine.
pub enum CoroutineStep<'py> {
    /// It awaits this object.
    Yielded(Bound<'py, PyAny>),
    /// It returned this value.
    Returned(Bound<'py, PyAny>),
}

/// Resumes `coroutine` as `coroutine.send(None)` does. Runs Python code.
#[inline(always)]
pub fn send<'py>(coroutine: &Bound<'py, PyAny>) -> PyOutcome<'py, CoroutineStep<'py>> {
    let py = coroutine.py();
    let mut result = std::ptr::null_mut::<ffi::PyObject>();
    thread_exit::protect();
    // SAFETY: attached; `result` receives an owned reference unless the outcome is an error.
    match unsafe { PyIter_Send(coroutine.as_ptr(), ffi::Py_None(), &raw mut result) } {
        NEXT => {
            // SAFETY: owned and not null as `PyIter_Send` guarantees.
            Ok(CoroutineStep::Yielded(unsafe { Bound::from_owned_ptr(py, result) }))
        }
        RETURN => {
            // SAFETY: as above.
            Ok(CoroutineStep::Returned(unsafe { Bound::from_owned_ptr(py, result) }))
        }
        _error => returned_or_raised(py, Raised::take(py)),
    }
}

/// Resumes `coroutine` as `coroutine.throw(exception)` does. Runs Python code.
pub fn throw<'py>(
    coroutine: &Bound<'py, PyAny>,
    exception: &Bound<'py, PyAny>,
) -> PyOutcome<'py, CoroutineStep<'py>> {
    let py = coroutine.py();
    #[cfg(not(Py_3_12))]
    THROWS.store(true, Ordering::Relaxed);
    let thrown = call_method(coroutine, intern!(py, "throw"), [exception]);
    #[cfg(not(Py_3_12))]
    THROWS.store(false, Ordering::Relaxed);
    match thrown {
        Ok(value) => Ok(CoroutineStep::Yielded(value)),
        Err(raised) => returned_or_raised(py, raised),
    }
}

/// Whether [`throw`] was called and no lookup of the name `throw` has followed yet.
#[cfg(not(Py_3_12))]
static THROWS: AtomicBool = AtomicBool::new(false);

/// Whether this lookup of the name `throw` is the first one since [`throw`] was called: then the
/// interpreter makes it, on the way to what the innermost coroutine awaits.
#[cfg(not(Py_3_12))]
pub fn is_throwing(_py: Python<'_>) -> bool {
    THROWS.swap(false, Ordering::Relaxed)
}

/// Converts StopIteration, by which coroutines that are not native signal their return.
fn returned_or_raised<'py>(
    py: Python<'py>,
    raised: Raised<'py>,
) -> PyOutcome<'py, CoroutineStep<'py>> {
    match raised.value().cast::<PyStopIteration>() {
        Ok(stop) => match stop.getattr(intern!(py, "value")) {
            Ok(value) => Ok(CoroutineStep::Returned(value)),
            Err(error) => Err(Raised::of(py, error)),
        },
        Err(_) => Err(raised),
    }
}
