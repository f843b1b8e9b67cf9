//! Running, stopping and closing.

#![forbid(unsafe_code)]

use std::os::fd::RawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};

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

/// What `body` returns; a panic, of which there should be none, becomes an exception, so that the
/// caller puts its state in order and the loop stays usable.
fn without_panic<T>(body: impl FnOnce() -> PyResult<T>) -> PyResult<T> {
    catch_unwind(AssertUnwindSafe(body))
        .unwrap_or_else(|_panic| Err(PyRuntimeError::new_err("ferroloop: internal error (panic)")))
}

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
        let result = without_panic(|| {
            Self::_run_forever_setup(slf)?;
            turn::run(slf.as_super()).map_err(PyErr::from)
        });
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
        // From here on there is something to undo.
        let hooks = imports::get_asyncgen_hooks(py)?.call0()?;
        slf.get().saved_asyncgen_hooks.store(py, Some(hooks));
        slf.call_method1(intern!(py, "_set_coroutine_origin_tracking"), (debug,))?;
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
        patches::check(slf.as_super())
    }

    /// Undo what [`EventLoop::_run_forever_setup`] did: all of it, whatever one of the steps raises.
    fn _run_forever_cleanup(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let Some(hooks) = slf.get().saved_asyncgen_hooks.replace(py, None) else {
            return Ok(()); // the set-up refused to run
        };
        let scheduler = slf.as_super().get();
        // While the thread is known.
        let ended = without_panic(|| Self::note_end(slf));
        scheduler.stopping.set(py, false);
        scheduler.thread.set(py, 0);
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
        let undone = steps.map(without_panic);
        undone.into_iter().find(Result::is_err).unwrap_or(ended)
    }

    /// One turn: what asyncio calls `_run_once`.
    fn _run_once(slf: &Bound<'_, Self>) -> PyResult<()> {
        without_panic(|| turn::once(slf.as_super()).map_err(PyErr::from))
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
        scheduler.registry_entry.unregister(py);
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
        scheduler.registry_entry.register(slf.as_super());
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
