//! Waking the loop's thread from another one.

#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use crate::reactor::Waker;
use crate::sys::fork::Generation;

const ORPHANED_LOCK_TIMEOUT: Duration = Duration::from_millis(100);

/// Wakes a sleeping loop; may be kept by threads that outlive it, and needs no GIL.
///
/// Who queues something for the loop from another thread does so with the GIL held and notifies
/// afterwards, then or later. The loop's thread marks itself asleep and looks at its queue
/// without letting go of the GIL in between, so it either sees the entry or is rung.
pub struct WakeSignal {
    /// None once the loop is closed: its descriptor must not stay open for those who notify.
    waker: Mutex<Option<Arc<Waker>>>,
    /// True while the loop's thread is, or is about to be, asleep in the poller.
    asleep: AtomicBool,
    /// In a fork's child the lock may be held by a thread that does not exist there.
    generation: Generation,
}

impl WakeSignal {
    /// For the poller of `waker`.
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
            // The only failure is a full counter, and then the loop is awake.
            if let Some(Err(error)) = waker.as_ref().map(|waker| waker.wake()) {
                tracing::warn!(target: "ferroloop::loop", %error, "cannot wake the event loop");
            }
        }
    }

    /// The waker. It knows itself whether it is the parent's or the child's own after a fork.
    fn lock(&self) -> Option<MutexGuard<'_, Option<Arc<Waker>>>> {
        if self.generation.is_current() {
            Some(self.waker.lock())
        } else {
            // Nobody holds it for long, except a thread that the fork left behind.
            self.waker.try_lock_for(ORPHANED_LOCK_TIMEOUT)
        }
    }

    /// The loop is closed: nobody needs to be woken.
    pub fn disconnect(&self) {
        if self.generation.is_current() {
            drop(self.waker.lock().take());
        }
    }

    /// The loop's thread is about to sleep, or is awake again.
    #[inline]
    pub fn set_asleep(&self, asleep: bool) {
        self.asleep.store(asleep, Ordering::SeqCst);
    }
}
