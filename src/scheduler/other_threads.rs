//! Callbacks that other threads queue.
//!
//! With a GIL they are appended to the ready queue. On free-threaded builds that queue is for the
//! thread that runs the loop alone: other threads append to a second queue, which the loop moves to
//! the first one before it appends anything itself, and in each turn before and after it polls. So
//! the order is one: that of the calls of which one has returned before the other began.

use std::sync::Arc;

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

#[cfg(Py_GIL_DISABLED)]
use super::message_queue::MessageQueue;
use super::{Runnable, Scheduler};
use crate::ffi::section;
#[cfg(Py_GIL_DISABLED)]
use crate::ffi::thread_pointer::thread_pointer;
use crate::reactor::WakeSignal;

/// The second queue.
#[cfg(Py_GIL_DISABLED)]
pub(super) type QueueOfOtherThreads = MessageQueue<Runnable>;

impl Scheduler {
    /// Appends to the ready queue, in any thread. Returns the wake signal, which the caller must
    /// notify afterwards.
    ///
    /// # Errors
    /// Returns the runnable if the loop is closed.
    pub fn push_in_any_thread(
        slf: &Bound<'_, Self>,
        runnable: Runnable,
    ) -> Result<Arc<WakeSignal>, Runnable> {
        let (py, this) = (slf.py(), slf.get());
        #[cfg(Py_GIL_DISABLED)]
        if !this.runs_here() {
            return this.shared.other_threads.enqueue(runnable);
        }
        if this.is_closed(py) {
            return Err(runnable);
        }
        section::enter(slf, || this.push(py, runnable));
        Ok(this.wake_signal().clone())
    }

    /// Whether this thread runs the loop.
    #[cfg(Py_GIL_DISABLED)]
    #[inline]
    pub fn runs_here(&self) -> bool {
        use std::sync::atomic::Ordering;
        self.lifecycle.thread_pointer.load(Ordering::Relaxed) == thread_pointer()
    }

    /// Moves the callbacks of other threads to the ready queue. Only in the loop's thread.
    #[inline(always)]
    pub(super) fn take_from_other_threads(&self, py: Python<'_>) {
        #[cfg(Py_GIL_DISABLED)]
        if self.shared.other_threads.has_messages() {
            self.move_from_other_threads(py);
        }
        #[cfg(not(Py_GIL_DISABLED))]
        let _ = py;
    }

    #[cfg(Py_GIL_DISABLED)]
    #[cold]
    fn move_from_other_threads(&self, py: Python<'_>) {
        for runnable in self.shared.other_threads.take() {
            self.core.ready.push(py, runnable);
        }
    }

    /// Whether there is something to do: callbacks are ready or messages were sent.
    #[inline(always)]
    pub(super) fn has_work(&self, py: Python<'_>) -> bool {
        #[cfg(Py_GIL_DISABLED)]
        if self.shared.other_threads.has_messages() {
            return true;
        }
        self.core.ready.len(py) != 0 || self.shared.inbox.has_messages()
    }

    /// Reports the callbacks that the loop has not taken to the garbage collector.
    ///
    /// It pauses all attached threads first, and only these use the queue: none has its lock then.
    pub(super) fn traverse_other_threads(
        &self,
        visit: &PyVisit<'_>,
    ) -> Result<(), PyTraverseError> {
        #[cfg(Py_GIL_DISABLED)]
        return self.shared.other_threads.visit(|runnable| runnable.traverse(visit));
        #[cfg(not(Py_GIL_DISABLED))]
        {
            let _ = visit;
            Ok(())
        }
    }

    /// Refuses callbacks of other threads from now on. Returns those that the loop has not taken.
    #[must_use = "dropping a runnable may run Python: do it where that is safe"]
    pub(super) fn refuse_other_threads(&self) -> Vec<Runnable> {
        #[cfg(Py_GIL_DISABLED)]
        return self.shared.other_threads.close();
        #[cfg(not(Py_GIL_DISABLED))]
        Vec::new()
    }
}
