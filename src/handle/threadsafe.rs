//! Handles of `call_soon_threadsafe()` on Python 3.14, where asyncio has its own class for them:
//! `cancel()` and `cancelled()` in another thread wait while the callback runs.

use pyo3::prelude::*;

use super::Handle;
use super::run::run_owned;
use crate::ffi::exception::PyOutcome;
use crate::scheduler::{Scheduler, current_thread};

impl Handle {
    /// Makes it a thread-safe handle.
    pub fn mark_threadsafe(&self, py: Python<'_>) {
        self.threadsafe.set(py, true);
    }
}

/// Runs the callback, and lets other threads see that it is running.
#[inline]
pub(super) fn run<'py>(
    scheduler: &Bound<'py, Scheduler>,
    handle: &Bound<'py, Handle>,
) -> PyOutcome<'py, ()> {
    let _running = scheduler.get().running().begin(handle.as_any());
    run_owned(scheduler, handle)
}

/// Waits while the callback runs, unless called in the loop's own thread.
pub(super) fn wait_for_end(handle: &Bound<'_, Handle>) -> PyResult<()> {
    let py = handle.py();
    let this = handle.get();
    if !this.threadsafe.get(py) {
        return Ok(());
    }
    let Some(event_loop) = this.event_loop.get_bound(py) else { return Ok(()) };
    let Ok(scheduler) = event_loop.cast::<Scheduler>() else { return Ok(()) };
    let scheduler = scheduler.get();
    if scheduler.thread(py) == current_thread(py)? {
        return Ok(());
    }
    scheduler.running().wait_for_end(handle.as_any())
}
