//! Cancellation requests.

#![forbid(unsafe_code)]

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::Task;
use crate::ffi::object;
use crate::future::Future;

impl Task {
    /// `Task.cancel()`: asks what the task awaits to be cancelled, or has CancelledError thrown
    /// into the coroutine at its next step. False if the task is done.
    ///
    /// A chain of tasks that await each other is walked in a loop: its length is unbounded.
    pub fn request_cancel<'py>(
        slf: &Bound<'py, Self>,
        message: Option<Bound<'py, PyAny>>,
    ) -> PyResult<bool> {
        let py = slf.py();
        let mut task = slf.clone();
        let mut parent: Option<Bound<'py, Self>> = None;
        loop {
            let this = task.get();
            let future = task.as_super().get();
            future.forget_traceback(py);
            if future.is_done(py) {
                return Ok(parent.is_some_and(|parent| parent.cancel_at_next_step(&message)));
            }
            this.cancel_requests.set(py, this.cancel_requests.get(py).saturating_add(1));
            match this.fut_waiter.get_bound(py) {
                None => return Ok(task.cancel_at_next_step(&message)),
                Some(awaited) if object::is_exactly::<Self>(&awaited) => {
                    let next = awaited.cast_into::<Self>()?;
                    parent = Some(std::mem::replace(&mut task, next));
                }
                Some(awaited) => {
                    if cancel_awaited(&awaited, message.clone())? {
                        return Ok(true);
                    }
                    return Ok(task.cancel_at_next_step(&message));
                }
            }
        }
    }
}

trait CancelAtNextStep<'py> {
    /// Always true: the step is queued already.
    fn cancel_at_next_step(&self, message: &Option<Bound<'py, PyAny>>) -> bool;
}

impl<'py> CancelAtNextStep<'py> for Bound<'py, Task> {
    fn cancel_at_next_step(&self, message: &Option<Bound<'py, PyAny>>) -> bool {
        let py = self.py();
        self.get().must_cancel.set(py, true);
        self.as_super().get().set_cancel_message(py, message.clone());
        true
    }
}

/// `awaited.cancel(msg=message)`.
pub(super) fn cancel_awaited<'py>(
    awaited: &Bound<'py, PyAny>,
    message: Option<Bound<'py, PyAny>>,
) -> PyResult<bool> {
    let py = awaited.py();
    if object::is_exactly::<Future>(awaited) {
        return Future::cancel(awaited.cast::<Future>()?, message);
    }
    if object::is_exactly::<Task>(awaited) {
        return Task::request_cancel(awaited.cast::<Task>()?, message);
    }
    let keywords = PyDict::new(py);
    keywords.set_item(intern!(py, "msg"), message)?;
    awaited.call_method(intern!(py, "cancel"), (), Some(&keywords))?.is_truthy()
}
