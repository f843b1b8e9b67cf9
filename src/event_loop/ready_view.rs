//! The ready queue for code that turns the loop itself, as nest_asyncio does: it polls by
//! `loop._selector.select()`, takes handles from `loop._ready` and calls their `_run()`.

#![forbid(unsafe_code)]

use pyo3::exceptions::PyIndexError;
use pyo3::prelude::*;

use super::EventLoop;
use super::patched_run::as_handle;

#[pymethods]
impl EventLoop {
    /// The number of callbacks that are ready.
    fn _ready_count(slf: &Bound<'_, Self>) -> usize {
        slf.as_super().get().ready.len(slf.py())
    }

    /// Take what is to run next, as the handle that asyncio would have queued.
    ///
    /// Raises:
    ///     IndexError: nothing is ready.
    fn _take_ready<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let scheduler = slf.as_super();
        let Some(runnable) = scheduler.get().ready.pop(py) else {
            return Err(PyIndexError::new_err("pop from an empty deque"));
        };
        as_handle(scheduler, runnable)
    }
}
