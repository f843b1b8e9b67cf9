//! Waking a sleeping loop for a signal.
//!
//! A signal that arrives after the loop has looked for signals and before it sleeps in the poller
//! would wait for the next event. So from its first sleep until a loop in the main thread stops,
//! CPython's own signal handler writes to a pipe that the loop watches. There is one pipe in a process, since one loop
//! runs in the main thread. A wake-up descriptor that is set already, by the program or for the
//! loop's own signal handlers, does the same and is left alone.

#![forbid(unsafe_code)]

use std::io::{ErrorKind, Read};
use std::os::fd::{AsRawFd, RawFd};

use mio::unix::pipe::{Receiver, Sender};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyDict};

use crate::ffi::cell::{AttachedCell, AttachedRefCell};
use crate::ffi::exception::{PyOutcome, check_signals};
use crate::interop::error::os_error;
use crate::interop::imports;
use crate::scheduler::report::outcome;
use crate::scheduler::runnable::{describe_object, never_cancelled, nothing_to_note};
use crate::scheduler::{Runnable, RunnableKind, Scheduler};

/// `signal.set_wakeup_fd()` for "no descriptor".
const NONE: RawFd = -1;

static PIPE: AttachedRefCell<Option<Pipe>> = AttachedRefCell::new(None);

struct Pipe {
    writer: Sender,
    reader: Receiver,
}

/// `threading.get_ident()` of the thread that has put the pipe in place; 0 for none.
static ARMED_BY: AttachedCell<u64> = AttachedCell::new(0);

/// Lets signals wake the loop, which runs and is about to sleep for the first time. Does nothing
/// outside the main thread.
pub fn arm<'py>(scheduler: &Bound<'py, Scheduler>) -> PyOutcome<'py, ()> {
    let py = scheduler.py();
    if outcome(py, put_in_place(scheduler))? { check_signals(py) } else { Ok(()) }
}

/// The loop stops: takes the pipe out of place if the loop has put it there and it still is.
pub fn disarm(scheduler: &Bound<'_, Scheduler>) -> PyResult<()> {
    let py = scheduler.py();
    let thread = scheduler.get().thread.get(py);
    if thread == 0 || ARMED_BY.get(py) != thread {
        return Ok(());
    }
    ARMED_BY.set(py, 0);
    take_out_of_place(py)
}

/// Leaves alone what the program has put in the pipe's place.
fn take_out_of_place(py: Python<'_>) -> PyResult<()> {
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

fn put_in_place(scheduler: &Bound<'_, Scheduler>) -> PyResult<bool> {
    let py = scheduler.py();
    let this = scheduler.get();
    let thread = this.thread.get(py);
    if thread != main_thread(py)? {
        return Ok(false);
    }
    let previous = swap(py, NONE)?;
    if previous != NONE {
        restore(py, previous);
        return Ok(false);
    }
    let (reader, writer) = match descriptors(py) {
        Ok(descriptors) => descriptors,
        Err(error) => {
            // Signals interrupt the sleep itself in all cases but the one above.
            tracing::warn!(target: "ferroloop::loop", %error, "no pipe for signals");
            return Ok(false);
        }
    };
    let runnable = Runnable::new(&SIGNALS, py.None().into_bound(py));
    // What is replaced refers to None alone.
    let replaced = this.watches.with(py, |watches| watches.set_background(reader, runnable));
    drop(replaced.map_err(|refused| os_error(py, &refused.error))?);
    ARMED_BY.set(py, thread);
    swap(py, writer)?;
    Ok(true)
}

/// In a forked child: parts from the parent's pipe. Loops that were inherited go on watching the
/// same descriptors.
pub fn after_fork(py: Python<'_>) -> PyResult<()> {
    if PIPE.with(py, |pipe| pipe.is_none()) {
        return Ok(());
    }
    ARMED_BY.set(py, 0);
    take_out_of_place(py)?;
    PIPE.with(py, |pipe| pipe.as_ref().map_or(Ok(()), renew))?;
    Ok(())
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn renew(inherited: &Pipe) -> std::io::Result<()> {
    use crate::sys::poll::replace;
    let (writer, reader) = mio::unix::pipe::new()?;
    replace(inherited.writer.as_raw_fd(), writer.as_raw_fd())?;
    replace(inherited.reader.as_raw_fd(), reader.as_raw_fd())
}

/// Inherited loops cannot be used there, so nobody watches the pipe.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn renew(_inherited: &Pipe) -> std::io::Result<()> {
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

/// The pipe's ends: to read from and to write to.
fn descriptors(py: Python<'_>) -> PyResult<(RawFd, RawFd)> {
    let ends = |pipe: &Pipe| (pipe.reader.as_raw_fd(), pipe.writer.as_raw_fd());
    if let Some(ends) = PIPE.with(py, |pipe| pipe.as_ref().map(ends)) {
        return Ok(ends);
    }
    let (writer, reader) = mio::unix::pipe::new()?;
    let pipe = Pipe { writer, reader };
    // A full pipe wakes the loop as well: nothing to warn of. From 3.13 on the setting outlives
    // the swaps.
    let quiet: Bound<'_, PyDict> = [("warn_on_full_buffer", false)].into_py_dict(py)?;
    imports::set_wakeup_fd(py)?.call((pipe.writer.as_raw_fd(),), Some(&quiet))?;
    swap(py, NONE)?;
    let found = ends(&pipe);
    PIPE.with(py, |slot| *slot = Some(pipe));
    Ok(found)
}

/// Something was written to the pipe.
static SIGNALS: RunnableKind = RunnableKind {
    run: |scheduler, _runnable| hear(scheduler.py()),
    cancelled: never_cancelled,
    sets_current_task: false,
    describe: describe_object,
    show: nothing_to_note,
    left_timers: nothing_to_note,
};

fn hear(py: Python<'_>) -> PyOutcome<'_, ()> {
    PIPE.with(py, |pipe| {
        let Some(pipe) = pipe else { return };
        let mut numbers = [0; 256];
        loop {
            match pipe.reader.read(&mut numbers) {
                Ok(count) if count == numbers.len() => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Drained; the pipe itself cannot fail.
                Ok(_) | Err(_) => return,
            }
        }
    });
    check_signals(py)
}
