//! The descriptor that CPython's signal handler writes to. Releases before 3.13 do not export the
//! function.

use std::os::fd::RawFd;

use pyo3::prelude::*;

unsafe extern "C" {
    /// Public API of CPython that PyO3 does not declare. Sets the descriptor without any check and
    /// returns the previous one.
    fn PySignal_SetWakeupFd(fd: std::ffi::c_int) -> std::ffi::c_int;
}

/// `signal.set_wakeup_fd(fd)` without its checks: returns the previous descriptor; -1 means none.
/// To be called in the main thread with a non-blocking descriptor.
#[inline]
pub fn swap_wakeup_fd(_py: Python<'_>, fd: RawFd) -> RawFd {
    // SAFETY: attached; the call replaces one number that signal handlers read.
    unsafe { PySignal_SetWakeupFd(fd) }
}
