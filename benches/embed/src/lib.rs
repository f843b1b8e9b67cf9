//! The same Rust futures on ferroloop's loop, through the C functions for extension modules, and on
//! Tokio, through pyo3-async-runtimes and through ferroloop-async-runtimes, which has its interface.

use std::future::poll_fn;
use std::task::Poll;

use pyo3::prelude::*;

#[path = "../../../include/ferroloop.rs"]
mod ferroloop;

/// Wakes itself when it is first polled and is ready when it is polled again.
async fn next_turn() -> PyResult<u32> {
    let mut asked = false;
    poll_fn(|context| {
        if std::mem::replace(&mut asked, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
    Ok(1)
}

/// The functions that `python -m benches.embed` measures.
#[pymodule(gil_used = true)]
mod embed_bench {
    use super::*;

    /// A coroutine on ferroloop's loop that is done in the next turn.
    #[pyfunction]
    fn coroutine(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        ferroloop::coroutine(py, "next_turn", next_turn())
    }

    /// A task on ferroloop's loop that is done in the turn after the next.
    #[pyfunction]
    fn task(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        ferroloop::spawn_local(py, next_turn())
    }

    /// A future that is done when Tokio has polled the Rust future twice.
    #[pyfunction]
    fn tokio_future(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        pyo3_async_runtimes::tokio::future_into_py(py, next_turn())
    }

    /// The same, through the crate with the same interface.
    #[pyfunction]
    fn ported_future(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        ferroloop_async_runtimes::tokio::future_into_py(py, next_turn())
    }

    /// Await a coroutine of Python on Tokio.
    #[pyfunction]
    fn tokio_await<'py>(coroutine: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = coroutine.py();
        let awaited = pyo3_async_runtimes::tokio::into_future(coroutine)?;
        pyo3_async_runtimes::tokio::future_into_py(py, awaited)
    }

    /// The same, through the crate with the same interface.
    #[pyfunction]
    fn ported_await<'py>(coroutine: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = coroutine.py();
        let awaited = ferroloop_async_runtimes::tokio::into_future(coroutine)?;
        ferroloop_async_runtimes::tokio::future_into_py(py, awaited)
    }
}
