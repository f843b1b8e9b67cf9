//! `Task`: a coroutine that the event loop runs.
//!
//! * `mod.rs`: the state;
//! * `step.rs`: the hot path: resumes the coroutine and handles what it awaits;
//! * `foreign.rs`: awaits futures of other classes;
//! * `name.rs`: names; `awaited_by.rs`: who awaits a task, for tools (3.14);
//! * `start.rs`: creates a task, with or without eager start, and registers it for `all_tasks()`;
//! * `cancel.rs`: cancellation requests;
//! * `current.rs`: `current_task()` and `all_tasks()` of asyncio;
//! * `methods.rs`: the Python methods; `finalizer.rs`: reports pending or failed tasks that are
//!   deallocated.
//!
//! A task that is not done is in one of three states: it waits (`fut_waiter` is a pending future
//! that has the task's wake-up as a callback), it is queued, or it is running.

#![forbid(unsafe_code)]

#[cfg(Py_3_14)]
pub mod awaited_by;
mod cancel;
pub mod current;
mod finalizer;
mod foreign;
mod methods;
mod name;
mod start;
mod step;

#[cfg(published_tasks)]
use std::sync::OnceLock;

use pyo3::prelude::*;
use pyo3::types::PyString;

#[cfg(Py_3_14)]
use awaited_by::AwaitedBy;
use name::Name;
pub use start::TaskOptions;
pub use step::{StepCallback, step_as_callback};

use crate::ffi::entries::{self, entered};
#[cfg(published_tasks)]
use crate::ffi::layout::task_list::{self, TaskNode};
#[cfg(published_tasks)]
use crate::ffi::layout::task_object::{self, TaskOffsets};
use crate::ffi::objects::cell::AttachedCell;
use crate::ffi::objects::freelist::{self, FreeList, Recycled};
use crate::ffi::objects::kept_memory::kept_memory;
use crate::ffi::objects::object;
use crate::ffi::objects::slots::{self, Resumed, SelfAwaiting};
#[cfg(not(published_tasks))]
use crate::ffi::objects::weak_registry::RegistryEntry;
use crate::ffi::section::Owned;
use crate::future::{AwaiterAttributes, Future, is_its_own_awaiter, separate_awaiter};
use crate::scheduler::contexts::{ContextSlot, ContextState};

/// Completes the class. Called once, when the module is made.
pub fn install(py: Python<'_>) -> PyResult<()> {
    freelist::install::<Task>(py);
    slots::install_self_awaiting::<Task>(py);
    slots::install_finalizer::<Task>(py);
    AwaiterAttributes::install::<Task>(py)?;
    methods::install_fast_paths(py)?;
    entries::install::<Task>(py);
    entries::install::<step::TaskStep>(py);
    Ok(())
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
#[cfg_attr(published_tasks, repr(C))]
pub struct Task {
    // The order is such that tools find what they look for where asyncio's tasks have it, in the
    // memory of the whole object: `offsets()` tells where that is.
    #[cfg(Py_3_14)]
    awaited_by: AwaitedBy,
    /// In builds without that order first, so that the task leaves the registry before its parts are
    /// dropped.
    #[cfg(not(published_tasks))]
    registry_entry: RegistryEntry,
    cancel_requests: AttachedCell<u32>,
    context_state: AttachedCell<ContextState>,
    must_cancel: AttachedCell<bool>,
    log_destroy_pending: AttachedCell<bool>,
    fut_waiter: AttachedCell<Option<Py<PyAny>>>,
    /// The coroutine. If it is in `other_coroutine`, what tools read in its place.
    coroutine: AttachedCell<Option<Py<PyAny>>>,
    name: Name,
    context: AttachedCell<Option<Py<PyAny>>>,
    #[cfg(published_tasks)]
    registry_entry: TaskNode,
    /// A coroutine whose frames tools cannot read: one that is no object of the interpreter's own.
    #[cfg(published_tasks)]
    other_coroutine: AttachedCell<Option<Py<PyAny>>>,
}

/// Finds what tools read in place of a coroutine that is no object of the interpreter's own: an object
/// that is, whose frame has the name of the coroutine. Tools do not show a stack without it.
#[cfg(published_tasks)]
pub type StandIn = for<'py> fn(&Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>>;

#[cfg(published_tasks)]
static STAND_IN: OnceLock<StandIn> = OnceLock::new();

/// Sets the function for coroutines of this crate.
#[cfg(published_tasks)]
pub fn set_stand_in(stand_in: StandIn) {
    // A second import of the module sets the same one.
    let _ = STAND_IN.set(stand_in);
}

/// Deallocated tasks that are kept: as many as a `gather()` of a thousand awaitables drops at once.
/// With the collector's header a task is about 180 bytes, so they are less than 200 KiB.
const FREE_TASKS: usize = 1024;

impl Recycled for Task {
    fn free_list() -> &'static FreeList {
        kept_memory!(FREE_TASKS)
    }
}

impl Owned for Task {
    fn owner<'a, 'py>(slf: &'a Bound<'py, Self>) -> Option<Borrowed<'a, 'py, PyAny>> {
        Future::owner(slf.as_super())
    }
}

entered!(Task);

impl Task {
    /// A task without a coroutine, as `__new__` leaves it.
    fn uninitialised() -> Self {
        Self {
            #[cfg(Py_3_14)]
            awaited_by: AwaitedBy::new(),
            #[cfg(not(published_tasks))]
            registry_entry: RegistryEntry::new(&current::TASKS),
            #[cfg(published_tasks)]
            registry_entry: TaskNode::new(),
            #[cfg(published_tasks)]
            other_coroutine: AttachedCell::new(None),
            cancel_requests: AttachedCell::new(0),
            coroutine: AttachedCell::new(None),
            context: AttachedCell::new(None),
            fut_waiter: AttachedCell::new(None),
            name: Name::none(),
            context_state: AttachedCell::new(ContextState::Exposed),
            must_cancel: AttachedCell::new(false),
            log_destroy_pending: AttachedCell::new(false),
        }
    }

    /// Where tools find what they read, in the memory of a task.
    #[cfg(published_tasks)]
    fn offsets(slf: &Bound<'_, Self>) -> TaskOffsets {
        let this = slf.get();
        let start = slf.as_ptr().addr();
        let offset = |address: usize| address.wrapping_sub(start);
        TaskOffsets {
            awaited_by: offset((&raw const this.awaited_by).addr()),
            state: offset((&raw const this.awaited_by.state).addr()),
            is_task: offset((&raw const this.awaited_by.is_task).addr()),
            awaited_by_is_set: offset((&raw const this.awaited_by.is_set).addr()),
            coroutine: offset((&raw const this.coroutine).addr()),
            name: offset((&raw const this.name).addr()),
            node: offset((&raw const this.registry_entry).addr()),
        }
    }

    /// Looks for the interpreter's lists of tasks, so that later tasks are there. Returns whether the
    /// lists, and the layout of a task, are as expected.
    #[cfg(published_tasks)]
    pub fn join_lists(module: &Bound<'_, PyModule>, make: &Bound<'_, PyAny>) -> PyResult<bool> {
        let py = module.py();
        let sample = Bound::new(py, Self::new_object())?;
        let joined = task_object::probe(module, make, &Self::offsets(&sample))?;
        for task in current::unlisted_tasks(py).iter().filter(|_| joined) {
            if let Ok(task) = task.cast::<Self>() {
                task.get().registry_entry.unregister(py);
                task.get().registry_entry.register(task);
            }
        }
        Ok(joined)
    }

    /// Whether tasks are in the interpreter's lists.
    #[cfg(Py_3_14)]
    pub fn is_in_lists_of_asyncio() -> bool {
        #[cfg(published_tasks)]
        return task_list::is_known();
        #[cfg(not(published_tasks))]
        false
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

    /// The coroutine.
    #[inline(always)]
    fn coroutine<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        #[cfg(published_tasks)]
        return self.other_coroutine.get_bound(py).or_else(|| self.coroutine.get_bound(py));
        #[cfg(not(published_tasks))]
        self.coroutine.get_bound(py)
    }

    /// Stores or drops the coroutine.
    #[inline(always)]
    fn set_coroutine(&self, py: Python<'_>, coroutine: Option<Bound<'_, PyAny>>) {
        #[cfg(published_tasks)]
        let coroutine = {
            let (coroutine, other) = match coroutine {
                Some(other) if !task_object::has_readable_frames(&other) => {
                    (STAND_IN.get().and_then(|stand_in| stand_in(&other)), Some(other))
                }
                coroutine => (coroutine, None),
            };
            self.other_coroutine.store(py, other);
            coroutine
        };
        self.coroutine.store(py, coroutine);
    }

    #[inline(always)]
    fn context_slot(&self) -> ContextSlot<'_> {
        ContextSlot { object: &self.context, state: &self.context_state }
    }

    fn set_name_text(&self, name: &Bound<'_, PyAny>) -> PyResult<()> {
        let text = if name.is_exact_instance_of::<PyString>() {
            name.clone()
        } else {
            name.str()?.into_any()
        };
        self.name.set_text(text);
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
