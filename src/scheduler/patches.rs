//! Detects what tools replace in asyncio, cheaply enough for each turn and call.
//!
//! * Methods of asyncio's loop classes, of ours and of a program's subclasses: the interpreter's
//!   version tag of the loop's class changes with any of them. It is compared once per turn, when a
//!   method is called (`ffi/guard.rs`), and where a task or a future would be queued without
//!   calling `loop.call_soon`. After a change `event_loop/hooks.rs` checks what was replaced.
//! * `asyncio.Handle` and `TimerHandle`: their version tag is compared together with the loop's.
//!   While `_run` is replaced (aiodebug, logfire), every entry of the queue runs through it, in a
//!   handle as asyncio would have; while another method is replaced, asyncio's own code creates the
//!   handles.
//! * `loop.call_soon` (aiocop), `loop.time`: assignments to the loop go through `__setattr__`.
//! * `loop._selector.select` (looptime): so do assignments to the selector.

use pyo3::prelude::*;
use pyo3::types::{PyList, PyType};

use super::{Runnable, Scheduler};
use crate::ffi::exception::PyOutcome;
use crate::ffi::guard;
use crate::ffi::layout::class_version::{class_version, version_of_class};
use crate::ffi::objects::cell::AttachedCell;
use crate::ffi::objects::process_state::{Published, Word};
use crate::interop::imports;

/// Runs a queued entry by calling the function with a handle for it; see `event_loop::handle_run`.
pub type RunInHandle =
    for<'py> fn(&Bound<'py, Scheduler>, Runnable, &Bound<'py, PyAny>) -> PyOutcome<'py, ()>;

/// Functions of `event_loop::hooks`, which this layer cannot name.
#[derive(Clone, Copy)]
pub struct LoopHooks {
    /// Checks what is replaced, if anything has changed.
    pub check: for<'py> fn(&Bound<'py, Scheduler>) -> PyResult<()>,
    /// Runs a callback in a handle.
    pub run_in_handle: RunInHandle,
    /// Arms the timers that asyncio's own code has put into `loop._scheduled`.
    pub arm_timers: for<'py> fn(&Bound<'py, Scheduler>, &Bound<'py, PyList>) -> PyResult<()>,
}

/// The guard's slot of `call_soon`.
pub const CALL_SOON: usize = 0;

/// The slot of `asyncio.Handle._run`, which is not a method of ours: after those of all that are.
pub const HANDLE_RUN: usize = 43;

/// A value that is never a version tag.
const UNKNOWN: u32 = u32::MAX;

/// Version tags of the loop's class and of `asyncio.TimerHandle`, which changes with `Handle`.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Versions {
    event_loop: u32,
    handle: u32,
}

impl Word for Versions {
    fn to_bits(self) -> u64 {
        u64::from(self.event_loop) << 32 | u64::from(self.handle)
    }

    fn from_bits(bits: u64) -> Self {
        Self { event_loop: (bits >> 32) as u32, handle: bits as u32 }
    }
}

const NEVER_CHECKED: Versions = Versions { event_loop: UNKNOWN, handle: UNKNOWN };

/// What a check found.
#[derive(Default)]
pub struct Replacements {
    /// A bit for each guarded method that must not run itself.
    pub diverted: u64,
    /// Bits of [`flag`].
    pub flags: u32,
    /// `asyncio.Handle._run`, if it is not asyncio's own.
    pub handle_run: Option<Py<PyAny>>,
}

/// What is replaced that concerns no guarded method. The numbers are those of
/// `ferroloop/_patches.py`.
pub mod flag {
    /// Tasks and futures must call `loop.call_soon()`.
    pub const CALL_SOON: u32 = 1;
    /// The clock is `loop.time()`.
    pub const TIME: u32 = 2;
    /// A turn is a call of `loop._run_once()`.
    pub const RUN_ONCE: u32 = 4;
}

/// What one loop knows about replaced functions.
pub struct Patches {
    timer_class: Py<PyType>,
    /// The version tags of the last check if it found nothing; otherwise [`NEVER_CHECKED`], so that
    /// everything takes the slow path.
    untouched: Published<Versions>,
    /// The version tags of the last check.
    checked: AttachedCell<Versions>,
    diverted: AttachedCell<u64>,
    flags: AttachedCell<u32>,
    handle_run: AttachedCell<Option<Py<PyAny>>>,
    has_instance_attributes: AttachedCell<bool>,
    pub(super) hooks: AttachedCell<Option<LoopHooks>>,
    /// Whether `loop._selector.select` was replaced, so that the turn must call it.
    pub(super) foreign_select: AttachedCell<bool>,
    /// Whether `loop._selector` is a selector that the program gave the loop: it waits for the
    /// poller's descriptor.
    pub(super) given_selector: AttachedCell<bool>,
    /// `loop._scheduled`, to which only asyncio's own code adds timers.
    scheduled: AttachedCell<Option<Py<PyList>>>,
}

impl Patches {
    pub(super) fn new(py: Python<'_>) -> PyResult<Self> {
        Ok(Self {
            timer_class: imports::asyncio_timer_handle(py)?.cast::<PyType>()?.clone().unbind(),
            untouched: Published::new(NEVER_CHECKED),
            checked: AttachedCell::new(NEVER_CHECKED),
            diverted: AttachedCell::new(0),
            flags: AttachedCell::new(0),
            handle_run: AttachedCell::new(None),
            has_instance_attributes: AttachedCell::new(false),
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

    /// Whether the functions that no guard checks still have their original code.
    #[inline(always)]
    pub(super) fn has_code(py: Python<'_>) -> bool {
        guard::has_code_of(py, HANDLE_RUN) && guard::has_code_of(py, CALL_SOON)
    }

    /// Whether no class has changed since the last check.
    pub fn is_checked(&self, scheduler: &Bound<'_, Scheduler>) -> bool {
        let versions = self.versions(scheduler);
        // Version 0 means that the class has changed, or that the interpreter has run out of
        // versions.
        versions.event_loop != 0
            && versions.handle != 0
            && versions == self.checked.get(scheduler.py())
    }

    /// Records what a check found. The attribute lookups of the check have given the classes their
    /// version tags.
    pub fn record(&self, scheduler: &Bound<'_, Scheduler>, found: Replacements) {
        let py = scheduler.py();
        let versions = self.versions(scheduler);
        let nothing = found.diverted == 0
            && found.flags == 0
            && found.handle_run.is_none()
            && versions.event_loop != 0
            && versions.handle != 0;
        self.checked.set(py, versions);
        self.untouched.set(py, if nothing { versions } else { NEVER_CHECKED });
        self.diverted.set(py, found.diverted);
        self.flags.set(py, found.flags);
        drop(self.handle_run.replace(py, found.handle_run));
        scheduler.get().mode.foreign_clock.set(py, found.flags & flag::TIME != 0);
    }

    /// Makes the next call check.
    pub fn invalidate(&self, py: Python<'_>) {
        self.checked.set(py, NEVER_CHECKED);
        self.untouched.set(py, NEVER_CHECKED);
    }

    /// Notes that an attribute of the loop instance was set.
    pub fn note_instance_attribute(&self, py: Python<'_>) {
        self.has_instance_attributes.set(py, true);
        self.invalidate(py);
    }

    /// Whether an attribute of the loop instance was ever set.
    pub fn has_instance_attributes(&self, py: Python<'_>) -> bool {
        self.has_instance_attributes.get(py)
    }

    /// Whether a guarded method must not run itself.
    pub fn is_diverted(&self, py: Python<'_>, slot: usize) -> bool {
        self.diverted.get(py) & 1 << slot != 0
    }

    /// Bits of [`flag`], and those that only Python code uses.
    pub fn flags(&self, py: Python<'_>) -> u32 {
        self.flags.get(py)
    }

    /// The replacement of `asyncio.Handle._run`, and the function that can call it.
    pub(super) fn handle_run<'py>(
        &self,
        py: Python<'py>,
    ) -> Option<(Bound<'py, PyAny>, RunInHandle)> {
        Some((self.handle_run.get_bound(py)?, self.hooks.get(py)?.run_in_handle))
    }

    pub(super) fn is_handle_run_replaced(&self, py: Python<'_>) -> bool {
        self.handle_run.is_some(py)
    }

    /// Sets the functions of the upper layer.
    pub fn set_hooks(&self, py: Python<'_>, hooks: LoopHooks) {
        self.hooks.set(py, Some(hooks));
    }

    /// Sets whether `loop._selector.select` was replaced, so that the turn must call it.
    pub fn set_foreign_select(&self, py: Python<'_>, foreign: bool) {
        self.foreign_select.set(py, foreign);
    }

    /// Sets the list that is `loop._scheduled`.
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

/// Checks what is replaced, if a class or the code of a function has changed.
#[cold]
pub fn check<'py>(scheduler: &Bound<'py, Scheduler>) -> PyResult<()> {
    match scheduler.get().mode.patches.hooks.get(scheduler.py()) {
        Some(hooks) => (hooks.check)(scheduler),
        None => Ok(()),
    }
}

/// Whether tasks and futures must call `loop.call_soon()` and not just be queued.
#[inline(always)]
pub fn must_call_soon(scheduler: &Bound<'_, Scheduler>) -> bool {
    !scheduler.get().mode.patches.is_untouched(scheduler) && is_call_soon_replaced(scheduler)
}

#[cold]
fn is_call_soon_replaced(scheduler: &Bound<'_, Scheduler>) -> bool {
    // What a check raises, `loop.call_soon()` raises again.
    check(scheduler).is_err()
        || scheduler.get().mode.patches.flags(scheduler.py()) & flag::CALL_SOON != 0
}
