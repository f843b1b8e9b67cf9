//! Creates tasks, with or without eager start.

use pyo3::PyClassInitializer;
use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;

use super::{Task, current, step};
use crate::ffi::layout::{context, task_number};
use crate::ffi::objects::object::{self, HasBase};
use crate::future::{Future, new_object};
use crate::interop::imports;
use crate::scheduler::Scheduler;
use crate::scheduler::contexts::ChosenContext;

/// The parameters of `create_task()` and `Task()` in addition to the coroutine.
#[derive(Default)]
pub struct TaskOptions<'py> {
    /// The name; by default `Task-N`.
    pub name: Option<Bound<'py, PyAny>>,
    /// The context; by default a copy of the current one.
    pub context: Option<Bound<'py, PyAny>>,
    /// Whether to start at once if the loop is running.
    pub eager_start: bool,
    /// Whether the caller has checked that it is a coroutine.
    pub is_coroutine: bool,
}

impl Task {
    /// Creates a task on a loop of this crate and queues its first step, or runs it (eager start).
    ///
    /// # Errors
    /// TypeError if the object is not a coroutine; RuntimeError if the loop is closed or, in debug
    /// mode, if this is not its thread; KeyboardInterrupt and SystemExit of an eager start.
    #[inline]
    pub fn start<'py>(
        scheduler: &Bound<'py, Scheduler>,
        coroutine: Bound<'py, PyAny>,
        options: TaskOptions<'py>,
    ) -> PyResult<Bound<'py, Self>> {
        let py = scheduler.py();
        let future = Future::for_loop(scheduler)?;
        let task = PyClassInitializer::from(future).add_subclass(Self::uninitialised());
        let task = new_object(py, task)?;
        Self::begin(&task, coroutine, options)?;
        Ok(task)
    }

    /// The task's part of `__init__`: checks the coroutine and queues the first step.
    #[inline]
    pub(super) fn begin<'py>(
        slf: &Bound<'py, Self>,
        coroutine: Bound<'py, PyAny>,
        options: TaskOptions<'py>,
    ) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        if !options.is_coroutine
            && !object::is_native_coroutine(&coroutine)
            && !imports::iscoroutine(py)?.call1((&coroutine,))?.is_truthy()?
        {
            // A task that never started must not be reported.
            this.log_destroy_pending.set(py, false);
            let text = format!("a coroutine was expected, got {}", coroutine.repr()?);
            return Err(PyTypeError::new_err(text));
        }
        let context = options.context.filter(|context| !context.is_none());
        let no_context = |object: &&Bound<'_, PyAny>| cfg!(Py_3_15) && !context::is_context(object);
        if let Some(other) = context.as_ref().filter(no_context) {
            this.log_destroy_pending.set(py, false);
            let name = other.get_type().fully_qualified_name()?;
            let text = format!("a contextvars.Context was expected, got {name}");
            return Err(PyTypeError::new_err(text));
        }
        let context = match slf.base().scheduler(py) {
            Some(scheduler) if context.is_none() => scheduler.get().contexts().current(py)?,
            _ => ChosenContext::given_or_copied(py, context)?,
        };
        this.context_slot().set(py, context);
        this.fut_waiter.store(py, None);
        this.must_cancel.set(py, false);
        this.cancel_requests.set(py, 0);
        this.log_destroy_pending.set(py, true);
        this.set_coroutine(py, Some(coroutine));
        match options.name.filter(|name| !name.is_none()) {
            Some(name) => this.set_name_text(&name)?,
            None => this.name.set_number(py, task_number::next(py)),
        }
        if options.eager_start && slf.loop_is_running()? {
            return Self::start_eagerly(slf);
        }
        step::schedule(slf, None)?;
        this.registry_entry.register(slf);
        Ok(())
    }

    /// Runs the first step at once, inside the current callback or task.
    fn start_eagerly(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let event_loop = slf.base().event_loop(py)?;
        let Some(context) = this.context_slot().expose(py)? else { return Ok(()) };
        this.registry_entry.register(slf);
        let result = current::run_as_current(&event_loop, slf, true, || {
            context::run_in(&context, || step::resume(slf, None))
        });
        if cfg!(Py_3_15) && result.is_err() {
            // The error is raised to the creator, and nothing else has a reference to the task.
            this.log_destroy_pending.set(py, false);
        }
        if slf.base().is_done(py) {
            this.registry_entry.unregister(py);
            this.set_coroutine(py, None);
        }
        result.map_err(PyErr::from)
    }
}

trait LoopIsRunning {
    fn loop_is_running(&self) -> PyResult<bool>;
}

impl LoopIsRunning for Bound<'_, Task> {
    fn loop_is_running(&self) -> PyResult<bool> {
        let py = self.py();
        let future = self.base();
        match future.scheduler(py) {
            Some(scheduler) => Ok(scheduler.get().is_running(py)),
            None => future.event_loop(py)?.call_method0(intern!(py, "is_running"))?.is_truthy(),
        }
    }
}
