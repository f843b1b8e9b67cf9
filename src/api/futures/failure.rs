//! Panics and errors of the program's Rust code as exceptions of Python.

use std::task::Waker;

use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::ffi::exception::{OrRaise, PyOutcome, Raised};
use crate::ffi::panic;
use crate::scheduler::Scheduler;
use crate::scheduler::report::report_raised;

/// The exception for a panic with this message.
#[cold]
pub fn panicked(message: &str) -> PyErr {
    PyRuntimeError::new_err(format!("Rust future panicked: {message}"))
}

/// Calls a waker, which may be one of another executor. Its panic is an error.
pub fn wake_catching(waker: Waker) -> PyResult<()> {
    panic::catch(|| waker.wake())
        .map_err(|message| PyRuntimeError::new_err(format!("Rust waker panicked: {message}")))
}

/// Calls a waker between two callbacks of the loop. Its panic goes to the exception handler.
pub fn wake<'py>(scheduler: &Bound<'py, Scheduler>, waker: Waker) -> PyOutcome<'py, ()> {
    match wake_catching(waker) {
        Ok(()) => Ok(()),
        Err(error) => {
            let message = intern!(scheduler.py(), "Exception in a waker of a Rust future");
            report(scheduler, message, error)
        }
    }
}

/// Calls the exception handler, unless the error must stop the loop.
#[cold]
pub fn report<'py>(
    scheduler: &Bound<'py, Scheduler>,
    message: &Bound<'py, PyString>,
    error: PyErr,
) -> PyOutcome<'py, ()> {
    let py = scheduler.py();
    let raised = Raised::of(py, error);
    if raised.stops_the_loop() {
        return Err(raised);
    }
    let entries =
        [("message", Some(message.as_any())), ("exception", Some(raised.value().as_any()))];
    report_raised(scheduler, &raised, &entries).or_raise(py)
}
