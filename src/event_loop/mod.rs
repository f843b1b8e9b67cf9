//! The native base class of `ferroloop.EventLoop`; each file is one topic of asyncio's loop API.
//!
//! The Python class inherits from this one first and from asyncio's own loop second: what is not
//! defined here (coroutines that only orchestrate) is asyncio's code on our primitives.

#![forbid(unsafe_code)]

mod endpoints;
mod executor;
mod foreign_handle;
mod hooks;
mod lifecycle;
mod metrics;
mod parameters;
mod patched_run;
mod processes;
mod readiness;
mod ready_view;
mod resolver;
mod scheduling;
mod settings;
mod socket_operations;
mod tasks;

use pyo3::PyClassInitializer;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple, PyType};

use crate::ffi::cell::AttachedCell;
use crate::ffi::method;
use crate::scheduler::Scheduler;
use crate::signals;

/// Native half of `ferroloop.EventLoop`.
#[pyclass(frozen, extends = Scheduler, subclass, module = "ferroloop._ferroloop", name = "EventLoop")]
pub struct EventLoop {
    task_factory: AttachedCell<Option<Py<PyAny>>>,
    /// Hooks for asynchronous generators that were installed before the loop ran.
    saved_asyncgen_hooks: AttachedCell<Option<Py<PyAny>>>,
    default_executor: executor::DefaultExecutor,
}

pub use hooks::GUARDED;

/// Puts the hand-written methods into the class.
pub fn install(py: Python<'_>) -> PyResult<()> {
    method::install::<scheduling::CallSoon>(py)?;
    method::install::<scheduling::CallSoonThreadsafe>(py)?;
    method::install::<scheduling::CallLater>(py)?;
    method::install::<scheduling::CallAt>(py)?;
    method::install::<executor::RunInExecutor>(py)?;
    method::install::<tasks::CreateTask>(py)?;
    method::install_without_arguments::<tasks::CreateFuture>(py)?;
    method::install_predicate::<settings::GetDebug>(py)?;
    hooks::install(py)
}

#[pymethods]
impl EventLoop {
    #[new]
    #[classmethod]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(
        cls: &Bound<'_, PyType>,
        _args: &Bound<'_, PyTuple>,
        _kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<PyClassInitializer<Self>> {
        let event_loop = Self {
            task_factory: AttachedCell::new(None),
            saved_asyncgen_hooks: AttachedCell::new(None),
            default_executor: executor::DefaultExecutor::default(),
        };
        signals::prepare(cls.py())?;
        let scheduler = Scheduler::new(cls.py())?;
        scheduler.patches.hooks.set(cls.py(), Some(hooks::LOOP_HOOKS));
        Ok(PyClassInitializer::from(scheduler).add_subclass(event_loop))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.task_factory.visit(&visit)?;
        self.default_executor.visit(&visit)?;
        self.saved_asyncgen_hooks.visit(&visit)
    }

    fn __clear__(&self) {
        Python::attach(|py| {
            self.default_executor.clear(py);
            drop((self.task_factory.take(py), self.saved_asyncgen_hooks.take(py)));
        });
    }
}
