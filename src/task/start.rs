//! Making a task, started by the loop or eagerly.

#![forbid(unsafe_code)]

use pyo3::PyClassInitializer;
use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;

use super::{Name, Task, current, step};
use crate::ffi::layout::{context, task_number};
use crate::ffi::objects::object;
use crate::future::{Future, new_object};
use crate::interop::imports;
use crate::scheduler::Scheduler;
use crate::scheduler::contexts::ChosenContext;

/// What `create_task()` and `Task()` take besides the coroutine.
#[derive(Default)]
pub struct TaskOptions<'py> {
    /// Name; `None` numbers the task.
    pub name: Option<Bound<'py, PyAny>>,
    /// Context; `None` copies the current one.
    pub context: Option<Bound<'py, PyAny>>,
    /// Start at once if the loop runs.
    pub eager_start: bool,
    /// The caller knows that it is a coroutine.
    pub is_coroutine: bool,
}

impl Task {
    /// A task on a loop of this crate, queued for its first step (or started).
    ///
    /// # Errors
    /// TypeError for what is not a coroutine; RuntimeError for a closed loop, or in debug mode
    /// for the wrong thread; what an eager start raises beyond the task.
    #[inline]
    pub fn start<'py>(
        scheduler: &Bound<'py, Scheduler>,
        coroutine: Bound<'py, PyAny>,
        options: TaskOptions<'py>,
    ) -> PyResult<Bound<'py, Self>> {
        let py = scheduler.py();
        let future = Future::on(scheduler)?;
        let task = PyClassInitializer::from(future).add_subclass(Self::uninitialised());
        let task = new_object(py, task)?;
        Self::begin(&task, coroutine, options)?;
        Ok(task)
    }

    /// The part of `__init__` after the future's: checks the coroutine and queues the first step.
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
            // Nothing to report about a task that never was one.
            this.log_destroy_pending.set(py, false);
            let text = format!("a coroutine was expected, got {}", coroutine.repr()?);
            return Err(PyTypeError::new_err(text));
        }
        let context = options.context.filter(|context| !context.is_none());
        if cfg!(Py_3_15)
            && let Some(other) = context.as_ref().filter(|context| !context::is_context(context))
        {
            this.log_destroy_pending.set(py, false);
            let name = other.get_type().fully_qualified_name()?;
            let text = format!("a contextvars.Context was expected, got {name}");
            return Err(PyTypeError::new_err(text));
        }
        let context = match slf.as_super().get().scheduler(py) {
            Some(scheduler) if context.is_none() => scheduler.get().contexts.current(py)?,
            _ => ChosenContext::given_or_copied(py, context)?,
        };
        this.context_slot().set(py, context);
        this.fut_waiter.store(py, None);
        this.must_cancel.set(py, false);
        this.cancel_requests.set(py, 0);
        this.log_destroy_pending.set(py, true);
        this.coroutine.store(py, Some(coroutine));
        match options.name.filter(|name| !name.is_none()) {
            Some(name) => this.set_name_text(py, &name)?,
            None => {
                let number = task_number::next(py);
                drop(this.name.replace(py, Some(Name::Number(number))));
            }
        }
        if options.eager_start && slf.loop_is_running()? {
            return Self::start_eagerly(slf);
        }
        step::schedule(slf, None)?;
        this.registry_entry.register(slf);
        Ok(())
    }

    /// Runs the first step now, inside whatever is running.
    fn start_eagerly(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let event_loop = slf.as_super().get().event_loop(py)?;
        let Some(context) = this.context_slot().expose(py)? else { return Ok(()) };
        this.registry_entry.register(slf);
        let result = current::scoped(&event_loop, slf, true, || {
            context::run_in(&context, || step::resume(slf, None))
        });
        if cfg!(Py_3_15) && result.is_err() {
            // Its creator is told, and nothing else knows it.
            this.log_destroy_pending.set(py, false);
        }
        if slf.as_super().get().is_done(py) {
            this.registry_entry.unregister(py);
            drop(this.coroutine.take(py));
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
        let future = self.as_super().get();
        match future.scheduler(py) {
            Some(scheduler) => Ok(scheduler.get().thread.get(py) != 0),
            None => future.event_loop(py)?.call_method0(intern!(py, "is_running"))?.is_truthy(),
        }
    }
}
