//! Where CPython's signal handler writes to. Older releases do not export the function.

use std::os::fd::RawFd;

use pyo3::prelude::*;

unsafe extern "C" {
    /// Public API of CPython that pyo3 does not declare: a swap, which checks nothing.
    fn PySignal_SetWakeupFd(fd: std::ffi::c_int) -> std::ffi::c_int;
}

/// What `signal.set_wakeup_fd(fd)` does, without its checks: returns the descriptor replaced, and
/// -1 stands for none. To be called in the main thread, with a non-blocking descriptor.
#[inline]
pub fn swap_wakeup_fd(_py: Python<'_>, fd: RawFd) -> RawFd {
    // SAFETY: attached; the call exchanges one number that is read by signal handlers.
    unsafe { PySignal_SetWakeupFd(fd) }
}
