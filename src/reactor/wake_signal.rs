//! Wakes the loop's thread from another one.

use std::sync::Arc;

use crate::reactor::Waker;
use crate::sys::sync::ForkSafeMutex;
use crate::sys::sync::atomic::{AtomicBool, Ordering};

/// Wakes a sleeping loop. Threads that outlive the loop may keep it; it needs no GIL.
///
/// A thread that queues something for the loop does so with the GIL held and calls
/// [`WakeSignal::notify`] afterwards, at once or later. The loop's thread marks itself asleep and
/// then checks its queue without releasing the GIL in between, so it either sees the entry or is
/// woken.
pub struct WakeSignal {
    /// `None` once the loop is closed, so that threads which keep the signal do not keep the
    /// waker's descriptor open.
    waker: ForkSafeMutex<Option<Arc<Waker>>>,
    /// True while the loop's thread is, or is about to be, asleep in the poller.
    asleep: AtomicBool,
    /// True while the loop's thread waits in the poller without the GIL.
    detached: AtomicBool,
}

impl WakeSignal {
    /// Creates the signal for the poller of `waker`.
    pub fn new(waker: Arc<Waker>) -> Self {
        Self {
            waker: ForkSafeMutex::new(Some(waker)),
            asleep: AtomicBool::new(false),
            detached: AtomicBool::new(false),
        }
    }

    /// Ends the loop's sleep: one system call per sleep, none while it is awake.
    #[inline]
    pub fn notify(&self) {
        if self.asleep.swap(false, Ordering::SeqCst) {
            // After a fork, the waker itself knows whether it is the parent's or the child's own.
            let Some(waker) = self.waker.lock() else { return };
            // It fails only when the counter is full, and then the loop is awake.
            if let Some(Err(error)) = waker.as_ref().map(|waker| waker.wake()) {
                tracing::warn!(target: "ferroloop::loop", %error, "cannot wake the event loop");
            }
        }
    }

    /// The loop is closed: drops the waker.
    pub fn disconnect(&self) {
        if self.waker.is_own() {
            drop(self.waker.lock().and_then(|mut waker| waker.take()));
        }
    }

    /// Calls `wait`, which is told whether it may sleep: not if `has_work` returns true, which is
    /// called once the loop counts as asleep. So another thread that queues something later wakes
    /// the loop.
    #[inline]
    pub fn sleep_unless<R>(
        &self,
        has_work: impl FnOnce() -> bool,
        wait: impl FnOnce(bool) -> R,
    ) -> R {
        self.set_asleep(true);
        let result = wait(!has_work());
        self.set_asleep(false);
        result
    }

    /// Calls `wait`, which the loop's thread does without the GIL.
    #[inline]
    pub fn while_detached<R>(&self, wait: impl FnOnce() -> R) -> R {
        self.detached.store(true, Ordering::Relaxed);
        let result = wait();
        self.detached.store(false, Ordering::Relaxed);
        result
    }

    /// Whether the loop's thread waits without the GIL: a hint, for it may wake at any moment.
    #[inline]
    pub fn is_detached(&self) -> bool {
        self.detached.load(Ordering::Relaxed)
    }

    /// Notes that the loop's thread is about to sleep, or is awake again. A swap reads what the last
    /// thread to call [`WakeSignal::notify`] wrote, and so synchronises with it: what that thread
    /// had queued is visible from here on.
    #[inline]
    pub fn set_asleep(&self, asleep: bool) {
        self.asleep.swap(asleep, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reactor::Poller;
    use crate::sys::fork::tests::{holds_in_child, while_other_thread};

    /// The child wakes no one, but it goes on.
    #[test]
    fn a_child_notifies_although_another_thread_held_the_lock_at_the_fork() {
        let poller = Poller::new().unwrap();
        let wake_signal = WakeSignal::new(poller.waker());
        let hold = |inside: &dyn Fn()| {
            let _guard = wake_signal.waker.lock();
            inside();
        };
        while_other_thread(hold, || {
            wake_signal.set_asleep(true);
            assert!(holds_in_child(|| {
                wake_signal.notify();
                wake_signal.disconnect();
                true
            }));
        });
    }
}
