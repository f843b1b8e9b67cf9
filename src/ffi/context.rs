//! `contextvars.Context`: copying the current one, running code inside one.

use pyo3::ffi;
use pyo3::prelude::*;

use super::exception::{PyOutcome, Raised};

/// A copy of the current context. Runs no Python code.
#[inline(always)]
pub fn copy_current(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    // SAFETY: attached; returns an owned context, or null with MemoryError set.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyContext_CopyCurrent()) }
}

/// A copy of `context`, which must be one. Runs no Python code.
#[inline(always)]
pub fn copy<'py>(context: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: attached; a wrong type is refused by the call with TypeError.
    unsafe { Bound::from_owned_ptr_or_err(context.py(), ffi::PyContext_Copy(context.as_ptr())) }
}

/// Whether `object` is a context that [`run_in`] can enter directly.
#[inline(always)]
pub fn is_context(object: &Bound<'_, PyAny>) -> bool {
    // SAFETY: only the object's type is read.
    unsafe { ffi::PyContext_CheckExact(object.as_ptr()) != 0 }
}

/// Runs `body` inside `context`, as `context.run(body)` does.
///
/// Runs Python code if `body` does. A context that is already entered raises RuntimeError.
#[inline(always)]
pub fn run_in<'py, R>(
    context: &Bound<'py, PyAny>,
    body: impl FnOnce() -> PyOutcome<'py, R>,
) -> PyOutcome<'py, R> {
    let py = context.py();
    // SAFETY: attached; a wrong type is refused by the call with TypeError.
    if unsafe { ffi::PyContext_Enter(context.as_ptr()) } != 0 {
        return Err(Raised::take(py));
    }
    let result = body();
    // SAFETY: attached; entered above. No exception is set: `body` returns its own as a value.
    if unsafe { ffi::PyContext_Exit(context.as_ptr()) } != 0 {
        let failure = Raised::take(py);
        return result.and(Err(failure));
    }
    result
}
