//! Running, stopping and closing.

use std::os::fd::RawFd;

use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::EventLoop;
use crate::ffi::objects::object::HasBase;
use crate::ffi::panic;
use crate::ffi::thread_exit;
use crate::interop::imports;
use crate::logging;
use crate::reactor::clock;
use crate::scheduler::{Scheduler, current_thread, patches, turn};
use crate::signals;
use crate::watchdog;

/// Calls `body` and turns a panic, which would be a bug, into an exception, so that the caller
/// restores its state and the loop stays usable.
fn catch_panic<T>(body: impl FnOnce() -> PyResult<T>) -> PyResult<T> {
    panic::catch(body).unwrap_or_else(|_message| {
        Err(PyRuntimeError::new_err("ferroloop: internal error (panic)"))
    })
}

#[pymethods]
impl EventLoop {
    /// Run until `stop()` is called.
    ///
    /// Raises:
    ///     RuntimeError: the loop is closed or running, or another loop runs in this thread.
    fn run_forever(slf: &Bound<'_, Self>) -> PyResult<()> {
        thread_exit::protect();
        Self::check_can_run(slf)?;
        logging::install(slf.py())?;
        let number = slf.base().metrics().number.get();
        let run = tracing::debug_span!(target: "ferroloop::loop", "run", event_loop = number);
        let run = run.entered();
        tracing::debug!(target: "ferroloop::loop", "a loop starts");
        let result = catch_panic(|| {
            Self::_run_forever_setup(slf)?;
            turn::run(slf.as_super()).map_err(PyErr::from)
        });
        let cleaned = Self::_run_forever_cleanup(slf);
        tracing::debug!(target: "ferroloop::loop", "a loop stops");
        drop(run);
        logging::flush(slf.py());
        result.and(cleaned)
    }

    /// Prepare the thread for running the loop.
    fn _run_forever_setup(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        Self::check_can_run(slf)?;
        let scheduler = slf.base();
        let debug = scheduler.is_debug(py);
        // From here on `_run_forever_cleanup` must run.
        let hooks = imports::get_asyncgen_hooks(py)?.call0()?;
        slf.get().saved_asyncgen_hooks.store(py, Some(hooks));
        slf.call_method1(intern!(py, "_set_coroutine_origin_tracking"), (debug,))?;
        scheduler.set_thread(py, current_thread(py)?);
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
        Self::on_run_start(slf);
        // The program's subclass, or a tool before the loop was created, may have replaced methods.
        patches::check(slf.as_super())
    }

    /// Undo [`EventLoop::_run_forever_setup`]. All steps are made, even if one of them raises.
    fn _run_forever_cleanup(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let Some(hooks) = slf.get().saved_asyncgen_hooks.replace(py, None) else {
            return Ok(()); // the set-up has failed
        };
        let scheduler = slf.base();
        // Before the thread is reset.
        let ended = catch_panic(|| Self::on_run_end(slf));
        scheduler.set_stopping(py, false);
        scheduler.set_thread(py, 0);
        scheduler.track_scheduled(py);
        let steps: [&dyn Fn() -> PyResult<()>; 3] = [
            &|| imports::set_running_loop(py)?.call1((py.None(),)).map(drop),
            &|| {
                let name = intern!(py, "_set_coroutine_origin_tracking");
                slf.call_method1(name, (false,)).map(drop)
            },
            &|| {
                let hooks = hooks.bind(py).cast::<pyo3::types::PyTuple>()?;
                imports::set_asyncgen_hooks(py)?.call1(hooks).map(drop)
            },
        ];
        let undone = steps.map(catch_panic);
        undone.into_iter().find(Result::is_err).unwrap_or(ended)
    }

    /// Run one turn of the loop.
    fn _run_once(slf: &Bound<'_, Self>) -> PyResult<()> {
        thread_exit::protect();
        catch_panic(|| turn::once(slf.as_super()).map_err(PyErr::from))
    }

    /// Stop `run_forever()` after the current turn.
    fn stop(slf: &Bound<'_, Self>) {
        slf.base().set_stopping(slf.py(), true);
    }

    /// Return True if the loop is running.
    fn is_running(slf: &Bound<'_, Self>) -> bool {
        slf.base().is_running(slf.py())
    }

    /// Return True if the loop was closed.
    fn is_closed(slf: &Bound<'_, Self>) -> bool {
        slf.base().is_closed(slf.py())
    }

    fn _check_closed(slf: &Bound<'_, Self>) -> PyResult<()> {
        slf.base().check_open(slf.py())
    }

    fn _check_running(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        if slf.base().is_running(py) {
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
        slf.base().check_thread(slf.py())
    }

    /// Drop everything that is scheduled, and the poller: the native part of `close()`.
    fn _dispose(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let scheduler = slf.base();
        if scheduler.is_running(py) {
            return Err(PyRuntimeError::new_err("Cannot close a running event loop"));
        }
        scheduler.set_closed(py, true);
        scheduler.unregister(py);
        scheduler.dispose(py);
        Ok(())
    }

    /// Return the descriptor for `signal.set_wakeup_fd()`. From now on this loop receives the
    /// signal numbers that are written to it.
    fn _claim_signal_pipe(slf: &Bound<'_, Self>) -> PyResult<RawFd> {
        signals::start_delivery(slf.as_super())
    }

    /// Stop receiving signal numbers; called when the loop's last signal handler is removed.
    fn _release_signal_pipe(slf: &Bound<'_, Self>) -> PyResult<()> {
        signals::stop_delivery(slf.as_super())
    }

    /// Wake the loop if it sleeps in the poller. Safe in any thread.
    fn _write_to_self(slf: &Bound<'_, Self>) {
        slf.base().wake();
    }
}

impl EventLoop {
    /// Called when a run starts.
    pub(super) fn on_run_start(slf: &Bound<'_, Self>) {
        let (py, scheduler) = (slf.py(), slf.base());
        scheduler.call_before_sleep(py, signals::install_for_run);
        Scheduler::register(slf.as_super());
        watchdog::loop_runs(py, scheduler.metrics());
        scheduler.metrics().run_begins(clock::nanoseconds());
    }

    /// Called when a run ends.
    pub(super) fn on_run_end(slf: &Bound<'_, Self>) -> PyResult<()> {
        slf.base().metrics().run_ends(clock::nanoseconds());
        signals::uninstall_after_run(slf.as_super())
    }

    /// Checked before any state is changed, so that a failed attempt does not affect a run that is
    /// in progress.
    fn check_can_run(slf: &Bound<'_, Self>) -> PyResult<()> {
        slf.base().check_open(slf.py())?;
        Self::_check_running(slf)
    }
}
