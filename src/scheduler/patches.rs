//! What tools replace in asyncio, noticed at a price that neither a turn nor a call feels.
//!
//! * Methods of asyncio's loop classes, of our own and of a program's subclasses: the interpreter's
//!   version of the loop's class is another one as soon as any of them has changed. It is compared
//!   once a turn, when a method is called (`ffi/guard.rs`), and where a task or a future would be
//!   queued without calling `loop.call_soon`. After a change `event_loop/hooks.rs` looks.
//! * `asyncio.Handle` and `TimerHandle`: their version is compared together with the loop's. While
//!   `_run` is replaced (aiodebug, logfire), everything queued runs through it, in a handle such as
//!   asyncio would have; while another method is, asyncio's own code makes the handles.
//! * `loop.call_soon` (aiocop), `loop.time`: assignments to the loop pass `__setattr__`.
//! * `loop._selector.select` (looptime): assignments to the selector do so, too.

#![forbid(unsafe_code)]

use pyo3::prelude::*;
use pyo3::types::{PyList, PyType};

use super::{Runnable, Scheduler};
use crate::ffi::exception::PyOutcome;
use crate::ffi::guard;
use crate::ffi::layout::class_version::{class_version, version_of_class};
use crate::ffi::objects::cell::AttachedCell;
use crate::interop::imports;

/// Runs what was queued by calling the function with a handle; see `event_loop::patched_run`.
pub type RunInHandle =
    for<'py> fn(&Bound<'py, Scheduler>, Runnable, &Bound<'py, PyAny>) -> PyOutcome<'py, ()>;

/// Does what `event_loop::hooks` does for the loop.
#[derive(Clone, Copy)]
pub struct LoopHooks {
    /// Finds out what is replaced, if anything has changed.
    pub look: for<'py> fn(&Bound<'py, Scheduler>) -> PyResult<()>,
    /// Runs a callback in a handle.
    pub run_in_handle: RunInHandle,
    /// Arms the timers that asyncio's own code has put into `loop._scheduled`.
    pub arm_timers: for<'py> fn(&Bound<'py, Scheduler>, &Bound<'py, PyList>) -> PyResult<()>,
}

/// The slot of `call_soon`.
pub const CALL_SOON: usize = 0;

/// The slot of `asyncio.Handle._run`, which is no method of ours: after all that are.
pub const HANDLE_RUN: usize = 43;

/// Never a version.
const UNKNOWN: u32 = u32::MAX;

/// Versions of the loop's class and of `asyncio.TimerHandle`, which changes with `Handle`.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Versions {
    event_loop: u32,
    handle: u32,
}

const NEVER_LOOKED: Versions = Versions { event_loop: UNKNOWN, handle: UNKNOWN };

/// What a look found.
#[derive(Default)]
pub struct Found {
    /// A bit for each guarded method that must not run itself.
    pub diverted: u64,
    /// Bits of [`flag`].
    pub flags: u32,
    /// What `asyncio.Handle._run` is, if it is not asyncio's own.
    pub handle_run: Option<Py<PyAny>>,
}

/// What is replaced, where that is no matter of a guarded method. The numbers are those of
/// `ferroloop/_patches.py`.
pub mod flag {
    /// Tasks and futures must call `loop.call_soon()`.
    pub const CALL_SOON: u32 = 1;
    /// The clock is `loop.time()`.
    pub const TIME: u32 = 2;
    /// A turn is a call of `loop._run_once()`.
    pub const RUN_ONCE: u32 = 4;
}

/// What one loop knows of replaced functions.
pub struct Patches {
    timer_class: Py<PyType>,
    /// Those of the last look if it found nothing; otherwise [`NEVER_LOOKED`], so that everything
    /// takes the slow way.
    untouched: AttachedCell<Versions>,
    /// Those of the last look.
    seen: AttachedCell<Versions>,
    diverted: AttachedCell<u64>,
    flags: AttachedCell<u32>,
    handle_run: AttachedCell<Option<Py<PyAny>>>,
    has_own: AttachedCell<bool>,
    pub(crate) hooks: AttachedCell<Option<LoopHooks>>,
    /// Whether `loop._selector.select` was replaced, so that the turn must call it.
    pub(crate) foreign_select: AttachedCell<bool>,
    /// Whether `loop._selector` is a selector that the program gave the loop: it waits for the
    /// poller's descriptor.
    pub(crate) given_selector: AttachedCell<bool>,
    /// `loop._scheduled`, into which only asyncio's own code puts something.
    scheduled: AttachedCell<Option<Py<PyList>>>,
}

impl Patches {
    pub(super) fn new(py: Python<'_>) -> PyResult<Self> {
        Ok(Self {
            timer_class: imports::asyncio_timer_handle(py)?.cast::<PyType>()?.clone().unbind(),
            untouched: AttachedCell::new(NEVER_LOOKED),
            seen: AttachedCell::new(NEVER_LOOKED),
            diverted: AttachedCell::new(0),
            flags: AttachedCell::new(0),
            handle_run: AttachedCell::new(None),
            has_own: AttachedCell::new(false),
            hooks: AttachedCell::new(None),
            foreign_select: AttachedCell::new(false),
            given_selector: AttachedCell::new(false),
            scheduled: AttachedCell::new(None),
        })
    }

    #[inline(always)]
    fn versions<T>(&self, event_loop: &Bound<'_, T>) -> Versions {
        Versions {
            event_loop: version_of_class(event_loop),
            handle: class_version(&self.timer_class, event_loop.py()),
        }
    }

    /// Whether nothing is replaced and no class has changed since. Runs no Python code.
    #[inline(always)]
    pub fn is_untouched<T>(&self, event_loop: &Bound<'_, T>) -> bool {
        self.versions(event_loop) == self.untouched.get(event_loop.py())
    }

    /// Whether what no guard watches has the code that it had.
    #[inline(always)]
    pub(super) fn has_code(py: Python<'_>) -> bool {
        guard::has_code_of(py, HANDLE_RUN) && guard::has_code_of(py, CALL_SOON)
    }

    /// Whether no class has changed since the last look.
    pub fn is_seen(&self, scheduler: &Bound<'_, Scheduler>) -> bool {
        let versions = self.versions(scheduler);
        // Version 0 says that something has changed, or that there are no versions left.
        versions.event_loop != 0
            && versions.handle != 0
            && versions == self.seen.get(scheduler.py())
    }

    /// Notes what a look has found. The look-ups in it have given the classes their versions.
    pub fn note(&self, scheduler: &Bound<'_, Scheduler>, found: Found) {
        let py = scheduler.py();
        let versions = self.versions(scheduler);
        let nothing = found.diverted == 0
            && found.flags == 0
            && found.handle_run.is_none()
            && versions.event_loop != 0
            && versions.handle != 0;
        self.seen.set(py, versions);
        self.untouched.set(py, if nothing { versions } else { NEVER_LOOKED });
        self.diverted.set(py, found.diverted);
        self.flags.set(py, found.flags);
        drop(self.handle_run.replace(py, found.handle_run));
        scheduler.get().foreign_clock.set(py, found.flags & flag::TIME != 0);
    }

    /// Has the next call look.
    pub fn forget(&self, py: Python<'_>) {
        self.seen.set(py, NEVER_LOOKED);
        self.untouched.set(py, NEVER_LOOKED);
    }

    /// Something was put into the loop itself.
    pub fn note_own(&self, py: Python<'_>) {
        self.has_own.set(py, true);
        self.forget(py);
    }

    /// Whether something was ever put into the loop itself.
    pub fn has_own(&self, py: Python<'_>) -> bool {
        self.has_own.get(py)
    }

    /// Whether a guarded method must not run itself.
    pub fn is_diverted(&self, py: Python<'_>, slot: usize) -> bool {
        self.diverted.get(py) & 1 << slot != 0
    }

    /// Bits of [`flag`] and those that only Python code knows.
    pub fn flags(&self, py: Python<'_>) -> u32 {
        self.flags.get(py)
    }

    /// The function in place of `asyncio.Handle._run`, and who can call it.
    pub(super) fn handle_run<'py>(
        &self,
        py: Python<'py>,
    ) -> Option<(Bound<'py, PyAny>, RunInHandle)> {
        Some((self.handle_run.get_bound(py)?, self.hooks.get(py)?.run_in_handle))
    }

    pub(super) fn is_handle_run_replaced(&self, py: Python<'_>) -> bool {
        self.handle_run.is_some(py)
    }

    /// Tells which list `loop._scheduled` is.
    pub fn set_scheduled(&self, py: Python<'_>, list: Option<Bound<'_, PyList>>) {
        self.scheduled.store(py, list);
    }

    /// `loop._scheduled` if it is not empty.
    #[inline(always)]
    pub(super) fn scheduled<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyList>> {
        let is_empty = self
            .scheduled
            .inspect(py, |list| list.as_ref().is_none_or(|list| list.bind(py).is_empty()));
        if is_empty { None } else { self.scheduled.get_bound(py) }
    }

    pub(super) fn visit(
        &self,
        visit: &pyo3::gc::PyVisit<'_>,
    ) -> Result<(), pyo3::gc::PyTraverseError> {
        self.scheduled.visit(visit)?;
        self.handle_run.visit(visit)
    }
}

/// Looks if a class or the code of a function has changed.
#[cold]
pub fn look<'py>(scheduler: &Bound<'py, Scheduler>) -> PyResult<()> {
    match scheduler.get().patches.hooks.get(scheduler.py()) {
        Some(hooks) => (hooks.look)(scheduler),
        None => Ok(()),
    }
}

/// Whether tasks and futures must call `loop.call_soon()` and not just be queued.
#[inline(always)]
pub fn must_call_soon(scheduler: &Bound<'_, Scheduler>) -> bool {
    !scheduler.get().patches.is_untouched(scheduler) && is_call_soon_replaced(scheduler)
}

#[cold]
fn is_call_soon_replaced(scheduler: &Bound<'_, Scheduler>) -> bool {
    // What a look raises is raised by `loop.call_soon()` again.
    look(scheduler).is_err() || scheduler.get().patches.flags(scheduler.py()) & flag::CALL_SOON != 0
}
