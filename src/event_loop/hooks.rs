//! Calls the methods that a tool has replaced in asyncio's classes, instead of our native ones.
//!
//! Each native method that asyncio's classes have as well has a guard (`ffi/guard.rs`). When a
//! class has changed, `ferroloop._patches` determines which native methods must not run: those that
//! are replaced, and those whose asyncio counterpart calls a replaced method. Instead of these the
//! attribute of asyncio's classes is called: the tool's replacement, or asyncio's own code, which
//! calls the replacement.

use std::sync::atomic::{AtomicU64, Ordering};

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyFunction, PyList, PySuper, PyTuple, PyType};

use super::EventLoop;
use super::foreign_handle::arm_timers;
use super::handle_run::run_in_handle;
use crate::ffi::guard::{self, Guard};
use crate::ffi::layout::class_version::{class_version, version_of_class};
use crate::ffi::objects::object::HasBase;
use crate::ffi::section;
use crate::scheduler::Scheduler;
use crate::scheduler::patches::{HANDLE_RUN, LoopHooks, Replacements};
use crate::scheduler::report::too_late_to_report;

/// The guarded methods, in the order of their slots.
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

/// The guard of the loop's methods.
pub(super) struct Hooks;

impl Guard for Hooks {
    type Class = EventLoop;

    #[inline(always)]
    fn is_current(slf: &Bound<'_, EventLoop>) -> bool {
        slf.base().patches().is_untouched(slf)
    }

    fn replacement<'py>(
        slf: &Bound<'py, EventLoop>,
        slot: usize,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = slf.py();
        let check = || {
            check_replacements(slf.as_super())?;
            Ok::<_, PyErr>(slf.base().patches().is_diverted(py, slot))
        };
        if !section::enter_of(slf, check)? {
            return Ok(None);
        }
        if GUARDED[slot] == "_write_to_self" {
            slf.base().wake(); // asyncio's method writes to a socket that we do not have
        }
        let shadowed = PySuper::new(&py.get_type::<Scheduler>(), slf)?;
        shadowed.getattr(GUARDED[slot]).map(Some)
    }
}

/// Guards the methods. Called once, when the module is made.
pub fn install(py: Python<'_>) -> PyResult<()> {
    guard::install::<Hooks>(py, &GUARDED)
}

pub(super) const LOOP_HOOKS: LoopHooks =
    LoopHooks { check: check_replacements, run_in_handle, arm_timers };

/// Determines what is replaced, if a class or the code of a function has changed.
fn check_replacements(scheduler: &Bound<'_, Scheduler>) -> PyResult<()> {
    let py = scheduler.py();
    let patches = scheduler.get().patches();
    if patches.is_checked(scheduler) && guard::has_all_code(py) {
        return Ok(());
    }
    if too_late_to_report(py) {
        return Ok(()); // the interpreter shuts down: attributes may be gone
    }
    static LOOK: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let versions = versions(scheduler)?.filter(|_| guard::has_all_code(py));
    let (diverted, flags, handle_run, functions) = LOOK
        .import(py, "ferroloop._patches", "look")?
        .call1((scheduler, versions, patches.has_instance_attributes(py)))?
        .extract::<(u64, u32, Option<Bound<'_, PyAny>>, Bound<'_, PyList>)>()?;
    for (slot, function) in functions.iter().enumerate() {
        guard::set_shadowed(slot, function.cast::<PyFunction>()?);
    }
    let handle_run = handle_run.map(Bound::unbind);
    TRANSPORTS.note(py);
    EXECUTOR.note(py);
    patches.record(scheduler, Replacements { diverted, flags, handle_run });
    Ok(())
}

/// Classes whose versions are compared only in the calls that depend on them.
struct WatchedClasses {
    /// The function of `ferroloop._patches` that lists them.
    name: &'static str,
    list: PyOnceLock<Vec<Py<PyType>>>,
    /// The sum of their versions at the last check. Any change increases it: the interpreter
    /// assigns ever larger versions.
    known_sum: AtomicU64,
}

/// Handles, and the classes of asyncio's transports.
static TRANSPORTS: WatchedClasses = WatchedClasses::listed_by("watched_classes");

/// The classes that a call in a `ThreadPoolExecutor` involves.
static EXECUTOR: WatchedClasses = WatchedClasses::listed_by("executor_classes");

impl WatchedClasses {
    const fn listed_by(name: &'static str) -> Self {
        Self { name, list: PyOnceLock::new(), known_sum: AtomicU64::new(0) }
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
        self.known_sum.store(self.sum(py), Ordering::Relaxed);
    }

    /// Whether none of them has changed since the last check.
    fn are_unchanged(&self, py: Python<'_>) -> bool {
        self.sum(py) == self.known_sum.load(Ordering::Relaxed)
    }
}

/// The versions of all classes that [`check_replacements`] checks; `None` if one of them has no
/// version.
fn versions<'py>(scheduler: &Bound<'py, Scheduler>) -> PyResult<Option<Bound<'py, PyTuple>>> {
    let py = scheduler.py();
    TRANSPORTS.list(py)?;
    let all: Vec<_> = std::iter::once(version_of_class(scheduler))
        .chain(TRANSPORTS.versions(py))
        .chain(EXECUTOR.versions(py))
        .collect();
    if all.contains(&0) { Ok(None) } else { PyTuple::new(py, all).map(Some) }
}

/// The function that replaces the guarded method of this name, which creates a transport.
pub(super) fn replaced_transport_factory<'py>(
    slf: &Bound<'py, EventLoop>,
    name: &str,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    if TRANSPORTS.are_unchanged(slf.py()) { Ok(None) } else { check_again(slf, name) }
}

/// The function that replaces our `run_in_executor()`. On the first call this also checks names in
/// modules, which programs may have replaced as well.
pub(super) fn replaced_run_in_executor<'py>(
    slf: &Bound<'py, EventLoop>,
    is_first_call: bool,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = slf.py();
    EXECUTOR.list(py)?;
    let unchanged =
        !is_first_call && EXECUTOR.are_unchanged(py) && guard::has_code_from(py, HANDLE_RUN + 1);
    if unchanged { Ok(None) } else { check_again(slf, "run_in_executor") }
}

#[cold]
fn check_again<'py>(
    slf: &Bound<'py, EventLoop>,
    name: &str,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    slf.base().patches().invalidate(slf.py());
    let slot = GUARDED.iter().position(|guarded| *guarded == name);
    slot.map_or(Ok(None), |slot| Hooks::replacement(slf, slot))
}

#[pymethods]
impl EventLoop {
    /// Whether one of these is replaced; the bits are those of `ferroloop._patches`.
    fn _replaced(slf: &Bound<'_, Self>, bits: u32) -> PyResult<bool> {
        let scheduler = slf.as_super();
        let patches = scheduler.get().patches();
        let py = slf.py();
        let unchanged = TRANSPORTS.are_unchanged(py) && EXECUTOR.are_unchanged(py);
        if unchanged && patches.is_untouched(slf) && guard::has_all_code(py) {
            return Ok(false);
        }
        if !unchanged {
            patches.invalidate(py);
        }
        check_replacements(scheduler)?;
        Ok(patches.flags(slf.py()) & bits != 0)
    }
}
