//! What tools replace in asyncio, noticed at a price that a turn does not feel.
//!
//! * `asyncio.Handle._run` (aiodebug, logfire): the class's version is compared once a turn. While
//!   it is replaced, everything queued runs through it, in a handle such as asyncio would have.
//! * `loop.call_soon` (aiocop), `loop.time`: assignments to the loop pass `__setattr__`.
//! * `loop._selector.select` (looptime): assignments to the selector do so, too.

#![forbid(unsafe_code)]

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyType;

use super::{Runnable, Scheduler};
use crate::ffi::cell::AttachedCell;
use crate::ffi::class_version::class_version;
use crate::ffi::exception::PyOutcome;
use crate::interop::imports;

/// Runs what was queued by calling the function with a handle; see `event_loop::patched_run`.
pub type RunInHandle =
    for<'py> fn(&Bound<'py, Scheduler>, Runnable, &Bound<'py, PyAny>) -> PyOutcome<'py, ()>;

/// Never a version.
const UNKNOWN: u32 = u32::MAX;

/// What one loop knows of replaced functions.
pub struct Patches {
    handle_class: Py<PyType>,
    handle_version: AttachedCell<u32>,
    /// What `asyncio.Handle._run` is, if it is not asyncio's own.
    handle_run: AttachedCell<Option<Py<PyAny>>>,
    pub(crate) run_in_handle: AttachedCell<Option<RunInHandle>>,
    /// Whether `loop.call_soon` was replaced, so that tasks and futures must call it.
    pub(crate) foreign_call_soon: AttachedCell<bool>,
    /// Whether `loop._selector.select` was replaced, so that the turn must call it.
    pub(crate) foreign_select: AttachedCell<bool>,
    /// Whether `loop._selector` is a selector that the program gave the loop: it waits for the
    /// poller's descriptor.
    pub(crate) given_selector: AttachedCell<bool>,
}

impl Patches {
    pub(super) fn new(py: Python<'_>) -> PyResult<Self> {
        Ok(Self {
            handle_class: imports::asyncio_handle(py)?.cast::<PyType>()?.clone().unbind(),
            handle_version: AttachedCell::new(UNKNOWN),
            handle_run: AttachedCell::new(None),
            run_in_handle: AttachedCell::new(None),
            foreign_call_soon: AttachedCell::new(false),
            foreign_select: AttachedCell::new(false),
            given_selector: AttachedCell::new(false),
        })
    }

    /// Whether `asyncio.Handle` may have changed since [`Patches::look`] looked.
    #[inline(always)]
    pub(super) fn may_have_changed(&self, py: Python<'_>) -> bool {
        class_version(&self.handle_class, py) != self.handle_version.get(py)
    }

    /// Looks at `asyncio.Handle._run`.
    #[cold]
    pub(super) fn look(&self, py: Python<'_>) -> PyResult<()> {
        // The look-up gives the class its next version.
        let run = self.handle_class.bind(py).getattr(intern!(py, "_run"))?;
        let replaced = !is_of_asyncio(&run)?;
        self.handle_run.store(py, replaced.then_some(run));
        let version = match class_version(&self.handle_class, py) {
            0 => UNKNOWN,
            version => version,
        };
        self.handle_version.set(py, version);
        Ok(())
    }

    /// The function in place of `asyncio.Handle._run`, and who can call it.
    pub(super) fn handle_run<'py>(
        &self,
        py: Python<'py>,
    ) -> Option<(Bound<'py, PyAny>, RunInHandle)> {
        Some((self.handle_run.get_bound(py)?, self.run_in_handle.get(py)?))
    }

    pub(super) fn is_handle_run_replaced(&self, py: Python<'_>) -> bool {
        self.handle_run.is_some(py)
    }

    pub(super) fn visit(
        &self,
        visit: &pyo3::gc::PyVisit<'_>,
    ) -> Result<(), pyo3::gc::PyTraverseError> {
        self.handle_run.visit(visit)
    }
}

/// Whether the function is asyncio's own, however early a tool came: its globals tell.
fn is_of_asyncio(run: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = run.py();
    let Some(globals) = run.getattr_opt(intern!(py, "__globals__"))? else { return Ok(false) };
    Ok(globals.is(py.import("asyncio.events")?.dict()))
}
