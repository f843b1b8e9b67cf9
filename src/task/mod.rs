//! `Task`: a coroutine that the event loop drives.
//!
//! * `mod.rs`: the state;
//! * `step.rs`: the hot path: resume the coroutine, look at what it awaits;
//! * `foreign.rs`: awaiting futures that are not ours;
//! * `start.rs`: making a task, lazily or eagerly started;
//! * `cancel.rs`: cancellation requests;
//! * `current.rs`: `current_task()` and `all_tasks()` of asyncio;
//! * `methods.rs`: what Python sees; `finalizer.rs`: reports when a task is dropped.
//!
//! A task that is not done is in one of three states: it waits (`fut_waiter` is a pending
//! future, one of whose callbacks is our wake-up), it is queued, or it is running.

#![forbid(unsafe_code)]

mod cancel;
pub mod current;
mod finalizer;
mod foreign;
mod methods;
mod start;
mod step;

use pyo3::prelude::*;
use pyo3::types::PyString;

pub use start::TaskOptions;
pub use step::{StepCallback, step_as_callback};

use crate::ffi::objects::cell::AttachedCell;
use crate::ffi::objects::freelist::{self, FreeList, Recycled};
use crate::ffi::objects::object;
use crate::ffi::objects::slots::{self, Resumed, SelfAwaiting};
use crate::ffi::objects::weak_registry::RegistryEntry;
use crate::future::{AwaiterAttributes, Future, is_its_own_awaiter, separate_awaiter};
use crate::scheduler::contexts::{ContextSlot, ContextState};

/// Completes the class. Called once, when the module is made.
pub fn install(py: Python<'_>) -> PyResult<()> {
    freelist::install::<Task>(py);
    slots::install_self_awaiting::<Task>(py);
    slots::install_finalizer::<Task>(py);
    AwaiterAttributes::install::<Task>(py)
}

/// Name of a task; most are never asked for, so the text is made on demand.
enum Name {
    /// `Task-N`.
    Number(u64),
    /// Set by the user, a str.
    Given(Py<PyAny>),
}

/// A coroutine wrapped in a Future.
///
/// Args:
///     coro: the coroutine.
///     loop: the event loop; the current one by default.
///     name: any object, shown by `str()`; `Task-N` by default.
///     context: the `contextvars.Context` to run in; a copy of the current one by default.
///     eager_start: start at once if the loop runs (3.12 and later).
///
/// See <https://docs.python.org/3/library/asyncio-task.html#task-object>.
#[pyclass(frozen, extends = Future, subclass, module = "ferroloop", name = "Task")]
pub struct Task {
    /// First, so that the task leaves the registry before its parts are dropped.
    registry_entry: RegistryEntry,
    cancel_requests: AttachedCell<u32>,
    coroutine: AttachedCell<Option<Py<PyAny>>>,
    context: AttachedCell<Option<Py<PyAny>>>,
    fut_waiter: AttachedCell<Option<Py<PyAny>>>,
    name: AttachedCell<Option<Name>>,
    context_state: AttachedCell<ContextState>,
    must_cancel: AttachedCell<bool>,
    log_destroy_pending: AttachedCell<bool>,
}

impl Recycled for Task {
    fn free_list() -> &'static FreeList {
        static FREE_LIST: FreeList = FreeList::new(1024);
        &FREE_LIST
    }
}

impl Task {
    /// A task without a coroutine, as `__new__` leaves it.
    fn uninitialised() -> Self {
        Self {
            registry_entry: RegistryEntry::new(&current::TASKS),
            cancel_requests: AttachedCell::new(0),
            coroutine: AttachedCell::new(None),
            context: AttachedCell::new(None),
            fut_waiter: AttachedCell::new(None),
            name: AttachedCell::new(None),
            context_state: AttachedCell::new(ContextState::Exposed),
            must_cancel: AttachedCell::new(false),
            log_destroy_pending: AttachedCell::new(false),
        }
    }

    /// Whether `all_tasks()` shows it.
    pub fn is_listed(&self, py: Python<'_>) -> bool {
        self.registry_entry.is_registered(py)
    }

    /// Has `all_tasks()` show it, or not.
    pub fn set_listed(slf: &Bound<'_, Self>, listed: bool) {
        if listed {
            slf.get().registry_entry.register(slf);
        } else {
            slf.get().registry_entry.unregister(slf.py());
        }
    }

    #[inline(always)]
    fn context_slot(&self) -> ContextSlot<'_> {
        ContextSlot { object: &self.context, state: &self.context_state }
    }

    fn name_text<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        enum Found<'py> {
            Number(u64),
            Given(Bound<'py, PyAny>),
            None,
        }
        let found = self.name.inspect(py, |name| match name {
            Some(Name::Number(number)) => Found::Number(*number),
            Some(Name::Given(text)) => Found::Given(text.bind(py).clone()),
            None => Found::None,
        });
        match found {
            Found::Number(number) => PyString::new(py, &format!("Task-{number}")).into_any(),
            Found::Given(text) => text,
            Found::None => py.None().into_bound(py),
        }
    }

    fn set_name_text(&self, py: Python<'_>, name: &Bound<'_, PyAny>) -> PyResult<()> {
        let text = if name.is_exact_instance_of::<PyString>() {
            name.clone()
        } else {
            name.str()?.into_any()
        };
        drop(self.name.replace(py, Some(Name::Given(text.unbind()))));
        Ok(())
    }
}

impl SelfAwaiting for Task {
    const COUNTED: bool = false;

    #[inline(always)]
    fn resume<'py>(slf: &Bound<'py, Self>) -> Resumed<'py> {
        Future::resume(slf.as_super())
    }

    #[inline(always)]
    fn is_its_own_awaiter(slf: &Bound<'_, Self>) -> bool {
        is_its_own_awaiter::<Self>(slf)
    }

    fn separate_awaiter<'py>(slf: &Bound<'py, Self>) -> Option<PyResult<Bound<'py, PyAny>>> {
        separate_awaiter::<Self>(slf, slf.as_super())
    }
}

/// The future inside `object` if it is exactly a Future or a Task of this crate.
///
/// Python subclasses may override anything, so they take the general protocol.
#[inline(always)]
pub fn as_exact_future<'a, 'py>(object: &'a Bound<'py, PyAny>) -> Option<&'a Bound<'py, Future>> {
    // Each cast finds the very class, and need not look for a base.
    if object::is_exactly::<Future>(object) {
        object.cast::<Future>().ok()
    } else if object::is_exactly::<Task>(object) {
        object.cast::<Task>().ok().map(Bound::as_super)
    } else {
        None
    }
}
