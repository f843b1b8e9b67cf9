//! Which callbacks from other threads run now, so that cancelling one can wait for its end.
//!
//! Python 3.14 promises it for the handles of `call_soon_threadsafe()`: once `cancel()` has
//! returned in another thread, the callback neither runs nor will run.

#![forbid(unsafe_code)]

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use pyo3::prelude::*;

use crate::ffi::objects::cell::{AttachedCell, AttachedRefCell};

/// How often a thread that waits looks for signals.
const PATIENCE: Duration = Duration::from_millis(50);

/// The callbacks that run, innermost last: code that turns the loop itself nests them.
#[derive(Default)]
pub struct Running {
    /// Addresses of handles, which are alive as long as they run.
    handles: AttachedRefCell<Vec<usize>>,
    waiting: AttachedCell<usize>,
    /// Counts callbacks that have ended while somebody waited.
    ended: Mutex<u64>,
    changed: Condvar,
}

/// A callback that runs until this is dropped.
#[must_use = "dropped at once, the callback would not be seen to run"]
pub struct Entry<'a, 'py> {
    running: &'a Running,
    py: Python<'py>,
}

impl Drop for Entry<'_, '_> {
    fn drop(&mut self) {
        self.running.handles.with(self.py, |handles| handles.pop());
        if self.running.waiting.get(self.py) != 0 {
            // Held for no longer than it takes to add one, and by nobody who wants the GIL.
            *self.running.ended.lock().unwrap_or_else(PoisonError::into_inner) += 1;
            self.running.changed.notify_all();
        }
    }
}

impl Running {
    /// The callback of `handle` begins.
    #[inline]
    pub fn begin<'py>(&self, handle: &Bound<'py, PyAny>) -> Entry<'_, 'py> {
        let (py, address) = (handle.py(), handle.as_ptr().addr());
        self.handles.with(py, |handles| handles.push(address));
        Entry { running: self, py }
    }

    /// Waits until the callback of `handle` does not run. Not for the loop's own thread.
    ///
    /// # Errors
    /// What signal handlers raise meanwhile.
    pub fn wait_for_end(&self, handle: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = handle.py();
        let address = handle.as_ptr().addr();
        while self.handles.with(py, |handles| handles.contains(&address)) {
            self.waiting.set(py, self.waiting.get(py) + 1);
            let seen = *self.ended.lock().unwrap_or_else(PoisonError::into_inner);
            py.detach(|| {
                let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
                drop(self.changed.wait_timeout_while(ended, PATIENCE, |ended| *ended == seen));
            });
            self.waiting.set(py, self.waiting.get(py) - 1);
            py.check_signals()?;
        }
        Ok(())
    }
}
