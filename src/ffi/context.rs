//! `contextvars.Context`: copying the current one, running code inside one.

use std::mem::ManuallyDrop;

use pyo3::ffi;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::cell::Traverse;
use super::exception::{PyOutcome, Raised};
use super::object;

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

/// A context that waits to be entered; one that nobody else has seen may be hidden from the
/// collector until then.
///
/// The interpreter may only free contexts that its collector knows, so there is no way to the
/// context, nor to its end, that doesn't show it.
pub struct WaitingContext(Py<PyAny>);

impl WaitingContext {
    /// A copy of the current context, hidden. Runs no Python code.
    #[inline(always)]
    pub fn hidden_copy(py: Python<'_>) -> PyResult<Self> {
        let context = copy_current(py)?;
        object::untrack(&context);
        Ok(Self(context.unbind()))
    }

    /// A context, or what was given in place of one, that others may know.
    #[inline(always)]
    pub fn new(context: Bound<'_, PyAny>) -> Self {
        Self(context.unbind())
    }

    /// The context, no longer hidden.
    #[inline(always)]
    pub fn shown<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        let context = self.0.bind(py).clone();
        if is_context(&context) {
            object::track(&context);
        }
        context
    }

    /// The same, giving up the reference.
    #[inline(always)]
    pub fn into_shown(self, py: Python<'_>) -> Bound<'_, PyAny> {
        let this = ManuallyDrop::new(self);
        let context = this.shown(py);
        // SAFETY: one of two references is given up; `this` is never used again.
        unsafe { ffi::Py_DECREF(this.0.as_ptr()) };
        context
    }
}

impl Traverse for Option<WaitingContext> {
    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(self.as_ref().map(|context| &context.0))
    }
}

impl Drop for WaitingContext {
    fn drop(&mut self) {
        // Only where nobody called `into_shown`. Detached, PyO3 keeps the reference for later,
        // and for ever if there is no interpreter to attach to.
        let _ = Python::try_attach(|py| drop(self.shown(py)));
    }
}
