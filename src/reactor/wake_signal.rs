//! Wakes the loop's thread from another one.

#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use crate::reactor::Waker;
use crate::sys::fork::Generation;

/// How long to try for a lock in a forked child, where its holder may no longer exist.
const ORPHANED_LOCK_TIMEOUT: Duration = Duration::from_millis(100);

/// Wakes a sleeping loop. Threads that outlive the loop may keep it; it needs no GIL.
///
/// A thread that queues something for the loop does so with the GIL held and calls
/// [`WakeSignal::notify`] afterwards, at once or later. The loop's thread marks itself asleep and
/// then checks its queue without releasing the GIL in between, so it either sees the entry or is
/// woken.
pub struct WakeSignal {
    /// `None` once the loop is closed, so that threads which keep the signal do not keep the
    /// waker's descriptor open.
    waker: Mutex<Option<Arc<Waker>>>,
    /// True while the loop's thread is, or is about to be, asleep in the poller.
    asleep: AtomicBool,
    /// In a forked child the lock may be held by a thread that does not exist there.
    generation: Generation,
}

impl WakeSignal {
    /// Creates the signal for the poller of `waker`.
    pub fn new(waker: Arc<Waker>) -> Self {
        Self {
            waker: Mutex::new(Some(waker)),
            asleep: AtomicBool::new(false),
            generation: Generation::current(),
        }
    }

    /// Ends the loop's sleep: one system call per sleep, none while it is awake.
    #[inline]
    pub fn notify(&self) {
        if self.asleep.swap(false, Ordering::SeqCst) {
            let Some(waker) = self.lock() else { return };
            // It fails only when the counter is full, and then the loop is awake.
            if let Some(Err(error)) = waker.as_ref().map(|waker| waker.wake()) {
                tracing::warn!(target: "ferroloop::loop", %error, "cannot wake the event loop");
            }
        }
    }

    /// Locks the waker; after a fork, the waker itself knows whether it is the parent's or the
    /// child's own. `None` if an orphaned lock cannot be taken.
    fn lock(&self) -> Option<MutexGuard<'_, Option<Arc<Waker>>>> {
        if self.generation.is_current() {
            Some(self.waker.lock())
        } else {
            // Threads hold the lock only briefly, except one that does not exist in this child.
            self.waker.try_lock_for(ORPHANED_LOCK_TIMEOUT)
        }
    }

    /// The loop is closed: drops the waker.
    pub fn disconnect(&self) {
        if self.generation.is_current() {
            drop(self.waker.lock().take());
        }
    }

    /// Notes that the loop's thread is about to sleep, or is awake again.
    #[inline]
    pub fn set_asleep(&self, asleep: bool) {
        self.asleep.store(asleep, Ordering::SeqCst);
    }
}
