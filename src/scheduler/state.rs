//! Whether the loop is open, which thread runs it, and how: in debug mode, with which clock, and
//! what upper layers have the turn do.

use std::os::fd::RawFd;
#[cfg(Py_GIL_DISABLED)]
use std::sync::atomic::Ordering;
use std::time::Duration;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use super::{LeaveTask, Scheduler, TurnHook};
#[cfg(Py_GIL_DISABLED)]
use crate::ffi::thread_pointer::thread_pointer;
use crate::interop::imports;

impl Scheduler {
    /// Whether debug mode is on.
    #[inline(always)]
    pub fn is_debug(&self, py: Python<'_>) -> bool {
        self.mode.debug.get(py)
    }

    /// Whether `loop.time` was replaced in Python.
    #[inline(always)]
    pub fn has_foreign_clock(&self, py: Python<'_>) -> bool {
        self.mode.foreign_clock.get(py)
    }

    /// Whether `loop.close()` was called.
    #[inline(always)]
    pub fn is_closed(&self, py: Python<'_>) -> bool {
        self.lifecycle.closed.get(py)
    }

    /// Marks the loop as closed, or open.
    pub fn set_closed(&self, py: Python<'_>, closed: bool) {
        self.lifecycle.closed.set(py, closed);
    }

    /// Whether the run ends with the current turn.
    #[inline(always)]
    pub fn is_stopping(&self, py: Python<'_>) -> bool {
        self.lifecycle.stopping.get(py)
    }

    /// Has the run end with the current turn, or not.
    pub fn set_stopping(&self, py: Python<'_>, stopping: bool) {
        self.lifecycle.stopping.set(py, stopping);
    }

    /// `threading.get_ident()` of the running thread; 0 when the loop does not run.
    #[inline(always)]
    pub fn thread(&self, py: Python<'_>) -> u64 {
        self.lifecycle.thread.get(py)
    }

    /// Notes that this thread, of which the number is given, runs the loop; 0 for no thread.
    pub fn set_thread(&self, py: Python<'_>, thread: u64) {
        #[cfg(Py_GIL_DISABLED)]
        {
            let pointer = if thread == 0 { 0 } else { thread_pointer() };
            self.lifecycle.thread_pointer.store(pointer, Ordering::Relaxed);
        }
        self.lifecycle.thread.set(py, thread);
    }

    /// How long to poll before each sleep; `None` if the loop decides.
    pub fn busy_poll(&self, py: Python<'_>) -> Option<Duration> {
        self.core.sleeping.busy_poll.get(py)
    }

    /// Sets how long to poll before each sleep; `None` has the loop decide.
    pub fn set_busy_poll(&self, py: Python<'_>, duration: Option<Duration>) {
        self.core.sleeping.busy_poll.set(py, duration);
    }

    /// Switches debug mode on or off.
    pub fn set_debug(&self, py: Python<'_>, enabled: bool) {
        self.mode.debug.set(py, enabled);
        self.update_instrumented(py);
    }

    /// Switches the reporting of slow callbacks outside debug mode on or off.
    pub fn set_timed(&self, py: Python<'_>, enabled: bool) {
        self.mode.timed.set(py, enabled);
        self.update_instrumented(py);
    }

    pub(super) fn update_instrumented(&self, py: Python<'_>) {
        let instrumented = self.mode.debug.get(py)
            || self.mode.timed.get(py)
            || self.mode.patches.is_handle_run_replaced(py);
        self.mode.instrumented.set(py, instrumented);
    }

    /// Checks what `call_soon()` checks: that the loop is open and, in debug mode, that the calling
    /// thread runs it.
    ///
    /// # Errors
    /// RuntimeError with asyncio's texts.
    #[inline(always)]
    pub fn check_usable(&self, py: Python<'_>) -> PyResult<()> {
        self.check_open(py)?;
        if self.mode.debug.get(py) { self.check_thread(py) } else { Ok(()) }
    }

    /// # Errors
    /// RuntimeError if the loop is closed.
    #[inline(always)]
    pub fn check_open(&self, py: Python<'_>) -> PyResult<()> {
        if self.lifecycle.closed.get(py) {
            return Err(PyRuntimeError::new_err("Event loop is closed"));
        }
        Ok(())
    }

    /// # Errors
    /// RuntimeError if the loop runs in another thread.
    pub fn check_thread(&self, py: Python<'_>) -> PyResult<()> {
        let thread = self.lifecycle.thread.get(py);
        if thread != 0 && thread != current_thread(py)? {
            return Err(PyRuntimeError::new_err(
                "Non-thread-safe operation invoked on an event loop other than the current one",
            ));
        }
        Ok(())
    }

    /// Whether a thread runs the loop.
    #[inline(always)]
    pub fn is_running(&self, py: Python<'_>) -> bool {
        self.lifecycle.thread.get(py) != 0
    }

    /// Adds the loop to the ones that have run and are not closed.
    pub fn register(slf: &Bound<'_, Self>) {
        slf.get().lifecycle.registry_entry.register(slf);
    }

    /// Removes it from these.
    pub fn unregister(&self, py: Python<'_>) {
        self.lifecycle.registry_entry.unregister(py);
    }

    /// Has `hook` called once, before the loop next sleeps.
    pub fn call_before_sleep(&self, py: Python<'_>, hook: TurnHook) {
        self.turn_hooks.before_sleep.set(py, Some(hook));
    }

    /// Has the loop poll for signal numbers even while callbacks are ready, or not.
    pub fn set_has_signal_handlers(&self, py: Python<'_>, has_signal_handlers: bool) {
        self.turn_hooks.has_signal_handlers.set(py, has_signal_handlers);
    }

    /// Makes polls also wait for a descriptor that the kernel does not register, and call the
    /// function whenever it is readable. `None` ends that.
    pub fn poll_extra(&self, py: Python<'_>, extra: Option<(RawFd, TurnHook)>) {
        if let Some(mut poller) = self.core.poller.take(py) {
            poller.set_extra(extra.map(|(fd, _)| fd));
            drop(self.core.poller.replace(py, Some(poller)));
        }
        self.turn_hooks.on_extra.set(py, extra.map(|(_, ready)| ready));
    }

    /// Whether polls wait for such a descriptor.
    pub fn polls_extra(&self, py: Python<'_>) -> bool {
        self.turn_hooks.on_extra.get(py).is_some()
    }

    /// Whether a task remains the current one until the turn calls the function of
    /// [`Scheduler::call_to_leave_task`].
    #[inline]
    pub fn has_current_task(&self, py: Python<'_>) -> bool {
        self.turn_hooks.leave_task.get(py).is_some()
    }

    /// Has `leave` called once, before anything but the next step of a task runs.
    #[inline]
    pub fn call_to_leave_task(&self, py: Python<'_>, leave: LeaveTask) {
        self.turn_hooks.leave_task.set(py, Some(leave));
    }
}

/// `threading.get_ident()`.
pub fn current_thread(py: Python<'_>) -> PyResult<u64> {
    imports::get_ident(py)?.call0()?.extract()
}
