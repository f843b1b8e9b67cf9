//! Ending a wait from another thread.
#![forbid(unsafe_code)]

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::reactor::Token;

/// Makes the poller's current or next wait return.
#[derive(Debug)]
pub struct Waker {
    mio: mio::Waker,
    /// Whether a wake-up is on its way that the poller has not reported yet.
    pending: AtomicBool,
}

impl Waker {
    pub(super) fn new(registry: &mio::Registry) -> io::Result<Waker> {
        let token = mio::Token(Token::WAKER_DATA);
        Ok(Waker { mio: mio::Waker::new(registry, token)?, pending: AtomicBool::new(false) })
    }

    /// Wakes the poller. One system call for all calls between two polls. What the caller wrote
    /// before is visible to the polling thread after the poll that reports the wake-up.
    #[inline]
    pub fn wake(&self) -> io::Result<()> {
        if self.pending.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        self.mio.wake().inspect_err(|_| self.pending.store(false, Ordering::Release))
    }

    /// To be called by the poller once it has seen the wake-up and before it reports it: wakes
    /// from here on make a new one. A swap and not a store, to synchronise with the callers
    /// that found a wake-up pending and left.
    pub(super) fn acknowledge(&self) {
        self.pending.swap(false, Ordering::AcqRel);
    }
}
