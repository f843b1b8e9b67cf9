//! Whether a future is done, for other threads than the loop's: `done()` and `cancelled()` do not wait
//! for a busy loop on free-threaded builds. With a GIL this takes no space.

#[cfg(Py_GIL_DISABLED)]
use std::sync::atomic::{AtomicU8, Ordering};

use super::Outcome;

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

    /// Whether it has an outcome.
    #[cfg(Py_GIL_DISABLED)]
    pub fn is_done(&self) -> bool {
        self.0.load(Ordering::Acquire) != 0
    }

    /// Whether it was cancelled.
    #[cfg(Py_GIL_DISABLED)]
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire) == CANCELLED
    }
}
