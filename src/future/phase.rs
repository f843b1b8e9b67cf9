//! Whether a future is done, for other threads than the loop's: `done()` and `cancelled()` do not wait
//! for a busy loop on free-threaded builds. With a GIL this takes no space.

#[cfg(Py_GIL_DISABLED)]
use std::sync::atomic::{AtomicU8, Ordering};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use super::{Future, Outcome};
use crate::scheduler::{COMMON_LOOP_CLASS, Scheduler};

/// What any thread may know of the outcome. All-zero bytes are that of a pending future.
#[derive(Default)]
pub struct PublishedPhase(#[cfg(Py_GIL_DISABLED)] AtomicU8);

#[cfg(Py_GIL_DISABLED)]
const DONE: u8 = 1;
#[cfg(Py_GIL_DISABLED)]
const CANCELLED: u8 = 2;

impl PublishedPhase {
    /// Called in the section of the loop, before the outcome is stored: a callback that is called
    /// afterwards finds the future done in any thread.
    #[inline(always)]
    pub fn publish(&self, outcome: &Outcome) {
        #[cfg(Py_GIL_DISABLED)]
        self.0.store(
            match outcome {
                Outcome::Pending => 0,
                Outcome::Cancelled => CANCELLED,
                Outcome::Result(_) | Outcome::Exception(_) => DONE,
            },
            Ordering::Release,
        );
        #[cfg(not(Py_GIL_DISABLED))]
        let _ = outcome;
    }
}

/// The error of a future without a loop.
#[cold]
pub(super) fn not_initialised() -> PyErr {
    PyRuntimeError::new_err("Future object is not initialized.")
}

/// What any thread may call, in the section of the loop or outside.
impl Future {
    /// As [`Future::event_loop`].
    ///
    /// # Errors
    /// RuntimeError before `__init__`.
    pub fn event_loop_for_any_thread<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.owning_loop(py).map(|owner| owner.to_owned()).ok_or_else(not_initialised)
    }

    /// The loop's scheduler, if it is a loop of this crate. Uses no cell: for any thread.
    #[inline(always)]
    pub fn owning_scheduler<'py>(&self, py: Python<'py>) -> Option<Bound<'py, Scheduler>> {
        COMMON_LOOP_CLASS.cast(&*self.owning_loop(py)?).cloned()
    }

    /// Whether it has an outcome.
    #[inline(always)]
    pub fn is_done_for_any_thread(&self, py: Python<'_>) -> bool {
        #[cfg(not(Py_GIL_DISABLED))]
        return self.is_done(py);
        #[cfg(Py_GIL_DISABLED)]
        {
            let _ = py;
            self.phase.0.load(Ordering::Acquire) != 0
        }
    }

    /// Whether it was cancelled.
    #[inline(always)]
    pub fn is_cancelled_for_any_thread(&self, py: Python<'_>) -> bool {
        #[cfg(not(Py_GIL_DISABLED))]
        return self.is_cancelled(py);
        #[cfg(Py_GIL_DISABLED)]
        {
            let _ = py;
            self.phase.0.load(Ordering::Acquire) == CANCELLED
        }
    }
}
