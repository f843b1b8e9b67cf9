//! Signals: waking a sleeping loop, and the numbers for its signal handlers.
//!
//! CPython's own signal handler writes the number of each signal to a pipe that the loop watches.
//! There is one pipe in a process, since one loop at a time runs in the main thread; it is made
//! with the first loop, so that nothing can be out of descriptors later. It is in place
//! (`signal.set_wakeup_fd()`)
//!
//! - from the first sleep of a loop in the main thread until that loop stops: a signal that arrives
//!   after the loop has looked for signals and before it sleeps would wait for the next event;
//! - while a loop has signal handlers, running or not: it is told the numbers.
//!
//! A wake-up descriptor of the program's own wakes the loop as well and is left alone. A kernel
//! that does not watch the pipe, out of memory or of the user's quota, ends no program: the loop
//! then waits for its poller and the pipe by ppoll().

#![forbid(unsafe_code)]

use std::io::{ErrorKind, Read};
use std::os::fd::{AsRawFd, IntoRawFd, RawFd};

use mio::unix::pipe::{Receiver, Sender};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyBytes, PyDict, PyWeakrefMethods, PyWeakrefReference};

use crate::ffi::exception::{PyOutcome, check_signals};
use crate::ffi::objects::cell::{AttachedCell, AttachedRefCell};
use crate::interop::error::os_error;
use crate::interop::imports;
use crate::scheduler::report::outcome;
use crate::scheduler::runnable::{describe_object, never_cancelled, nothing_to_note};
use crate::scheduler::{Runnable, RunnableKind, Scheduler, current_thread};

/// `signal.set_wakeup_fd()` for "no descriptor".
const NONE: RawFd = -1;

static PIPE: AttachedRefCell<Option<Pipe>> = AttachedRefCell::new(None);

struct Pipe {
    writer: Sender,
    reader: Receiver,
}

/// `threading.get_ident()` of the thread whose loop has put the pipe in place for its run; 0 for
/// none.
static ARMED_BY: AttachedCell<u64> = AttachedCell::new(0);

/// A weak reference to the loop that is told the numbers: the one that has added a signal handler
/// last.
static LISTENER: AttachedCell<Option<Py<PyWeakrefReference>>> = AttachedCell::new(None);

/// Whether CPython may warn of a full pipe.
#[cfg(Py_3_13)]
static LOUD: AttachedCell<bool> = AttachedCell::new(true);

/// Makes the pipe, for a loop that is being made.
///
/// # Errors
/// OSError if the process is out of descriptors.
pub fn prepare(py: Python<'_>) -> PyResult<()> {
    ends(py).map(drop)
}

/// Lets signals wake the loop, which runs and is about to sleep for the first time. Does nothing
/// outside the main thread.
pub fn arm<'py>(scheduler: &Bound<'py, Scheduler>) -> PyOutcome<'py, ()> {
    let py = scheduler.py();
    if outcome(py, install(scheduler))? { check_signals(py) } else { Ok(()) }
}

/// The loop stops: takes the pipe out of place if the loop has put it there and it still is.
pub fn disarm(scheduler: &Bound<'_, Scheduler>) -> PyResult<()> {
    let py = scheduler.py();
    let thread = scheduler.get().thread.get(py);
    if thread == 0 || ARMED_BY.get(py) != thread {
        return Ok(());
    }
    ARMED_BY.set(py, 0);
    uninstall(py)
}

/// Tells the loop the signals' numbers from now on. Returns what `signal.set_wakeup_fd()` is to be
/// called with; it refuses any thread but the main one.
///
/// # Errors
/// OSError if there is no pipe: the one that a forked child had was lost.
pub fn claim(scheduler: &Bound<'_, Scheduler>) -> PyResult<RawFd> {
    let py = scheduler.py();
    let (reader, writer) = ends(py)?;
    if current_thread(py)? != main_thread(py)? {
        return Ok(writer);
    }
    if !listener(py).is_some_and(|listener| listener.is(scheduler)) {
        // The numbers so far are for the loop before, or for none.
        forward(py)?;
        let reference = PyWeakrefReference::new(scheduler)?;
        LISTENER.store(py, Some(reference));
    }
    ARMED_BY.set(py, 0);
    #[cfg(Py_3_13)]
    LOUD.set(py, true);
    scheduler.get().has_signal_handlers.set(py, true);
    watch(scheduler, reader);
    Ok(writer)
}

/// The loop has no signal handlers any more, and CPython was told to write to no descriptor.
pub fn release(scheduler: &Bound<'_, Scheduler>) -> PyResult<()> {
    let py = scheduler.py();
    if listener(py).is_some_and(|listener| listener.is(scheduler)) {
        LISTENER.store(py, None);
    }
    scheduler.get().has_signal_handlers.set(py, false);
    // It may be that of another loop which is closed in a callback.
    let running = imports::get_running_loop(py)?.call0()?;
    if let Ok(running) = running.cast::<Scheduler>() {
        running.get().before_sleep.set(py, Some(arm));
    }
    Ok(())
}

fn listener(py: Python<'_>) -> Option<Bound<'_, PyAny>> {
    LISTENER.get_bound(py)?.upgrade()
}

/// Leaves alone what the program has put in the pipe's place.
fn uninstall(py: Python<'_>) -> PyResult<()> {
    let current = swap(py, NONE)?;
    let writer = PIPE.with(py, |pipe| pipe.as_ref().map(|pipe| pipe.writer.as_raw_fd()));
    if Some(current) != writer {
        restore(py, current);
    }
    Ok(())
}

/// Only a descriptor that was closed meanwhile is refused: then there is nothing to restore.
fn restore(py: Python<'_>, fd: RawFd) {
    if let Err(error) = swap(py, fd) {
        tracing::debug!(target: "ferroloop::loop", fd, %error, "the wake-up descriptor was closed");
    }
}

fn install(scheduler: &Bound<'_, Scheduler>) -> PyResult<bool> {
    let py = scheduler.py();
    let thread = scheduler.get().thread.get(py);
    if thread != main_thread(py)? {
        return Ok(false);
    }
    let (reader, writer) = match ends(py) {
        Ok(ends) => ends,
        Err(error) => {
            // A forked child has lost it. Signals interrupt the sleep itself in all cases but the
            // one at the module's head.
            tracing::warn!(target: "ferroloop::loop", %error, "no pipe for signals");
            return Ok(false);
        }
    };
    // Not by taking out what is in place: numbers for the signal handlers would be lost.
    let previous = swap(py, writer)?;
    if previous == NONE {
        ARMED_BY.set(py, thread);
        quieten(py, writer)?;
    } else if previous != writer {
        restore(py, previous);
        return Ok(false);
    }
    watch(scheduler, reader);
    Ok(true)
}

/// Has the loop's poller look at the pipe.
fn watch(scheduler: &Bound<'_, Scheduler>, reader: RawFd) {
    let py = scheduler.py();
    let this = scheduler.get();
    let runnable = Runnable::new(&SIGNALS, py.None().into_bound(py));
    // What is replaced, or refused, refers to None alone.
    match this.watches.with(py, |watches| watches.set_background(reader, runnable)) {
        Ok(_replaced) => this.poll_extra(py, None),
        Err(refused) => {
            let error = &refused.error;
            if !this.polls_extra(py) {
                tracing::warn!(target: "ferroloop::loop", %error, "the pipe for signals is not watched");
            }
            this.poll_extra(py, Some((reader, hear)));
            // The kernel may have the room later.
            this.before_sleep.set(py, Some(arm));
        }
    }
}

/// In a forked child: parts from the parent's pipe. Loops that were inherited go on watching the
/// same descriptors; as with asyncio, their signal handlers stay with the parent.
pub fn after_fork(py: Python<'_>) -> PyResult<()> {
    LISTENER.store(py, None);
    if PIPE.with(py, |pipe| pipe.is_none()) {
        return Ok(());
    }
    ARMED_BY.set(py, 0);
    uninstall(py)?;
    PIPE.with(py, renew).map_err(|error| os_error(py, &error))
}

/// Without a new pipe the child has none.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn renew(slot: &mut Option<Pipe>) -> std::io::Result<()> {
    let Some(inherited) = slot else { return Ok(()) };
    let (reader, writer) = (inherited.reader.as_raw_fd(), inherited.writer.as_raw_fd());
    crate::sys::pipe::reopen(reader, writer).inspect_err(|_| {
        if let Some(Pipe { writer, reader }) = slot.take() {
            // Closed already.
            let _numbers = (writer.into_raw_fd(), reader.into_raw_fd());
        }
    })
}

/// Inherited loops cannot be used there, so no loop watches the pipe.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn renew(_slot: &mut Option<Pipe>) -> std::io::Result<()> {
    Ok(())
}

fn main_thread(py: Python<'_>) -> PyResult<u64> {
    imports::main_thread(py)?.call0()?.getattr(intern!(py, "ident"))?.extract()
}

/// `signal.set_wakeup_fd(fd)`: returns the descriptor replaced.
#[cfg(Py_3_13)]
fn swap(py: Python<'_>, fd: RawFd) -> PyResult<RawFd> {
    Ok(crate::ffi::signals::swap_wakeup_fd(py, fd))
}

#[cfg(not(Py_3_13))]
fn swap(py: Python<'_>, fd: RawFd) -> PyResult<RawFd> {
    imports::set_wakeup_fd(py)?.call1((fd,))?.extract()
}

/// A full pipe wakes the loop as well: without signal handlers there is nothing to warn of. From
/// 3.13 on the setting outlives the swaps.
fn quieten(py: Python<'_>, writer: RawFd) -> PyResult<()> {
    #[cfg(Py_3_13)]
    if !LOUD.get(py) {
        return Ok(());
    }
    let quiet: Bound<'_, PyDict> = [("warn_on_full_buffer", false)].into_py_dict(py)?;
    imports::set_wakeup_fd(py)?.call((writer,), Some(&quiet))?;
    #[cfg(Py_3_13)]
    LOUD.set(py, false);
    Ok(())
}

/// The pipe's ends: to read from and to write to.
fn ends(py: Python<'_>) -> PyResult<(RawFd, RawFd)> {
    let numbers = |pipe: &Pipe| (pipe.reader.as_raw_fd(), pipe.writer.as_raw_fd());
    if let Some(found) = PIPE.with(py, |pipe| pipe.as_ref().map(numbers)) {
        return Ok(found);
    }
    let made = mio::unix::pipe::new();
    let (writer, reader) = made.map_err(|error| os_error(py, &error))?;
    let pipe = Pipe { writer, reader };
    let found = numbers(&pipe);
    PIPE.with(py, |slot| *slot = Some(pipe));
    Ok(found)
}

/// Something was written to the pipe.
static SIGNALS: RunnableKind = RunnableKind {
    run: |scheduler, _runnable| hear(scheduler),
    cancelled: never_cancelled,
    sets_current_task: false,
    describe: describe_object,
    show: nothing_to_note,
    left_timers: nothing_to_note,
};

fn hear<'py>(scheduler: &Bound<'py, Scheduler>) -> PyOutcome<'py, ()> {
    let py = scheduler.py();
    outcome(py, forward(py))?;
    check_signals(py)
}

/// Empties the pipe, and tells the loop with signal handlers what was in it.
fn forward(py: Python<'_>) -> PyResult<()> {
    let mut numbers = [0; 256];
    loop {
        let read =
            PIPE.with(py, |pipe| pipe.as_ref().map(|pipe| (&pipe.reader).read(&mut numbers)));
        let count = match read {
            Some(Ok(count)) => count,
            Some(Err(error)) if error.kind() == ErrorKind::Interrupted => continue,
            // Drained; the pipe itself cannot fail.
            Some(Err(_)) | None => return Ok(()),
        };
        if let Some(listener) = listener(py) {
            let heard = PyBytes::new(py, &numbers[..count]);
            listener.call_method1(intern!(py, "_process_self_data"), (heard,))?;
        }
        if count != numbers.len() {
            return Ok(());
        }
    }
}
