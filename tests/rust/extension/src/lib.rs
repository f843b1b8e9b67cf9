//! Runs the cases of `tests/rust/interface.rs` as an extension module.

#![allow(clippy::unwrap_used, reason = "a test program")]

use std::future::pending;
use std::time::Duration;

use pyo3::exceptions::PyKeyError;
use pyo3::prelude::*;

use crate::ferroloop::{
    Handle, coroutine, into_future, run_on_executor, sleep, spawn_blocking, spawn_local, yield_now,
};

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

    /// Leave futures of every kind, and a thread that spawns more of them; return the tasks, and
    /// last a coroutine that has not started.
    #[pyfunction]
    fn leave_futures(py: Python<'_>) -> PyResult<Vec<Bound<'_, PyAny>>> {
        let handle = Handle::current(py)?;
        std::thread::spawn(move || {
            // Until the loop is closed, or the process ends.
            while handle.spawn_with(|| async { yield_now().await }).is_ok() {
                std::thread::sleep(Duration::from_micros(100));
            }
        });
        let [first, second] = [(); 2].map(|()| UsesPython(py.None()));
        Ok(vec![
            spawn_local(py, async {
                let _used = first;
                pending::<PyResult<()>>().await
            })?,
            spawn_local(py, async {
                let hour = Python::attach(|py| {
                    into_future(py.import("asyncio")?.call_method1("sleep", (3600,))?)
                })?;
                hour.await
            })?,
            spawn_local(py, async {
                sleep(Duration::from_secs(3600)).await;
                Ok(())
            })?,
            spawn_local(py, async {
                let moment = || std::thread::sleep(Duration::from_millis(30));
                Python::attach(|py| spawn_blocking(py, moment))?.await?;
                pending::<PyResult<()>>().await
            })?,
            spawn_local(py, async {
                run_on_executor(interface::spawn_in_thread, pending::<()>()).await
            })?,
            coroutine(py, "not_started", async {
                let _used = second;
                pending::<PyResult<()>>().await
            })?,
        ])
    }
}

/// Uses Python when it is dropped, if there is still one.
struct UsesPython(Py<PyAny>);

impl Drop for UsesPython {
    fn drop(&mut self) {
        Python::try_attach(|py| self.0.bind(py).repr().map(drop)).transpose().unwrap();
    }
}
