//! Signals: wakes a sleeping loop, and delivers signal numbers to the loop's signal handlers.
//!
//! CPython's own signal handler writes the number of each signal to a pipe that the loop watches.
//! There is one pipe per process, since only one loop at a time runs in the main thread; it is
//! created with the first loop, so that a later lack of descriptors does no harm. The pipe is
//! installed (`signal.set_wakeup_fd()`)
//!
//! - from the first sleep of a loop in the main thread until that loop stops: otherwise a signal
//!   that arrives after the loop has checked for signals and before it sleeps would wait for the
//!   next event;
//! - while a loop has signal handlers, whether it runs or not: it needs the numbers.
//!
//! A wake-up descriptor that the program has installed also wakes the loop, and is not replaced. If
//! the kernel cannot watch the pipe for lack of memory or quota, the loop waits for its poller and
//! the pipe by `ppoll()`.

#![forbid(unsafe_code)]

use std::io::{ErrorKind, Read};
use std::os::fd::{AsRawFd, IntoRawFd, RawFd};

use mio::unix::pipe::{Receiver, Sender};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyBytes, PyDict, PyWeakrefMethods, PyWeakrefReference};

use crate::ffi::exception::{OrRaise, PyOutcome, check_signals};
use crate::ffi::objects::process_state::Locked;
use crate::interop::error::os_error;
use crate::interop::imports;
use crate::scheduler::{QueueEntry, Queued, Runnable, RunnableKind, Scheduler, current_thread};

/// The value of `signal.set_wakeup_fd()` that means "no descriptor".
const NO_DESCRIPTOR: RawFd = -1;

static PIPE: Locked<Option<Pipe>> = Locked::new(None);

struct Pipe {
    writer: Sender,
    reader: Receiver,
}

/// `threading.get_ident()` of the thread whose running loop has installed the pipe; 0 for none.
static INSTALLED_BY: Locked<u64> = Locked::new(0);

/// A weak reference to the loop that gets the signal numbers: the one that added a signal handler
/// last.
static RECEIVER: Locked<Option<Py<PyWeakrefReference>>> = Locked::new(None);

/// Whether CPython warns about a full pipe.
#[cfg(Py_3_13)]
static WARNS_ON_FULL_PIPE: Locked<bool> = Locked::new(true);

/// Creates the pipe if it does not exist. Called for each new loop.
///
/// # Errors
/// OSError if the process is out of descriptors.
pub fn create_pipe(py: Python<'_>) -> PyResult<()> {
    pipe_ends(py).map(drop)
}

/// Installs the pipe for a running loop that is about to sleep for the first time. Does nothing
/// outside the main thread.
pub fn install_for_run<'py>(scheduler: &Bound<'py, Scheduler>) -> PyOutcome<'py, ()> {
    let py = scheduler.py();
    if install_pipe(scheduler).or_raise(py)? { check_signals(py) } else { Ok(()) }
}

/// Uninstalls the pipe when a loop stops, if that loop has installed it and it is still installed.
pub fn uninstall_after_run(scheduler: &Bound<'_, Scheduler>) -> PyResult<()> {
    let py = scheduler.py();
    let thread = scheduler.get().thread(py);
    if thread == 0 || INSTALLED_BY.get(py) != thread {
        return Ok(());
    }
    INSTALLED_BY.set(py, 0);
    uninstall_pipe(py)
}

/// Delivers signal numbers to this loop from now on. Returns the descriptor for
/// `signal.set_wakeup_fd()`, which works only in the main thread.
///
/// # Errors
/// OSError if the pipe cannot be created again after a forked child has lost it.
pub fn start_delivery(scheduler: &Bound<'_, Scheduler>) -> PyResult<RawFd> {
    let py = scheduler.py();
    let (reader, writer) = pipe_ends(py)?;
    if current_thread(py)? != main_thread(py)? {
        return Ok(writer);
    }
    if !receiver(py).is_some_and(|receiver| receiver.is(scheduler)) {
        // Signals so far belong to the previous listener, if any.
        deliver_numbers(py)?;
        let reference = PyWeakrefReference::new(scheduler)?;
        set_receiver(py, Some(reference));
    }
    INSTALLED_BY.set(py, 0);
    #[cfg(Py_3_13)]
    WARNS_ON_FULL_PIPE.set(py, true);
    scheduler.get().set_has_signal_handlers(py, true);
    watch_pipe(scheduler, reader);
    Ok(writer)
}

/// Stops delivering signal numbers to this loop: it has no signal handlers any more, and
/// `signal.set_wakeup_fd(-1)` was called.
pub fn stop_delivery(scheduler: &Bound<'_, Scheduler>) -> PyResult<()> {
    let py = scheduler.py();
    if receiver(py).is_some_and(|receiver| receiver.is(scheduler)) {
        set_receiver(py, None);
    }
    scheduler.get().set_has_signal_handlers(py, false);
    // Another loop may be running, and this one closed in one of its callbacks.
    let running = imports::get_running_loop(py)?.call0()?;
    if let Ok(running) = running.cast::<Scheduler>() {
        running.get().call_before_sleep(py, install_for_run);
    }
    Ok(())
}

fn receiver(py: Python<'_>) -> Option<Bound<'_, PyAny>> {
    let reference = RECEIVER.with(py, |receiver| Some(receiver.as_ref()?.clone_ref(py)))?;
    reference.into_bound(py).upgrade()
}

fn set_receiver<'py>(py: Python<'py>, reference: Option<Bound<'py, PyWeakrefReference>>) {
    let before = RECEIVER.replace(py, reference.map(Bound::unbind));
    drop(before.map(|before| before.into_bound(py)));
}

/// Does not touch a descriptor that the program has installed instead.
fn uninstall_pipe(py: Python<'_>) -> PyResult<()> {
    let current = swap_wakeup_fd(py, NO_DESCRIPTOR)?;
    let writer = PIPE.with(py, |pipe| pipe.as_ref().map(|pipe| pipe.writer.as_raw_fd()));
    if Some(current) != writer {
        restore_wakeup_fd(py, current);
    }
    Ok(())
}

/// Fails only if the descriptor was closed meanwhile; then there is nothing to restore.
fn restore_wakeup_fd(py: Python<'_>, fd: RawFd) {
    if let Err(error) = swap_wakeup_fd(py, fd) {
        tracing::debug!(target: "ferroloop::loop", fd, %error, "the wake-up descriptor was closed");
    }
}

fn install_pipe(scheduler: &Bound<'_, Scheduler>) -> PyResult<bool> {
    let py = scheduler.py();
    let thread = scheduler.get().thread(py);
    if thread != main_thread(py)? {
        return Ok(false);
    }
    let (reader, writer) = match pipe_ends(py) {
        Ok(pipe_ends) => pipe_ends,
        Err(error) => {
            // A forked child has lost the pipe. Signals still interrupt the sleep itself, except in
            // the case described at the head of this module.
            tracing::warn!(target: "ferroloop::loop", %error, "no pipe for signals");
            return Ok(false);
        }
    };
    // Swap in one step: removing the installed descriptor first would lose numbers for signal
    // handlers.
    let previous = swap_wakeup_fd(py, writer)?;
    if previous == NO_DESCRIPTOR {
        INSTALLED_BY.set(py, thread);
        disable_full_pipe_warning(py, writer)?;
    } else if previous != writer {
        restore_wakeup_fd(py, previous);
        return Ok(false);
    }
    watch_pipe(scheduler, reader);
    Ok(true)
}

/// Registers the pipe with the loop's poller.
fn watch_pipe(scheduler: &Bound<'_, Scheduler>, reader: RawFd) {
    let py = scheduler.py();
    let this = scheduler.get();
    let runnable = Runnable::new(&SIGNALS, py.None().into_bound(py));
    // A replaced or refused runnable refers only to None, so dropping it here is safe.
    match this.watch_in_background(py, reader, runnable) {
        Ok(_replaced) => this.poll_extra(py, None),
        Err(refused) => {
            let error = &refused.error;
            if !this.polls_extra(py) {
                tracing::warn!(target: "ferroloop::loop", %error, "the pipe for signals is not watched");
            }
            this.poll_extra(py, Some((reader, handle_signals)));
            // The kernel may have room later: try again before the next sleep.
            this.call_before_sleep(py, install_for_run);
        }
    }
}

/// In a forked child, replaces the inherited pipe. Inherited loops keep watching the same
/// descriptor numbers; as with asyncio, their signal handlers remain with the parent.
pub fn after_fork(py: Python<'_>) -> PyResult<()> {
    set_receiver(py, None);
    if PIPE.with(py, |pipe| pipe.is_none()) {
        return Ok(());
    }
    INSTALLED_BY.set(py, 0);
    uninstall_pipe(py)?;
    PIPE.with(py, replace_inherited).map_err(|error| os_error(py, &error))
}

/// If that fails, the child has no pipe.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn replace_inherited(slot: &mut Option<Pipe>) -> std::io::Result<()> {
    let Some(inherited) = slot else { return Ok(()) };
    let (reader, writer) = (inherited.reader.as_raw_fd(), inherited.writer.as_raw_fd());
    crate::sys::pipe::reopen(reader, writer).inspect_err(|_| {
        if let Some(Pipe { writer, reader }) = slot.take() {
            // `reopen` has closed them.
            let _numbers = (writer.into_raw_fd(), reader.into_raw_fd());
        }
    })
}

/// On these systems inherited loops cannot be used, so no loop watches the pipe.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn replace_inherited(_slot: &mut Option<Pipe>) -> std::io::Result<()> {
    Ok(())
}

fn main_thread(py: Python<'_>) -> PyResult<u64> {
    imports::main_thread(py)?.call0()?.getattr(intern!(py, "ident"))?.extract()
}

/// `signal.set_wakeup_fd(fd)`: returns the previous descriptor.
#[cfg(Py_3_13)]
fn swap_wakeup_fd(py: Python<'_>, fd: RawFd) -> PyResult<RawFd> {
    Ok(crate::ffi::signals::swap_wakeup_fd(py, fd))
}

#[cfg(not(Py_3_13))]
fn swap_wakeup_fd(py: Python<'_>, fd: RawFd) -> PyResult<RawFd> {
    imports::set_wakeup_fd(py)?.call1((fd,))?.extract()
}

/// Without signal handlers a full pipe is harmless, since it also wakes the loop: turns CPython's
/// warning off. From 3.13 on that setting survives the swaps.
fn disable_full_pipe_warning(py: Python<'_>, writer: RawFd) -> PyResult<()> {
    #[cfg(Py_3_13)]
    if !WARNS_ON_FULL_PIPE.get(py) {
        return Ok(());
    }
    let quiet: Bound<'_, PyDict> = [("warn_on_full_buffer", false)].into_py_dict(py)?;
    imports::set_wakeup_fd(py)?.call((writer,), Some(&quiet))?;
    #[cfg(Py_3_13)]
    WARNS_ON_FULL_PIPE.set(py, false);
    Ok(())
}

/// The descriptors of the pipe's read end and write end. Creates the pipe if there is none.
fn pipe_ends(py: Python<'_>) -> PyResult<(RawFd, RawFd)> {
    let numbers = |pipe: &Pipe| (pipe.reader.as_raw_fd(), pipe.writer.as_raw_fd());
    if let Some(found) = PIPE.with(py, |pipe| pipe.as_ref().map(numbers)) {
        return Ok(found);
    }
    let made = mio::unix::pipe::new();
    let (writer, reader) = made.map_err(|error| os_error(py, &error))?;
    // Another thread may have created it in the meantime.
    Ok(PIPE.with(py, |slot| numbers(slot.get_or_insert(Pipe { writer, reader }))))
}

/// Handles readability of the pipe.
static SIGNALS: RunnableKind = RunnableKind::of::<SignalNumbers>();

struct SignalNumbers;

impl Queued for SignalNumbers {
    type Object = PyAny;

    fn run<'py>(
        scheduler: &Bound<'py, Scheduler>,
        _entry: QueueEntry<'py, PyAny>,
    ) -> PyOutcome<'py, ()> {
        handle_signals(scheduler)
    }
}

fn handle_signals<'py>(scheduler: &Bound<'py, Scheduler>) -> PyOutcome<'py, ()> {
    let py = scheduler.py();
    deliver_numbers(py).or_raise(py)?;
    check_signals(py)
}

/// Drains the pipe, and delivers its numbers to the loop that has signal handlers.
fn deliver_numbers(py: Python<'_>) -> PyResult<()> {
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
        if let Some(receiver) = receiver(py) {
            let numbers_read = PyBytes::new(py, &numbers[..count]);
            receiver.call_method1(intern!(py, "_process_self_data"), (numbers_read,))?;
        }
        if count != numbers.len() {
            return Ok(());
        }
    }
}
