//! One step of a coroutine.

#[cfg(not(Py_3_12))]
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::exceptions::PyStopIteration;
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;

use crate::ffi::call::{call_method, call_python};
use crate::ffi::exception::{PyOutcome, Raised};
use crate::ffi::thread_exit;

const NEXT: u32 = ffi::PySendResult::PYGEN_NEXT as u32;
const RETURN: u32 = ffi::PySendResult::PYGEN_RETURN as u32;

/// What a coroutine did when it was resumed.
pub enum Step<'py> {
    /// It awaits this object.
    Yielded(Bound<'py, PyAny>),
    /// It returned this value.
    Returned(Bound<'py, PyAny>),
}

/// Resumes `coroutine` as `coroutine.send(None)` does. Runs Python code.
#[inline(always)]
pub fn send<'py>(coroutine: &Bound<'py, PyAny>) -> PyOutcome<'py, Step<'py>> {
    let py = coroutine.py();
    let mut result = std::ptr::null_mut::<ffi::PyObject>();
    // SAFETY: attached; `result` receives an owned reference unless the outcome is an error.
    let outcome = unsafe {
        call_python!(ffi::PyIter_Send, coroutine.as_ptr(), ffi::Py_None(), &raw mut result)
    };
    // An int comes back, in half of a register.
    match outcome as usize as u32 {
        NEXT => {
            // SAFETY: owned and not null by the contract of `PyIter_Send`.
            Ok(Step::Yielded(unsafe { Bound::from_owned_ptr(py, result) }))
        }
        RETURN => {
            // SAFETY: as above.
            Ok(Step::Returned(unsafe { Bound::from_owned_ptr(py, result) }))
        }
        _error => returned_or_raised(py, Raised::take(py)),
    }
}

/// Resumes `coroutine` as `coroutine.throw(exception)` does. Runs Python code.
pub fn throw<'py>(
    coroutine: &Bound<'py, PyAny>,
    exception: &Bound<'py, PyAny>,
) -> PyOutcome<'py, Step<'py>> {
    let py = coroutine.py();
    #[cfg(not(Py_3_12))]
    THROWS.store(true, Ordering::Relaxed);
    let thrown = call_method(coroutine, intern!(py, "throw"), [exception]);
    #[cfg(not(Py_3_12))]
    THROWS.store(false, Ordering::Relaxed);
    match thrown {
        Ok(value) => Ok(Step::Yielded(value)),
        Err(raised) => returned_or_raised(py, raised),
    }
}

/// Whether an exception is on its way into a coroutine that [`throw`] was called with.
#[cfg(not(Py_3_12))]
static THROWS: AtomicBool = AtomicBool::new(false);

/// Whether a look-up of the name `throw` is the first since [`throw`] was called, which is that of
/// the interpreter, on the way to what the innermost coroutine awaits.
#[cfg(not(Py_3_12))]
pub fn is_throwing(_py: Python<'_>) -> bool {
    THROWS.swap(false, Ordering::Relaxed)
}

/// Coroutines that are not native signal their return by StopIteration.
fn returned_or_raised<'py>(py: Python<'py>, raised: Raised<'py>) -> PyOutcome<'py, Step<'py>> {
    match raised.value().cast::<PyStopIteration>() {
        Ok(stop) => match stop.getattr(intern!(py, "value")) {
            Ok(value) => Ok(Step::Returned(value)),
            Err(error) => Err(Raised::of(py, error)),
        },
        Err(_) => Err(raised),
    }
}
