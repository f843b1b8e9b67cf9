//! Running, stopping and closing.

#![forbid(unsafe_code)]

use std::os::fd::RawFd;

use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::EventLoop;
use crate::interop::imports;
use crate::logging;
use crate::reactor::clock;
use crate::scheduler::{current_thread, patches, turn};
use crate::signals;
use crate::watchdog;

#[pymethods]
impl EventLoop {
    /// Run until `stop()` is called.
    ///
    /// Raises:
    ///     RuntimeError: the loop is closed or running, or another loop runs in this thread.
    fn run_forever(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::check_may_run(slf)?;
        logging::install(slf.py())?;
        let number = slf.as_super().get().metrics.number.get();
        let run = tracing::debug_span!(target: "ferroloop::loop", "run", event_loop = number);
        let run = run.entered();
        tracing::debug!(target: "ferroloop::loop", "a loop starts");
        let result = Self::_run_forever_setup(slf)
            .and_then(|()| turn::run(slf.as_super()).map_err(PyErr::from));
        let cleaned = Self::_run_forever_cleanup(slf);
        tracing::debug!(target: "ferroloop::loop", "a loop stops");
        drop(run);
        logging::settle(slf.py());
        result.and(cleaned)
    }

    /// Prepare the thread for running the loop.
    fn _run_forever_setup(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        Self::check_may_run(slf)?;
        let scheduler = slf.as_super().get();
        let debug = scheduler.debug.get(py);
        slf.call_method1(intern!(py, "_set_coroutine_origin_tracking"), (debug,))?;
        let hooks = imports::get_asyncgen_hooks(py)?.call0()?;
        slf.get().saved_asyncgen_hooks.store(py, Some(hooks));
        scheduler.thread.set(py, current_thread(py)?);
        let keywords = PyDict::new(py);
        keywords.set_item(
            intern!(py, "firstiter"),
            slf.getattr(intern!(py, "_asyncgen_firstiter_hook"))?,
        )?;
        keywords.set_item(
            intern!(py, "finalizer"),
            slf.getattr(intern!(py, "_asyncgen_finalizer_hook"))?,
        )?;
        imports::set_asyncgen_hooks(py)?.call((), Some(&keywords))?;
        imports::set_running_loop(py)?.call1((slf,))?;
        Self::note_begin(slf);
        // What was replaced by the program's own subclass, or before the loop was made.
        patches::look(slf.as_super())
    }

    /// Undo what [`EventLoop::_run_forever_setup`] did.
    fn _run_forever_cleanup(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let Some(hooks) = slf.get().saved_asyncgen_hooks.replace(py, None) else {
            return Ok(()); // the set-up refused to run
        };
        let scheduler = slf.as_super().get();
        scheduler.stopping.set(py, false);
        scheduler.thread.set(py, 0);
        let disarmed = Self::note_end(slf);
        scheduler.unhide_scheduled(py);
        imports::set_running_loop(py)?.call1((py.None(),))?;
        slf.call_method1(intern!(py, "_set_coroutine_origin_tracking"), (false,))?;
        let hooks = hooks.into_bound(py).cast_into::<pyo3::types::PyTuple>()?;
        imports::set_asyncgen_hooks(py)?.call1(hooks)?;
        disarmed
    }

    /// One turn: what asyncio calls `_run_once`.
    fn _run_once(slf: &Bound<'_, Self>) -> PyResult<()> {
        turn::once(slf.as_super()).map_err(PyErr::from)
    }

    /// Stop `run_forever()` after the current turn.
    fn stop(slf: &Bound<'_, Self>) {
        slf.as_super().get().stopping.set(slf.py(), true);
    }

    /// Return True if the loop runs.
    fn is_running(slf: &Bound<'_, Self>) -> bool {
        slf.as_super().get().thread.get(slf.py()) != 0
    }

    /// Return True if the loop was closed.
    fn is_closed(slf: &Bound<'_, Self>) -> bool {
        slf.as_super().get().closed.get(slf.py())
    }

    fn _check_closed(slf: &Bound<'_, Self>) -> PyResult<()> {
        slf.as_super().get().check_open(slf.py())
    }

    fn _check_running(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        if slf.as_super().get().thread.get(py) != 0 {
            return Err(PyRuntimeError::new_err("This event loop is already running"));
        }
        if !imports::get_running_loop(py)?.call0()?.is_none() {
            return Err(PyRuntimeError::new_err(
                "Cannot run the event loop while another loop is running",
            ));
        }
        Ok(())
    }

    fn _check_thread(slf: &Bound<'_, Self>) -> PyResult<()> {
        slf.as_super().get().check_thread(slf.py())
    }

    /// Drop all that is scheduled, and the poller: the native part of `close()`.
    fn _dispose(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let scheduler = slf.as_super().get();
        if scheduler.thread.get(py) != 0 {
            return Err(PyRuntimeError::new_err("Cannot close a running event loop"));
        }
        scheduler.closed.set(py, true);
        scheduler.membership.resign(py);
        scheduler.dispose(py);
        Ok(())
    }

    /// Return the descriptor for `signal.set_wakeup_fd()`, the numbers written to which are told
    /// this loop from now on.
    fn _claim_signal_pipe(slf: &Bound<'_, Self>) -> PyResult<RawFd> {
        signals::claim(slf.as_super())
    }

    /// Give it up: to be called when the loop has no signal handlers any more.
    fn _release_signal_pipe(slf: &Bound<'_, Self>) -> PyResult<()> {
        signals::release(slf.as_super())
    }

    /// Wake the loop if it sleeps in the poller. Safe in any thread.
    fn _write_to_self(slf: &Bound<'_, Self>) {
        slf.as_super().get().wake();
    }
}

impl EventLoop {
    /// A run begins.
    pub(super) fn note_begin(slf: &Bound<'_, Self>) {
        let (py, scheduler) = (slf.py(), slf.as_super().get());
        scheduler.before_sleep.set(py, Some(signals::arm));
        scheduler.membership.enroll(slf.as_super());
        watchdog::loop_runs(py, &scheduler.metrics);
        scheduler.metrics.run_begins(clock::nanoseconds());
    }

    /// A run ends.
    pub(super) fn note_end(slf: &Bound<'_, Self>) -> PyResult<()> {
        slf.as_super().get().metrics.run_ends(clock::nanoseconds());
        signals::disarm(slf.as_super())
    }

    /// Refusing to run must not touch the state of the run that goes on.
    fn check_may_run(slf: &Bound<'_, Self>) -> PyResult<()> {
        slf.as_super().get().check_open(slf.py())?;
        Self::_check_running(slf)
    }
}
