//! Waiting for readiness.
//!
//! mio owns the system's selector and the waker, and serves platforms other than Linux
//! (`portable`). On Linux (`epoll`) registrations and waits go to mio's epoll descriptor
//! directly: mio offers edges only and waits in milliseconds, while `loop.add_reader()` has level
//! semantics and timers are finer. Both backends offer the same three types:
//!
//! - [`Poller`] waits. It belongs to the thread that turns the loop; only that thread may be
//!   inside [`Poller::poll`].
//! - [`Registrar`] registers descriptors, from any thread, also during a wait.
//! - [`Waker`] ends a wait, from any thread.
//!
//! Dropping them closes descriptors and does nothing else, so that a forked child can drop its
//! parent's. To use them it calls [`Registrar::renew`] first, which makes them its own; until then
//! wakes go nowhere and polls fail. The system's selector is closed with the last of them.
#![forbid(unsafe_code)]

#[cfg(any(target_os = "linux", target_os = "android"))]
mod epoll;
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

/// When readiness is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// By each poll for as long as it lasts.
    Level,
    /// Once, when it begins: at registration or when more arrives or drains.
    Edge,
}

/// What an event says about its descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Readiness(u8);

impl Readiness {
    const READABLE: u8 = 1;
    const WRITABLE: u8 = 1 << 1;
    const ERROR: u8 = 1 << 2;
    const READ_CLOSED: u8 = 1 << 3;
    const HANG_UP: u8 = 1 << 4;

    /// Reading won't block. As in Python's selectors, true of an event that reports anything
    /// but writability, whether or not this was registered for.
    #[inline]
    pub const fn is_readable(self) -> bool {
        self.0 & Self::READABLE != 0
    }

    /// Writing won't block. As in Python's selectors, true of an event that reports anything
    /// but readability, whether or not this was registered for.
    #[inline]
    pub const fn is_writable(self) -> bool {
        self.0 & Self::WRITABLE != 0
    }

    /// The descriptor is in an error state, or is a pipe whose reader has gone.
    #[inline]
    pub const fn is_error(self) -> bool {
        self.0 & Self::ERROR != 0
    }

    /// The stream's end has arrived, behind what is still to be read. With [`Trigger::Edge`]
    /// no further event announces it: read until the end, not until a short read. With
    /// [`Trigger::Level`] it may go unreported.
    #[inline]
    pub const fn is_read_closed(self) -> bool {
        self.0 & Self::READ_CLOSED != 0
    }

    /// Both directions are closed, or the other end of a pipe.
    #[inline]
    pub const fn is_hang_up(self) -> bool {
        self.0 & Self::HANG_UP != 0
    }
}
