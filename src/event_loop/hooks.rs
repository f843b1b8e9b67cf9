//! Methods of ours that asyncio's classes have, too: what a tool replaces there is called.
//!
//! Each such method has a guard (`ffi/guard.rs`). When a class has changed, `ferroloop._patches`
//! finds out which methods must not run themselves: those that are replaced, and those that would
//! spare a call of one that is. For these the attribute is taken that asyncio's classes have: what
//! the tool put there, or asyncio's own code, which calls it.

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyFunction, PyList, PySuper, PyTuple, PyType};

use super::EventLoop;
use super::foreign_handle::arm_timers;
use super::patched_run::run_in_handle;
use crate::ffi::guard::{self, Guard};
use crate::ffi::layout::class_version::{class_version, version_of_class};
use crate::scheduler::Scheduler;
use crate::scheduler::patches::{HANDLE_RUN, LoopHooks, Replacements};
use crate::scheduler::report::too_late_to_report;

/// The methods, in the order of their slots.
pub const GUARDED: [&str; 43] = [
    "call_soon",
    "call_soon_threadsafe",
    "call_later",
    "call_at",
    "create_task",
    "create_future",
    "run_in_executor",
    "get_debug",
    "set_debug",
    "time",
    "run_forever",
    "_run_forever_setup",
    "_run_forever_cleanup",
    "_run_once",
    "stop",
    "is_running",
    "is_closed",
    "_check_closed",
    "_check_running",
    "_check_thread",
    "_check_callback",
    "_write_to_self",
    "_add_callback",
    "_add_callback_signalsafe",
    "_timer_handle_cancelled",
    "_add_reader",
    "_add_writer",
    "_remove_reader",
    "_remove_writer",
    "_ensure_fd_no_transport",
    "sock_recv",
    "sock_recv_into",
    "sock_recvfrom",
    "sock_recvfrom_into",
    "sock_sendall",
    "sock_sendto",
    "sock_connect",
    "sock_accept",
    "_make_socket_transport",
    "_make_datagram_transport",
    "_make_read_pipe_transport",
    "_make_write_pipe_transport",
    "_make_ssl_transport",
];

const _: () = assert!(HANDLE_RUN == GUARDED.len());

/// Has the guarded methods look.
pub(super) struct Hooks;

impl Guard for Hooks {
    type Class = EventLoop;

    #[inline(always)]
    fn is_current(slf: &Bound<'_, EventLoop>) -> bool {
        slf.as_super().get().patches.is_untouched(slf)
    }

    fn instead<'py>(
        slf: &Bound<'py, EventLoop>,
        slot: usize,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = slf.py();
        look(slf.as_super())?;
        if !slf.as_super().get().patches.is_diverted(py, slot) {
            return Ok(None);
        }
        if GUARDED[slot] == "_write_to_self" {
            slf.as_super().get().wake(); // asyncio's own writes to a socket that we do not have
        }
        let shadowed = PySuper::new(&py.get_type::<Scheduler>(), slf)?;
        shadowed.getattr(GUARDED[slot]).map(Some)
    }
}

/// Guards the methods. Called once, when the module is made.
pub fn install(py: Python<'_>) -> PyResult<()> {
    guard::install::<Hooks>(py, &GUARDED)
}

pub(super) const LOOP_HOOKS: LoopHooks = LoopHooks { check: look, run_in_handle, arm_timers };

/// Finds out what is replaced, if anything has changed.
fn look(scheduler: &Bound<'_, Scheduler>) -> PyResult<()> {
    let py = scheduler.py();
    let patches = &scheduler.get().patches;
    if patches.is_checked(scheduler) && guard::has_all_code(py) {
        return Ok(());
    }
    if too_late_to_report(py) {
        return Ok(()); // the interpreter exits: nothing can be looked up any more
    }
    static LOOK: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let versions = versions(scheduler)?.filter(|_| guard::has_all_code(py));
    let (diverted, flags, handle_run, functions) = LOOK
        .import(py, "ferroloop._patches", "look")?
        .call1((scheduler, versions, patches.has_instance_attributes(py)))?
        .extract::<(u64, u32, Option<Bound<'_, PyAny>>, Bound<'_, PyList>)>()?;
    for (slot, function) in functions.iter().enumerate() {
        guard::expect(slot, function.cast::<PyFunction>()?);
    }
    let handle_run = handle_run.map(Bound::unbind);
    TRANSPORTS.note(py);
    EXECUTOR.note(py);
    patches.record(scheduler, Replacements { diverted, flags, handle_run });
    Ok(())
}

/// Classes that are looked at where they matter, which is not in every call of a method.
struct Classes {
    /// The function of `ferroloop._patches` that lists them.
    name: &'static str,
    list: PyOnceLock<Vec<Py<PyType>>>,
    /// The sum of their versions at the last look: a version is given once, and they grow.
    seen: AtomicU64,
}

/// Handles, and what asyncio's transports are made of.
static TRANSPORTS: Classes = Classes::listed_by("watched_classes");

/// What takes part in a call of a `ThreadPoolExecutor`.
static EXECUTOR: Classes = Classes::listed_by("executor_classes");

impl Classes {
    const fn listed_by(name: &'static str) -> Self {
        Self { name, list: PyOnceLock::new(), seen: AtomicU64::new(0) }
    }

    fn list(&self, py: Python<'_>) -> PyResult<&[Py<PyType>]> {
        let find = || py.import("ferroloop._patches")?.call_method0(self.name)?.extract();
        self.list.get_or_try_init(py, find).map(Vec::as_slice)
    }

    fn versions(&self, py: Python<'_>) -> impl Iterator<Item = u32> {
        self.list.get(py).into_iter().flatten().map(move |class| class_version(class, py))
    }

    fn sum(&self, py: Python<'_>) -> u64 {
        self.versions(py).map(u64::from).sum()
    }

    fn note(&self, py: Python<'_>) {
        self.seen.store(self.sum(py), Ordering::Relaxed);
    }

    /// Whether none has changed since the last look.
    fn are_seen(&self, py: Python<'_>) -> bool {
        self.sum(py) == self.seen.load(Ordering::Relaxed)
    }
}

/// The versions of all classes that a look is about; `None` if one has none.
fn versions<'py>(scheduler: &Bound<'py, Scheduler>) -> PyResult<Option<Bound<'py, PyTuple>>> {
    let py = scheduler.py();
    TRANSPORTS.list(py)?;
    let all: Vec<_> = std::iter::once(version_of_class(scheduler))
        .chain(TRANSPORTS.versions(py))
        .chain(EXECUTOR.versions(py))
        .collect();
    if all.contains(&0) { Ok(None) } else { PyTuple::new(py, all).map(Some) }
}

/// What is to make a transport instead of the guarded method of this name.
pub(super) fn other_transport<'py>(
    slf: &Bound<'py, EventLoop>,
    name: &str,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    if TRANSPORTS.are_seen(slf.py()) { Ok(None) } else { look_again(slf, name) }
}

/// What is to be called instead of our `run_in_executor()`, `first` being its first call: names in
/// modules, which a program may replace as well, are looked at then.
pub(super) fn other_executor<'py>(
    slf: &Bound<'py, EventLoop>,
    first: bool,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = slf.py();
    EXECUTOR.list(py)?;
    let seen = !first && EXECUTOR.are_seen(py) && guard::has_code_from(py, HANDLE_RUN + 1);
    if seen { Ok(None) } else { look_again(slf, "run_in_executor") }
}

#[cold]
fn look_again<'py>(slf: &Bound<'py, EventLoop>, name: &str) -> PyResult<Option<Bound<'py, PyAny>>> {
    slf.as_super().get().patches.invalidate(slf.py());
    let slot = GUARDED.iter().position(|guarded| *guarded == name);
    slot.map_or(Ok(None), |slot| Hooks::instead(slf, slot))
}

#[pymethods]
impl EventLoop {
    /// Whether something is replaced: bits of `ferroloop._patches`.
    fn _replaced(slf: &Bound<'_, Self>, bits: u32) -> PyResult<bool> {
        let scheduler = slf.as_super();
        let patches = &scheduler.get().patches;
        let py = slf.py();
        let seen = TRANSPORTS.are_seen(py) && EXECUTOR.are_seen(py);
        if seen && patches.is_untouched(slf) && guard::has_all_code(py) {
            return Ok(false);
        }
        if !seen {
            patches.invalidate(py);
        }
        look(scheduler)?;
        Ok(patches.flags(slf.py()) & bits != 0)
    }
}
