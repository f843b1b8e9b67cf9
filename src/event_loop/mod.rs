//! The native base class of `ferroloop.EventLoop`; each file is one topic of asyncio's loop API.
//!
//! The Python class inherits from this one first and from asyncio's own loop second: methods that
//! are not defined here, such as `create_connection()`, are asyncio's code on our primitives.
//!
//! * `lifecycle.rs`: running, stopping, closing;
//! * `scheduling.rs`: `call_soon()`, `call_later()`, `call_at()`, `call_soon_threadsafe()`;
//!   `parameters.rs`: their arguments;
//! * `tasks.rs`: `create_future()`, `create_task()`;
//! * `executor.rs`: `run_in_executor()`;
//! * `resolver/`: `getaddrinfo()`, `getnameinfo()`;
//! * `readiness.rs`: `add_reader()`, `add_writer()` and their opposites;
//! * `endpoints.rs`: creates transports and listeners;
//! * `socket_calls.rs`: `sock_recv()` and the other `sock_*()` methods;
//! * `processes.rs`: watches child processes;
//! * `settings.rs`: debug mode, busy polling, private attributes;
//! * `metrics.rs`: the loop's metrics;
//! * `hooks.rs`: calls methods that a tool has replaced; `handle_run.rs`: the same for
//!   `Handle._run`; `foreign_handle.rs`: asyncio's own handles in our queue; `ready_view.rs`: the
//!   ready queue for code that runs the loop's turns itself.

#![forbid(unsafe_code)]

mod endpoints;
mod executor;
mod foreign_handle;
mod handle_run;
mod hooks;
mod lifecycle;
mod metrics;
mod parameters;
mod processes;
mod readiness;
mod ready_view;
mod resolver;
mod scheduling;
mod settings;
mod socket_calls;
mod tasks;

use pyo3::PyClassInitializer;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple, PyType};

use crate::ffi::entries;
use crate::ffi::function_like;
use crate::ffi::method::{self, FastEntry, NoArgumentsEntry, PredicateEntry, VectorCall};
use crate::ffi::objects::cell::AttachedCell;
use crate::ffi::section::{Owned, attach_unshared};
use crate::ffi::thread_exit;
use crate::interop::imports;
use crate::scheduler::Scheduler;
use crate::signals;

/// The native half of `ferroloop.EventLoop`.
#[pyclass(frozen, extends = Scheduler, subclass, module = "ferroloop._ferroloop", name = "EventLoop")]
pub struct EventLoop {
    task_factory: AttachedCell<Option<Py<PyAny>>>,
    /// The hooks for asynchronous generators that were installed before the loop ran.
    saved_asyncgen_hooks: AttachedCell<Option<Py<PyAny>>>,
    default_executor: executor::DefaultExecutor,
}

pub use hooks::GUARDED;

/// Adds the hand-written methods to the class.
pub fn install(py: Python<'_>) -> PyResult<()> {
    entries::install::<EventLoop>(py);
    entries::install::<handle_run::QueuedCall>(py);
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

/// Gives the methods the attributes of those of asyncio's loop, which are functions.
fn resemble_asyncio(py: Python<'_>) -> PyResult<()> {
    let model = imports::unix_event_loop(py)?.cast::<PyType>()?;
    let direct = [
        entry::<FastEntry<scheduling::CallSoon>>(),
        entry::<FastEntry<scheduling::CallSoonThreadsafe>>(),
        entry::<FastEntry<scheduling::CallLater>>(),
        entry::<FastEntry<scheduling::CallAt>>(),
        entry::<FastEntry<executor::RunInExecutor>>(),
        entry::<FastEntry<tasks::CreateTask>>(),
        entry::<NoArgumentsEntry<tasks::CreateFuture>>(),
        entry::<PredicateEntry<settings::GetDebug>>(),
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

fn entry<M: VectorCall<Class = EventLoop>>() -> (&'static str, function_like::VectorcallEntry) {
    (M::NAME.to_str().unwrap_or_default(), function_like::direct::<M, hooks::Hooks>())
}

impl Owned for EventLoop {
    fn owner<'a, 'py>(slf: &'a Bound<'py, Self>) -> Option<Borrowed<'a, 'py, PyAny>> {
        Some(slf.as_any().as_borrowed())
    }
}

impl entries::Entered for EventLoop {
    const WITHOUT_SECTION: &'static [&'static std::ffi::CStr] =
        &[c"stop", c"is_running", c"is_closed", c"time", c"_check_closed", c"_write_to_self"];

    entries::own_entries!();
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
        thread_exit::protect();
        let event_loop = Self {
            task_factory: AttachedCell::new(None),
            saved_asyncgen_hooks: AttachedCell::new(None),
            default_executor: executor::DefaultExecutor::default(),
        };
        signals::create_pipe(cls.py())?;
        let scheduler = Scheduler::new(cls.py())?;
        scheduler.patches().set_hooks(cls.py(), hooks::LOOP_HOOKS);
        Ok(PyClassInitializer::from(scheduler).add_subclass(event_loop))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.task_factory.visit(&visit)?;
        self.default_executor.visit(&visit)?;
        self.saved_asyncgen_hooks.visit(&visit)
    }

    fn __clear__(&self) {
        attach_unshared(|py| {
            self.default_executor.clear(py);
            drop((self.task_factory.take(py), self.saved_asyncgen_hooks.take(py)));
        });
    }
}
