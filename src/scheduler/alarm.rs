//! Waking the loop's thread from another one.

#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::reactor::Waker;
use crate::sys::fork::Generation;

/// Wakes a sleeping loop; may be kept by threads that outlive it, and needs no GIL.
///
/// Who queues something for the loop from another thread does so with the GIL held and rings
/// afterwards, then or later. The loop's thread marks itself asleep and looks at its queue
/// without letting go of the GIL in between, so it either sees the entry or is rung.
pub struct Alarm {
    /// None once the loop is closed: its descriptor must not stay open for those who ring.
    waker: Mutex<Option<Arc<Waker>>>,
    /// True while the loop's thread is, or is about to be, asleep in the poller.
    asleep: AtomicBool,
    /// A fork's child leaves the parent's descriptor alone, and the lock, which may be held by a
    /// thread that does not exist there.
    generation: Generation,
}

impl Alarm {
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
    pub fn ring(&self) {
        if self.asleep.swap(false, Ordering::SeqCst) && self.generation.is_current() {
            let waker = self.waker.lock();
            // The only failure is a full counter, and then the loop is awake.
            if let Some(Err(error)) = waker.as_ref().map(|waker| waker.wake()) {
                tracing::warn!(%error, "cannot wake the event loop");
            }
        }
    }

    /// The loop is closed: nobody needs to be woken.
    pub(super) fn disconnect(&self) {
        if self.generation.is_current() {
            drop(self.waker.lock().take());
        }
    }

    /// The loop's thread is about to sleep, or is awake again.
    #[inline]
    pub(super) fn set_asleep(&self, asleep: bool) {
        self.asleep.store(asleep, Ordering::SeqCst);
    }
}
