//! Cancellation requests.

use pyo3::exceptions::PyRecursionError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyDict};

use super::Task;
use crate::ffi::objects::object::{self, HasBase};
use crate::ffi::section;
use crate::future::Future;

/// The interpreter's message when the recursion of asyncio's `cancel()` is too deep.
const RECURSION_MESSAGE: &str = "maximum recursion depth exceeded while calling a Python object";

impl Task {
    /// `Task.cancel()`: cancels the awaited future, or else throws CancelledError into the
    /// coroutine at its next step. Returns false if the task is done.
    ///
    /// A chain of tasks that await each other is walked iteratively, since its length is unbounded.
    ///
    /// # Errors
    /// RecursionError if the chain is a cycle; exceptions of a foreign `cancel()`.
    pub fn request_cancel<'py>(
        slf: &Bound<'py, Self>,
        message: Option<Bound<'py, PyAny>>,
    ) -> PyResult<bool> {
        let py = slf.py();
        let mut task = slf.clone();
        let mut parent: Option<Bound<'py, Self>> = None;
        // Brent's algorithm: in a cycle the task reached after 1, 2, 4, 8 ... steps is reached
        // again.
        let (mut mark, mut steps, mut limit) = (slf.clone(), 0_usize, 1_usize);
        loop {
            let this = task.get();
            let future = task.base();
            future.mark_retrieved(py);
            if future.is_done(py) {
                return Ok(parent.is_some_and(|parent| parent.cancel_at_next_step(&message)));
            }
            this.cancel_requests.set(py, this.cancel_requests.get(py).saturating_add(1));
            let Some(awaited) = this.fut_waiter.get_bound(py) else {
                return Ok(task.cancel_at_next_step(&message));
            };
            let Some(next) = as_task(&awaited)? else {
                if cancel_awaited(&awaited, message.clone())? {
                    return Ok(true);
                }
                return Ok(task.cancel_at_next_step(&message));
            };
            if next.is(&mark) {
                return Err(PyRecursionError::new_err(RECURSION_MESSAGE));
            }
            steps += 1;
            if steps == limit {
                (mark, steps, limit) = (next.clone(), 0, limit.saturating_mul(2));
            }
            parent = Some(std::mem::replace(&mut task, next));
        }
    }
}

/// `awaited` as a task whose `cancel()` is [`Task::request_cancel`]; `None` if a subclass or the
/// instance replaces the method.
fn as_task<'py>(awaited: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, Task>>> {
    let Ok(task) = awaited.cast::<Task>() else { return Ok(None) };
    if object::is_exactly::<Task>(awaited) {
        return Ok(Some(task.clone()));
    }
    let py = awaited.py();
    let method = awaited.getattr(intern!(py, "cancel"))?;
    if !method.is_exact_instance_of::<PyCFunction>() {
        return Ok(None);
    }
    let own = py.get_type::<Task>().getattr(intern!(py, "cancel"))?;
    let own = own.call_method1(intern!(py, "__get__"), (awaited,))?;
    Ok(method.eq(own)?.then(|| task.clone()))
}

trait CancelAtNextStep<'py> {
    /// Returns true: the next step, which is queued already, will throw CancelledError.
    fn cancel_at_next_step(&self, message: &Option<Bound<'py, PyAny>>) -> bool;
}

impl<'py> CancelAtNextStep<'py> for Bound<'py, Task> {
    fn cancel_at_next_step(&self, message: &Option<Bound<'py, PyAny>>) -> bool {
        let py = self.py();
        self.get().must_cancel.set(py, true);
        self.base().set_cancel_message(py, message.clone());
        true
    }
}

/// Calls `awaited.cancel(msg=message)`.
pub(super) fn cancel_awaited<'py>(
    awaited: &Bound<'py, PyAny>,
    message: Option<Bound<'py, PyAny>>,
) -> PyResult<bool> {
    let py = awaited.py();
    if object::is_exactly::<Future>(awaited) {
        let future = awaited.cast::<Future>()?;
        return section::enter_of(future, || Future::cancel(future, message));
    }
    if object::is_exactly::<Task>(awaited) {
        let task = awaited.cast::<Task>()?;
        return section::enter_of(task, || Task::request_cancel(task, message));
    }
    let keywords = PyDict::new(py);
    keywords.set_item(intern!(py, "msg"), message)?;
    awaited.call_method(intern!(py, "cancel"), (), Some(&keywords))?.is_truthy()
}
