//! Errors of the operating system as Python exceptions.

use std::io;

use pyo3::exceptions::PyOSError;
use pyo3::intern;
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

/// An [`io::Error`] that PyO3 has converted to an exception, with its `errno`: PyO3 keeps only the
/// text. Other exceptions are returned as they are.
#[cold]
pub fn with_errno(py: Python<'_>, error: PyErr) -> PyErr {
    if !error.is_instance_of::<PyOSError>(py) || error.traceback(py).is_some() {
        return error;
    }
    let number = || -> PyResult<Option<i32>> {
        let value = error.value(py);
        if !value.getattr(intern!(py, "errno"))?.is_none() {
            return Ok(None);
        }
        let text = value.str()?.to_string();
        // The format of the standard library.
        let number = text.strip_suffix(')').and_then(|text| text.rsplit_once("(os error "));
        Ok(number.and_then(|(_, number)| number.parse().ok()))
    };
    match number() {
        Ok(Some(number)) => os_error(py, &io::Error::from_raw_os_error(number)),
        Ok(None) => error,
        Err(failure) => failure,
    }
}
