//! `Task`: a coroutine that the event loop runs.
//!
//! * `mod.rs`: the state;
//! * `step.rs`: the hot path: resumes the coroutine and handles what it awaits;
//! * `foreign.rs`: awaits futures of other classes;
//! * `start.rs`: creates a task, with or without eager start, and registers it for `all_tasks()`;
//! * `cancel.rs`: cancellation requests;
//! * `current.rs`: `current_task()` and `all_tasks()` of asyncio;
//! * `methods.rs`: the Python methods; `finalizer.rs`: reports pending or failed tasks that are
//!   deallocated.
//!
//! A task that is not done is in one of three states: it waits (`fut_waiter` is a pending future
//! that has the task's wake-up as a callback), it is queued, or it is running.

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
use crate::ffi::objects::kept_memory::kept_memory;
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
    AwaiterAttributes::install::<Task>(py)?;
    methods::install_fast_paths(py)
}

/// The name of a task. Most names are never read, so the text is created on demand.
enum Name {
    /// `Task-N`.
    Number(u64),
    /// Set by the program, a str.
    Given(Py<PyAny>),
}

/// A coroutine wrapped in a Future.
///
/// Args:
///     coro: the coroutine.
///     loop: the event loop, by default the current one.
///     name: any object, converted by `str()`; by default `Task-N`.
///     context: the `contextvars.Context` to run in, by default a copy of the current one.
///     eager_start: start at once if the loop is running (3.12 and later).
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

/// Deallocated tasks that are kept: as many as a `gather()` of a thousand awaitables drops at once.
/// With the collector's header a task is about 180 bytes, so they are less than 200 KiB.
const FREE_TASKS: usize = 1024;

impl Recycled for Task {
    fn free_list() -> &'static FreeList {
        kept_memory!(FREE_TASKS)
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

    /// Whether `all_tasks()` lists it.
    pub fn is_listed(&self, py: Python<'_>) -> bool {
        self.registry_entry.is_registered(py)
    }

    /// Sets whether `all_tasks()` lists it.
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
        enum Snapshot<'py> {
            Number(u64),
            Given(Bound<'py, PyAny>),
            None,
        }
        let snapshot = self.name.inspect(py, |name| match name {
            Some(Name::Number(number)) => Snapshot::Number(*number),
            Some(Name::Given(text)) => Snapshot::Given(text.bind(py).clone()),
            None => Snapshot::None,
        });
        match snapshot {
            Snapshot::Number(number) => PyString::new(py, &format!("Task-{number}")).into_any(),
            Snapshot::Given(text) => text,
            Snapshot::None => py.None().into_bound(py),
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

/// The future of `object`, if that is exactly a Future or a Task of this crate.
///
/// Python subclasses may override any method, so the general protocol is used for them.
#[inline(always)]
pub fn as_exact_future<'a, 'py>(object: &'a Bound<'py, PyAny>) -> Option<&'a Bound<'py, Future>> {
    // Both casts succeed by comparing the class alone, without a search of its bases.
    if object::is_exactly::<Future>(object) {
        object.cast::<Future>().ok()
    } else if object::is_exactly::<Task>(object) {
        object.cast::<Task>().ok().map(Bound::as_super)
    } else {
        None
    }
}
