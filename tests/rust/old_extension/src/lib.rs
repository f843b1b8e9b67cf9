//! Two generations of `include/ferroloop.rs` in one extension module, which is built with the oldest
//! PyO3 that they work with. An extension that was built with the first one must go on working.

#![allow(clippy::unwrap_used, reason = "a test program")]

use std::os::fd::RawFd;
use std::time::Duration;

use pyo3::exceptions::PyKeyError;
use pyo3::prelude::*;

#[path = "../../../../include/ferroloop.rs"]
mod ferroloop;
/// The first version of the file, with the first table.
#[allow(dead_code, reason = "not all of it is used here")]
mod first;
#[path = "../../interface.rs"]
mod interface;

/// An extension module for tests.
#[pymodule(gil_used = true)]
mod ferroloop_old_extension {
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

    /// Use every function of the first table: start a task that waits until a descriptor can be
    /// read, then for `pause` seconds, and then for what `function` returns.
    #[pyfunction]
    fn first_functions(
        py: Python<'_>,
        fd: RawFd,
        pause: f64,
        function: Py<PyAny>,
    ) -> PyResult<Bound<'_, PyAny>> {
        let coroutine = first::coroutine(py, "first_functions", async move {
            first::ready(fd, first::READ).await?;
            first::sleep(Duration::from_secs_f64(pause)).await?;
            let awaited = Python::attach(|py| first::into_future(&function.bind(py).call0()?))?;
            awaited.await
        })?;
        let awaited = first::into_future(&coroutine)?;
        first::spawn(py, Some("first"), awaited)
    }
}
