//! The ready queue for code that turns the loop itself, as nest_asyncio does: it polls by
//! `loop._selector.select()`, takes handles from `loop._ready` and calls their `_run()`.

#![forbid(unsafe_code)]

use pyo3::exceptions::PyIndexError;
use pyo3::prelude::*;

use super::EventLoop;
use super::foreign_handle::FOREIGN_HANDLE;
use super::patched_run::as_handle;
use crate::handle::{HANDLE, Handle};
use crate::scheduler::Runnable;

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

    /// Queue a handle at the end, whatever `_add_callback` is.
    fn _queue_handle(slf: &Bound<'_, Self>, handle: Bound<'_, PyAny>) {
        slf.as_super().get().push(slf.py(), queued(handle));
    }

    /// What is ready, in handles. They are queued in place of what they were made from.
    fn _ready_handles<'py>(slf: &Bound<'py, Self>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let py = slf.py();
        let scheduler = slf.as_super();
        let taken = scheduler.get().ready.take(py);
        let handles = taken.into_iter().map(|runnable| as_handle(scheduler, runnable));
        let handles = handles.collect::<PyResult<Vec<_>>>()?;
        Self::_set_ready_handles(slf, handles.clone());
        Ok(handles)
    }

    /// Queue these handles in place of all that is ready.
    fn _set_ready_handles(slf: &Bound<'_, Self>, handles: Vec<Bound<'_, PyAny>>) {
        let (py, this) = (slf.py(), slf.as_super().get());
        let dropped = this.ready.take(py);
        handles.into_iter().for_each(|handle| this.push(py, queued(handle)));
        drop(dropped);
    }
}

/// A handle of ours or of asyncio for the queue.
pub(super) fn queued(handle: Bound<'_, PyAny>) -> Runnable {
    match handle.cast_into::<Handle>() {
        Ok(handle) => Runnable::new(&HANDLE, handle),
        Err(refused) => Runnable::new(&FOREIGN_HANDLE, refused.into_inner()),
    }
}
