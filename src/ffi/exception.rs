//! Raised exceptions as values.
//!
//! `PyErr::fetch` resumes a Rust panic that has passed through Python as a `PanicException`. The
//! event loop must survive such a panic, so it fetches exceptions through this module.

use pyo3::exceptions::{PyBaseException, PyKeyboardInterrupt, PySystemError, PySystemExit};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyAnyMethods;

/// An exception that was raised and taken out of the thread state.
pub struct Raised<'py>(Bound<'py, PyBaseException>);

/// The result of running Python code.
pub type PyOutcome<'py, T> = Result<T, Raised<'py>>;

impl<'py> Raised<'py> {
    /// Takes the exception that the last call raised.
    #[cold]
    pub fn take(py: Python<'py>) -> Self {
        match take_raised(py) {
            Some(exception) => Self(exception),
            None => Self(
                PySystemError::new_err("a call failed without setting an exception")
                    .into_value(py)
                    .into_bound(py),
            ),
        }
    }

    /// The exception of a failed operation.
    #[cold]
    pub fn of(py: Python<'py>, error: PyErr) -> Self {
        Self(error.into_value(py).into_bound(py))
    }

    /// The exception.
    pub fn value(&self) -> &Bound<'py, PyBaseException> {
        &self.0
    }

    /// The exception, by value.
    pub fn into_value(self) -> Bound<'py, PyBaseException> {
        self.0
    }

    /// Whether it must end `run_forever()` (KeyboardInterrupt, SystemExit).
    pub fn stops_the_loop(&self) -> bool {
        self.0.is_instance_of::<PyKeyboardInterrupt>() || self.0.is_instance_of::<PySystemExit>()
    }
}

/// Conversion of the result of an operation that reports its failure in another way.
pub trait OrRaise<T> {
    /// The same with the failure as a raised exception.
    fn or_raise(self, py: Python<'_>) -> PyOutcome<'_, T>;
}

impl<T, E: Into<PyErr>> OrRaise<T> for Result<T, E> {
    #[inline(always)]
    fn or_raise(self, py: Python<'_>) -> PyOutcome<'_, T> {
        self.map_err(|error| Raised::of(py, error.into()))
    }
}

impl From<Raised<'_>> for PyErr {
    fn from(raised: Raised<'_>) -> Self {
        PyErr::from_value(raised.0.into_any())
    }
}

impl<'py> From<Bound<'py, PyBaseException>> for Raised<'py> {
    fn from(exception: Bound<'py, PyBaseException>) -> Self {
        Self(exception)
    }
}

/// Takes the raised exception out of the thread state. Runs no Python code on 3.12 and later.
pub fn take_raised(py: Python<'_>) -> Option<Bound<'_, PyBaseException>> {
    #[cfg(Py_3_12)]
    // SAFETY: attached; the call returns an owned exception or null.
    let exception = unsafe { Bound::from_owned_ptr_or_opt(py, ffi::PyErr_GetRaisedException()) };
    #[cfg(not(Py_3_12))]
    // SAFETY: attached; the three references fetched are owned, normalisation keeps them so, and
    // the traceback is attached to the exception before the other references are dropped.
    let exception = unsafe {
        let (mut kind, mut value, mut traceback) =
            (std::ptr::null_mut(), std::ptr::null_mut(), std::ptr::null_mut());
        ffi::PyErr_Fetch(&mut kind, &mut value, &mut traceback);
        if kind.is_null() {
            return None;
        }
        ffi::PyErr_NormalizeException(&mut kind, &mut value, &mut traceback);
        if !traceback.is_null() && !value.is_null() {
            ffi::PyException_SetTraceback(value, traceback);
        }
        ffi::Py_XDECREF(kind);
        ffi::Py_XDECREF(traceback);
        Bound::from_owned_ptr_or_opt(py, value)
    };
    exception.and_then(|exception| exception.cast_into::<PyBaseException>().ok())
}

/// Sets an exception taken by [`take_raised`] again.
pub fn restore_raised(exception: Option<Bound<'_, PyBaseException>>) {
    if let Some(exception) = exception {
        let py = exception.py();
        PyErr::from_value(exception.into_any()).restore(py);
    }
}

/// Runs `function` as inside an `except` block: `exception` is the one being handled, so
/// `sys.exception()` returns it, and exceptions raised inside have it as their `__context__`.
pub fn handling<R>(exception: &Bound<'_, PyBaseException>, function: impl FnOnce() -> R) -> R {
    struct Outer<'py>(Option<Bound<'py, PyAny>>);

    impl Drop for Outer<'_> {
        fn drop(&mut self) {
            let outer = self.0.as_ref().map_or(std::ptr::null_mut(), Bound::as_ptr);
            // SAFETY: attached, as the lifetime proves; the call takes its own reference, and
            // accepts null.
            unsafe { ffi::PyErr_SetHandledException(outer) };
        }
    }

    let py = exception.py();
    // SAFETY: attached; returns an owned reference or null.
    let outer = unsafe { Bound::from_owned_ptr_or_opt(py, ffi::PyErr_GetHandledException()) };
    let _outer = Outer(outer);
    // SAFETY: attached; a live exception, to which the call takes its own reference.
    unsafe { ffi::PyErr_SetHandledException(exception.as_ptr()) };
    function()
}

/// Runs pending Python signal handlers, as the interpreter does between instructions.
///
/// Runs Python code. Has no effect outside the main thread.
#[inline]
pub fn check_signals(py: Python<'_>) -> PyOutcome<'_, ()> {
    // SAFETY: attached.
    if unsafe { ffi::PyErr_CheckSignals() } == 0 { Ok(()) } else { Err(Raised::take(py)) }
}

/// Reports an exception that cannot be raised to any caller, by `sys.unraisablehook`.
pub fn write_unraisable(raised: Raised<'_>, object: &Bound<'_, PyAny>) {
    let py = object.py();
    PyErr::from(raised).write_unraisable(py, Some(object));
}

#[cfg(test)]
mod tests {
    use pyo3::exceptions::PyValueError;

    use super::*;

    #[test]
    fn a_call_that_fails_without_an_exception_gives_one() {
        Python::initialize();
        Python::attach(|py| {
            let raised = Raised::take(py);
            assert!(raised.value().is_instance_of::<PySystemError>());
            PyValueError::new_err("text").restore(py);
            let raised = Raised::take(py);
            assert!(raised.value().is_instance_of::<PyValueError>() && !raised.stops_the_loop());
            assert!(take_raised(py).is_none(), "it was left behind");
        });
    }

    #[test]
    fn the_handled_exception_is_restored() {
        Python::initialize();
        Python::attach(|py| {
            let handled = || py.import("sys")?.call_method0("exception");
            let outer = PyValueError::new_err("outer").into_value(py).into_bound(py);
            let inner = PyValueError::new_err("inner").into_value(py).into_bound(py);
            handling(&outer, || {
                assert!(handling(&inner, handled).expect("no error").is(&inner));
                assert!(handled().expect("no error").is(&outer));
            });
            assert!(handled().expect("no error").is_none());
        });
    }
}
