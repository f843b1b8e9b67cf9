//! Errors of the operating system as Python exceptions.

#![forbid(unsafe_code)]

use std::io;

use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;

use super::imports;
use crate::ffi::exception::Raised;

/// `OSError(errno, strerror)`, of Python's subclass for that `errno`.
pub fn os_error(py: Python<'_>, error: &io::Error) -> PyErr {
    let Some(number) = error.raw_os_error() else {
        return PyOSError::new_err(error.to_string());
    };
    match imports::strerror(py).and_then(|strerror| strerror.call1((number,))) {
        Ok(text) => PyOSError::new_err((number, text.unbind())),
        Err(failure) => failure,
    }
}

/// A failed system call as a raised exception.
#[cold]
pub fn raised_by_system<'py>(py: Python<'py>, error: &io::Error) -> Raised<'py> {
    Raised::from(os_error(py, error).into_value(py).into_bound(py))
}
