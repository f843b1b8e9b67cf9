//! Watches the exit of child processes by a process descriptor on the poller: no SIGCHLD handler
//! and no thread, and from a loop in any thread.
//!
//! The descriptor refers to the child even if its pid is reused, so the right process is reaped. It
//! is closed when the child has been reaped, or with the loop. `sys/process.rs` determines the exit
//! code. Where a sandbox refuses the descriptor, `python/ferroloop/subprocesses.py` waits in a
//! thread.

#![forbid(unsafe_code)]

use std::os::fd::{AsRawFd, OwnedFd};

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

use crate::ffi::entries::without_section;
use crate::ffi::exception::{OrRaise, PyOutcome};
use crate::ffi::layout::context;
use crate::ffi::objects::cell::AttachedCell;
use crate::ffi::section::attach_unshared;
use crate::handle::{CallbackArguments, HANDLE, Handle};
use crate::interop::error::os_error;
use crate::scheduler::report::call_exception_handler;
use crate::scheduler::watch::{Direction, WatchRefused};
use crate::scheduler::{QueueEntry, Queued, Runnable, RunnableKind, Scheduler};
use crate::sys::process;

/// asyncio's exit code for a child whose status is unknown.
const UNKNOWN_STATUS: i32 = 255;

/// A child process whose exit is awaited.
#[pyclass(frozen, module = "ferroloop._ferroloop")]
struct ExitWatch {
    pid: i32,
    process: AttachedCell<Option<OwnedFd>>,
    callback: AttachedCell<Option<Py<PyAny>>>,
    argument: AttachedCell<Option<Py<PyAny>>>,
    context: AttachedCell<Option<Py<PyAny>>>,
}

/// Calls `callback(argument, exit_code)`, in the caller's context, once the child `pid` has ended.
/// The code is None if the child was reaped elsewhere. Returns false if the system provides no
/// process descriptor or the kernel does not watch it; the child is running, and the caller can
/// wait for it in a thread.
///
/// # Errors
/// RuntimeError if the loop is closed.
pub fn watch<'py>(
    scheduler: &Bound<'py, Scheduler>,
    pid: i32,
    callback: Bound<'py, PyAny>,
    argument: Bound<'py, PyAny>,
) -> PyResult<bool> {
    let py = scheduler.py();
    let this = scheduler.get();
    this.check_open(py)?;
    let process = match process::open(pid) {
        Ok(process) => process,
        Err(error) => {
            tracing::debug!(target: "ferroloop::subprocess", pid, %error, "no descriptor of the child");
            return Ok(false);
        }
    };
    let fd = process.as_raw_fd();
    let watch = ExitWatch {
        pid,
        process: AttachedCell::new(Some(process)),
        callback: AttachedCell::new(Some(callback.unbind())),
        argument: AttachedCell::new(Some(argument.unbind())),
        context: AttachedCell::new(Some(context::copy_current(py)?.unbind())),
    };
    let runnable = Runnable::new(&EXIT, Bound::new(py, watch)?);
    let replaced = this.watch(py, fd, Direction::Read, runnable);
    if let Err(WatchRefused { error, .. }) = &replaced {
        tracing::debug!(target: "ferroloop::subprocess", pid, %error, "the child's descriptor is not watched");
        return Ok(false);
    }
    tracing::debug!(target: "ferroloop::subprocess", pid, "a child was started");
    Ok(true)
}

/// Handles readability of the process descriptor.
static EXIT: RunnableKind = RunnableKind::of::<ExitWatch>();

impl Queued for ExitWatch {
    type Object = Self;

    fn run<'py>(
        scheduler: &Bound<'py, Scheduler>,
        entry: QueueEntry<'py, Self>,
    ) -> PyOutcome<'py, ()> {
        ended(scheduler, entry.object.get())
    }
}

/// Reaps the child. Its callback is queued for the next turn, after the data that the child has
/// written.
fn ended<'py>(scheduler: &Bound<'py, Scheduler>, watch: &ExitWatch) -> PyOutcome<'py, ()> {
    let py = scheduler.py();
    let this = scheduler.get();
    let reaped = watch.process.inspect(py, |process| {
        process.as_ref().map(|process| (process.as_raw_fd(), process::reap(watch.pid, process)))
    });
    // There is no descriptor once the loop was closed.
    let Some((fd, reaped)) = reaped else { return Ok(()) };
    let mut unknown = None;
    let code = match reaped {
        Ok(None) => return Ok(()),
        Ok(Some(code)) => {
            tracing::debug!(target: "ferroloop::subprocess", pid = watch.pid, code, "a child has ended");
            Some(code)
        }
        Err(error) if error.raw_os_error() == Some(libc::ECHILD) => {
            tracing::debug!(target: "ferroloop::subprocess", pid = watch.pid, %error, "the child was reaped elsewhere");
            None
        }
        Err(error) => {
            unknown = Some(os_error(py, &error));
            Some(UNKNOWN_STATUS)
        }
    };
    let removed = this.unwatch(py, fd, Direction::Read);
    drop(watch.process.take(py));
    let scheduled = watch.schedule(scheduler, code);
    drop(removed);
    let reported = unknown.map_or(Ok(()), |error| report(scheduler, watch.pid, error));
    scheduled.and(reported).or_raise(py)
}

/// Reports that the system refused to return the exit status.
#[cold]
fn report(scheduler: &Bound<'_, Scheduler>, pid: i32, error: PyErr) -> PyResult<()> {
    let py = scheduler.py();
    let message = format!("exit status of child process pid {pid} cannot be read");
    let message = PyString::new(py, &message);
    let exception = error.into_value(py).into_bound(py);
    let context = [("message", Some(message.as_any())), ("exception", Some(exception.as_any()))];
    call_exception_handler(scheduler.as_any(), &context)
}

impl ExitWatch {
    fn schedule(&self, scheduler: &Bound<'_, Scheduler>, code: Option<i32>) -> PyResult<()> {
        let py = scheduler.py();
        let this = scheduler.get();
        let (Some(callback), Some(argument)) = (self.callback.take(py), self.argument.take(py))
        else {
            return Ok(());
        };
        let arguments = PyTuple::new(py, [argument.into_bound(py), code.into_pyobject(py)?])?;
        let handle = Handle::create(
            callback.into_bound(py),
            CallbackArguments::from_tuple(arguments),
            scheduler.clone().into_any(),
            self.context.take(py).map(|context| context.into_bound(py)),
            this.is_debug(py),
        )?;
        this.push(py, Runnable::new(&HANDLE, handle));
        Ok(())
    }
}

// Its methods use only the number of the process.
without_section!(ExitWatch);

#[pymethods]
impl ExitWatch {
    fn __repr__(&self) -> String {
        format!("<ExitWatch pid={}>", self.pid)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.callback.visit(&visit)?;
        self.argument.visit(&visit)?;
        self.context.visit(&visit)
    }

    fn __clear__(&self) {
        attach_unshared(|py| {
            let callback = self.callback.take(py);
            let argument = self.argument.take(py);
            let context = self.context.take(py);
            drop((callback, argument, context));
        });
    }
}
