//! One step of a coroutine.

use pyo3::exceptions::PyStopIteration;
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;

use super::call::call_method;
use super::exception::{PyOutcome, Raised};

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
    let mut result = std::ptr::null_mut();
    // SAFETY: attached; `result` receives an owned reference unless the outcome is an error.
    match unsafe { ffi::PyIter_Send(coroutine.as_ptr(), ffi::Py_None(), &mut result) } {
        ffi::PySendResult::PYGEN_NEXT => {
            // SAFETY: owned and not null by the contract of `PyIter_Send`.
            Ok(Step::Yielded(unsafe { Bound::from_owned_ptr(py, result) }))
        }
        ffi::PySendResult::PYGEN_RETURN => {
            // SAFETY: as above.
            Ok(Step::Returned(unsafe { Bound::from_owned_ptr(py, result) }))
        }
        ffi::PySendResult::PYGEN_ERROR => returned_or_raised(py, Raised::take(py)),
    }
}

/// Resumes `coroutine` as `coroutine.throw(exception)` does. Runs Python code.
pub fn throw<'py>(
    coroutine: &Bound<'py, PyAny>,
    exception: &Bound<'py, PyAny>,
) -> PyOutcome<'py, Step<'py>> {
    let py = coroutine.py();
    match call_method(coroutine, intern!(py, "throw"), [exception]) {
        Ok(value) => Ok(Step::Yielded(value)),
        Err(raised) => returned_or_raised(py, raised),
    }
}

/// Coroutines that are not native signal their return by StopIteration.
fn returned_or_raised<'py>(py: Python<'py>, raised: Raised<'py>) -> PyOutcome<'py, Step<'py>> {
    match raised.value().cast::<PyStopIteration>() {
        Ok(stop) => match stop.getattr(intern!(py, "value")) {
            Ok(value) => Ok(Step::Returned(value)),
            Err(error) => Err(Raised::from(error.into_value(py).into_bound(py))),
        },
        Err(_) => Err(raised),
    }
}
