//! Tracks which callbacks of `call_soon_threadsafe()` are running, so that a thread that cancels
//! one can wait for its end.
//!
//! Python 3.14 guarantees for these handles: once `cancel()` has returned in another thread, the
//! callback is not running and will not run.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use pyo3::prelude::*;

use crate::ffi::objects::process_state::Locked;

/// How often a waiting thread checks for signals.
const SIGNAL_CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// The running callbacks, innermost last: code that turns the loop itself nests them.
pub struct Running {
    /// Addresses of handles, which stay alive while they run.
    handles: Locked<Vec<usize>>,
    /// Number of threads that wait.
    waiting: AtomicUsize,
    /// Number of callbacks that ended while another thread waited.
    ended: Mutex<u64>,
    changed: Condvar,
}

/// Marks a callback as running until dropped.
#[must_use = "dropped at once, the callback would not be seen to run"]
pub struct RunningGuard<'a, 'py> {
    running: &'a Running,
    py: Python<'py>,
}

impl Drop for RunningGuard<'_, '_> {
    fn drop(&mut self) {
        self.running.handles.with(self.py, |handles| handles.pop());
        // A thread that has seen the handle before counts as waiting since then.
        if self.running.waiting.load(Ordering::Relaxed) != 0 {
            // The lock is held only for an addition, and never by a thread that waits for the GIL.
            *self.running.ended.lock().unwrap_or_else(PoisonError::into_inner) += 1;
            self.running.changed.notify_all();
        }
    }
}

impl Default for Running {
    fn default() -> Self {
        Self {
            handles: Locked::new(Vec::new()),
            waiting: AtomicUsize::new(0),
            ended: Mutex::default(),
            changed: Condvar::new(),
        }
    }
}

impl Running {
    /// Marks the callback of `handle` as running.
    #[inline]
    pub fn begin<'py>(&self, handle: &Bound<'py, PyAny>) -> RunningGuard<'_, 'py> {
        let (py, address) = (handle.py(), handle.as_ptr().addr());
        self.handles.with(py, |handles| handles.push(address));
        RunningGuard { running: self, py }
    }

    /// Waits until the callback of `handle` is not running. Must not be called in the loop's own
    /// thread.
    ///
    /// # Errors
    /// What a signal handler raises during the wait.
    pub fn wait_for_end(&self, handle: &Bound<'_, PyAny>) -> PyResult<()> {
        // Before the first look at the handles, or a callback that ends right after it would not
        // wake this thread.
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let result = self.wait(handle.py(), handle.as_ptr().addr());
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        result
    }

    fn wait(&self, py: Python<'_>, address: usize) -> PyResult<()> {
        loop {
            let seen = *self.ended.lock().unwrap_or_else(PoisonError::into_inner);
            if !self.handles.with(py, |handles| handles.contains(&address)) {
                return Ok(());
            }
            py.detach(|| {
                let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
                drop(
                    self.changed
                        .wait_timeout_while(ended, SIGNAL_CHECK_INTERVAL, |ended| *ended == seen),
                );
            });
            py.check_signals()?;
        }
    }
}
