//! Waiting for readiness.
//!
//! mio owns the system's selector and the waker. `portable.rs` is the backend for platforms other
//! than Linux. On Linux (`epoll.rs`) registrations and waits go to mio's epoll descriptor directly,
//! since mio offers only edge-triggered events and timeouts in milliseconds, while
//! `loop.add_reader()` is level-triggered and timers are finer. `waker.rs` ends waits, by what
//! `notifier.rs` writes to; `spin.rs` polls busily, `tests.rs` tests both backends. Both backends
//! offer the same three types:
//!
//! - [`Poller`] waits. It belongs to the thread that turns the loop; only that thread may be
//!   inside [`Poller::poll`].
//! - [`Registrar`] registers descriptors, from any thread, also during a wait.
//! - [`Waker`] ends a wait, from any thread.
//!
//! Dropping them only closes descriptors, so a forked child can drop its parent's. To use them, the
//! child must first call [`Registrar::renew`], which makes them its own; until then wake-ups have
//! no effect and polls fail. The system's selector is closed with the last of them.

#[cfg(any(target_os = "linux", target_os = "android"))]
mod epoll;
mod notifier;
// Also compiled for tests on Linux, where mio's epoll selector stands in for kqueue.
#[cfg(any(not(any(target_os = "linux", target_os = "android")), test))]
#[cfg_attr(any(target_os = "linux", target_os = "android"), allow(unreachable_pub))]
mod portable;
mod spin;
#[cfg(test)]
mod tests;
mod waker;

#[cfg(any(target_os = "linux", target_os = "android"))]
pub use epoll::{Poller, Registrar};
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub use portable::{Poller, Registrar};
pub use waker::Waker;

/// What an event says about its descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Readiness(u8);

impl Readiness {
    const READABLE: u8 = 1;
    const WRITABLE: u8 = 1 << 1;

    /// Reading will not block. As in Python's selectors, true of any event that reports anything
    /// but writability, even if reading was not registered for.
    #[inline]
    pub const fn is_readable(self) -> bool {
        self.0 & Self::READABLE != 0
    }

    /// Writing will not block. As in Python's selectors, true of any event that reports anything
    /// but readability, even if writing was not registered for.
    #[inline]
    pub const fn is_writable(self) -> bool {
        self.0 & Self::WRITABLE != 0
    }
}
