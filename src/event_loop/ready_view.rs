//! The ready queue for code that runs the loop's turns itself, as nest_asyncio does: it polls with
//! `loop._selector.select()`, takes handles from `loop._ready` and calls their `_run()`.

use pyo3::exceptions::PyIndexError;
use pyo3::prelude::*;

use super::EventLoop;
use super::foreign_handle::FOREIGN_HANDLE;
use super::handle_run::as_handle;
use crate::ffi::objects::object::HasBase;
use crate::handle::{HANDLE, Handle};
use crate::scheduler::Runnable;

#[pymethods]
impl EventLoop {
    /// The number of callbacks that are ready.
    fn _ready_count(slf: &Bound<'_, Self>) -> usize {
        slf.base().ready_count(slf.py())
    }

    /// Remove the next callback from the queue; return it as the handle that asyncio would have
    /// queued.
    ///
    /// Raises:
    ///     IndexError: nothing is ready.
    fn _take_ready<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let scheduler = slf.as_super();
        let Some(runnable) = scheduler.get().pop_ready(py) else {
            return Err(PyIndexError::new_err("pop from an empty deque"));
        };
        as_handle(scheduler, runnable)
    }

    /// Append a handle to the queue, even if `_add_callback()` is replaced.
    fn _queue_handle(slf: &Bound<'_, Self>, handle: Bound<'_, PyAny>) {
        slf.base().push(slf.py(), queued(handle));
    }

    /// Everything that is ready, as handles, which replace the entries in the queue.
    fn _ready_handles<'py>(slf: &Bound<'py, Self>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let py = slf.py();
        let scheduler = slf.as_super();
        let taken = scheduler.get().take_ready(py);
        let handles = taken.into_iter().map(|runnable| as_handle(scheduler, runnable));
        let handles = handles.collect::<PyResult<Vec<_>>>()?;
        Self::_set_ready_handles(slf, handles.clone());
        Ok(handles)
    }

    /// Replace the contents of the queue by these handles.
    fn _set_ready_handles(slf: &Bound<'_, Self>, handles: Vec<Bound<'_, PyAny>>) {
        let (py, this) = (slf.py(), slf.base());
        let dropped = this.take_ready(py);
        handles.into_iter().for_each(|handle| this.push(py, queued(handle)));
        drop(dropped);
    }
}

/// A queue entry for a handle of ours or of asyncio.
pub(super) fn queued(handle: Bound<'_, PyAny>) -> Runnable {
    match handle.cast_into::<Handle>() {
        Ok(handle) => Runnable::new(&HANDLE, handle),
        Err(refused) => Runnable::new(&FOREIGN_HANDLE, refused.into_inner()),
    }
}
