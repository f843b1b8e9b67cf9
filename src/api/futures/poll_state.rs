//! Whether a Rust future waits, is polled or was woken: one atomic byte, which any thread may
//! change. Contains no Python.

use crate::sys::sync::atomic::{AtomicU8, Ordering};

const PARKED: u8 = 0;
const POLLED: u8 = 1;
const WOKEN: u8 = 2;

/// PARKED: a wake-up must send a message to the loop. POLLED: the poll in progress sees a wake-up
/// when it ends. WOKEN: the future will be polled, and further wake-ups have no effect.
pub struct PollState(AtomicU8);

impl Default for PollState {
    /// Of a future that has not been polled yet.
    fn default() -> Self {
        Self(AtomicU8::new(WOKEN))
    }
}

impl PollState {
    /// Must be called right before a poll: wake-ups from here on request another poll. A swap reads
    /// what an earlier wake-up wrote, and so synchronises with it: the poll sees why its future was
    /// woken.
    #[inline]
    pub fn begin_poll(&self) {
        self.0.swap(POLLED, Ordering::SeqCst);
    }

    /// After a poll that returned pending: true if the future is now parked, false if it was woken
    /// during the poll and must be polled again.
    #[inline]
    pub fn end_poll(&self) -> bool {
        self.0.compare_exchange(POLLED, PARKED, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// No poll will follow: wake-ups have no effect from now on.
    #[inline]
    pub fn retire(&self) {
        self.0.store(WOKEN, Ordering::SeqCst);
    }

    /// A wake-up. Returns true if the future was parked: the caller must send the message.
    #[inline]
    pub fn wake(&self) -> bool {
        self.0.swap(WOKEN, Ordering::SeqCst) == PARKED
    }
}
