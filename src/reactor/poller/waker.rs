//! Ends a wait from another thread.

use std::io;

use super::notifier::Notifier;
use crate::sys::fork::OwnerProcess;
use crate::sys::sync::atomic::{AtomicBool, Ordering};

/// Makes the poller's current or next wait return.
#[derive(Debug)]
pub struct Waker {
    notifier: Notifier,
    /// Whether a wake-up was sent that the poller has not reported yet.
    pending: AtomicBool,
    /// The process whose notifier it is.
    owner: OwnerProcess,
}

impl Waker {
    pub(super) fn new(registry: &mio::Registry) -> io::Result<Waker> {
        Ok(Waker {
            notifier: Notifier::new(registry)?,
            pending: AtomicBool::new(false),
            owner: OwnerProcess::current(),
        })
    }

    /// Wakes the poller. Calls between two polls coalesce into one system call. What the caller
    /// wrote before is visible to the polling thread after the poll that reports the wake-up.
    ///
    /// In a forked child it does not wake the parent's poller; the wake-up stays pending for the
    /// child's own.
    ///
    /// # Errors
    /// The system's; the wake-up is not pending then.
    #[inline]
    pub fn wake(&self) -> io::Result<()> {
        if self.pending.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        if !self.owner.is_current() {
            return Ok(());
        }
        self.notifier.notify().inspect_err(|_| self.pending.store(false, Ordering::Release))
    }

    /// Called by the poller when it has seen the wake-up and before it reports it: later calls of
    /// `wake` send a new one. A swap rather than a store, to synchronise with callers that found a
    /// wake-up pending and returned.
    pub(super) fn acknowledge(&self) {
        self.pending.swap(false, Ordering::AcqRel);
    }

    /// The notifier's descriptor.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub(super) fn descriptor(&self) -> std::os::fd::RawFd {
        self.notifier.descriptor()
    }

    /// In a forked child: detaches from the parent's poller and wakes the one of `registry`.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub(super) fn renew(&self, registry: &mio::Registry) -> io::Result<()> {
        self.notifier.renew(registry)?;
        self.owner.take_over();
        // `wake` was called in the parent before the fork, or in the child before this.
        if self.pending.load(Ordering::SeqCst) { self.notifier.notify() } else { Ok(()) }
    }
}
