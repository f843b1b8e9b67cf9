//! What the ready queue holds.
//!
//! A [`Runnable`] is an object plus a static table of functions, so the queue knows no concrete
//! type, and a task step or a transport event needs no Python `Handle`.

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::Scheduler;
use crate::ffi::exception::PyOutcome;
use crate::ffi::objects::cell::Traverse;

/// The behaviour of all runnables of one kind.
pub struct RunnableKind {
    /// Does the work. An error ends `run_forever()`: only KeyboardInterrupt, SystemExit and what a
    /// broken exception handler raises.
    pub run: for<'py> fn(&Bound<'py, Scheduler>, Runnable) -> PyOutcome<'py, ()>,
    /// Whether it was cancelled and will do nothing. Runs no Python code.
    pub cancelled: fn(&Bound<'_, PyAny>) -> bool,
    /// Whether it may run while the current task of the previous step is still set, because it sets
    /// its own.
    pub sets_current_task: bool,
    /// The object that debug output shows: a handle or a task.
    pub describe: for<'py> fn(Python<'py>, &Runnable) -> PyResult<Bound<'py, PyAny>>,
    /// Shows the object to the collector again, if it may be hidden, as handles are while the loop
    /// runs. Runs no Python code.
    pub show: fn(&Bound<'_, PyAny>),
    /// Told when a timer leaves the timers, due or cancelled. Runs no Python code.
    pub left_timers: fn(&Bound<'_, PyAny>),
}

/// An entry of the timers: half the size of the [`Runnable`] that it becomes when due.
pub struct Timer {
    /// The behaviour.
    pub kind: &'static RunnableKind,
    /// The object to run.
    pub object: Py<PyAny>,
}

impl Timer {
    /// Whether it was cancelled. Runs no Python code.
    pub fn is_cancelled(&self, py: Python<'_>) -> bool {
        (self.kind.cancelled)(self.object.bind(py))
    }

    /// Converts it for the ready queue.
    #[inline(always)]
    pub fn into_runnable(self) -> Runnable {
        Runnable { kind: self.kind, object: self.object, argument: None, context: None }
    }
}

/// An entry of the ready queue.
pub struct Runnable {
    /// The behaviour.
    pub kind: &'static RunnableKind,
    /// The object to run.
    pub object: Py<PyAny>,
    /// An argument, where the kind has one.
    pub argument: Option<Py<PyAny>>,
    /// The context to run in, for kinds whose object does not hold it.
    pub context: Option<Py<PyAny>>,
}

impl Runnable {
    /// The context to run in, for kinds whose object does not hold it.
    pub fn own_context<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.context.as_ref().map(|context| context.bind(py).clone())
    }

    /// A runnable without argument and context.
    #[inline(always)]
    pub fn new<T>(kind: &'static RunnableKind, object: Bound<'_, T>) -> Self {
        Self { kind, object: object.into_any().unbind(), argument: None, context: None }
    }

    /// A second entry for the same work.
    pub fn clone_ref(&self, py: Python<'_>) -> Self {
        Self {
            kind: self.kind,
            object: self.object.clone_ref(py),
            argument: self.argument.as_ref().map(|object| object.clone_ref(py)),
            context: self.context.as_ref().map(|object| object.clone_ref(py)),
        }
    }

    /// Reports the objects to the garbage collector.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.object)?;
        visit.call(&self.argument)?;
        visit.call(&self.context)
    }
}

impl Traverse for Option<Runnable> {
    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.as_ref().map_or(Ok(()), |runnable| runnable.traverse(visit))
    }
}

/// For kinds that cannot be cancelled.
pub fn never_cancelled(_object: &Bound<'_, PyAny>) -> bool {
    false
}

/// For kinds whose object is shown in debug output.
pub fn describe_object<'py>(py: Python<'py>, runnable: &Runnable) -> PyResult<Bound<'py, PyAny>> {
    Ok(runnable.object.bind(py).clone())
}

/// For kinds that are never hidden, or do not care when they leave the timers.
pub fn nothing_to_note(_object: &Bound<'_, PyAny>) {}
