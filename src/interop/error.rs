//! Errors of the operating system as Python exceptions.

use std::io;

use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;

use super::imports;

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
