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
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple, PyType};

use crate::ffi::function_like;
use crate::ffi::method::{self, Asked, Bare, Fast, VectorCall};
use crate::ffi::objects::cell::AttachedCell;
use crate::interop::imports;
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
    hooks::install(py)?;
    resemble_asyncio(py)
}

/// Has the methods look like those of asyncio's loop, which are functions.
fn resemble_asyncio(py: Python<'_>) -> PyResult<()> {
    let model = imports::unix_event_loop(py)?.cast::<PyType>()?;
    let direct = [
        entry::<Fast<scheduling::CallSoon>>(),
        entry::<Fast<scheduling::CallSoonThreadsafe>>(),
        entry::<Fast<scheduling::CallLater>>(),
        entry::<Fast<scheduling::CallAt>>(),
        entry::<Fast<executor::RunInExecutor>>(),
        entry::<Fast<tasks::CreateTask>>(),
        entry::<Bare<tasks::CreateFuture>>(),
        entry::<Asked<settings::GetDebug>>(),
    ];
    for name in py
        .get_type::<EventLoop>()
        .getattr(intern!(py, "__dict__"))?
        .try_iter()?
        .collect::<PyResult<Vec<_>>>()?
    {
        let name = name.cast_into::<PyString>()?;
        let slot = GUARDED.iter().position(|guarded| name == *guarded);
        let known = direct.iter().find(|(known, _)| name == *known);
        let direct = known.zip(slot).map(|((_, entry), slot)| (*entry, slot));
        function_like::install::<EventLoop>(&name, model, direct)?;
    }
    Ok(())
}

fn entry<M: VectorCall<Class = EventLoop>>() -> (&'static str, function_like::Entry) {
    (M::NAME.to_str().unwrap_or_default(), function_like::direct::<M, hooks::Hooks>())
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
