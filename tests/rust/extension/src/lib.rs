//! Runs the cases of `tests/rust/interface.rs` as an extension module.

#![allow(clippy::unwrap_used, reason = "a test program")]

use pyo3::exceptions::PyKeyError;
use pyo3::prelude::*;

#[path = "../../../../include/ferroloop.rs"]
mod ferroloop;
#[path = "../../interface.rs"]
mod interface;

/// An extension module for tests.
#[pymodule(gil_used = true)]
mod ferroloop_test_extension {
    use super::*;

    /// Return the names of the cases.
    #[pyfunction]
    fn cases() -> Vec<&'static str> {
        interface::CASES.iter().map(|(name, _)| *name).collect()
    }

    /// Return the coroutine of a case.
    #[pyfunction]
    fn case<'py>(py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
        let found = interface::CASES.iter().find(|case| case.0 == name);
        found.ok_or_else(|| PyKeyError::new_err(name.to_owned()))?.1(py)
    }
}
