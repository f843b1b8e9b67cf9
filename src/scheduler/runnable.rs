//! What the ready queue holds.
//!
//! A [`Runnable`] is an object plus a static table of functions, so the queue knows no concrete
//! type, and a task step or a transport event needs no Python `Handle`.

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::{PyTypeCheck, PyTypeInfo};

use super::Scheduler;
use crate::ffi::exception::{PyOutcome, Raised};
use crate::ffi::objects::cell::Traverse;
use crate::ffi::objects::object;

/// The behaviour of all runnables of one kind: a [`Queued`] whose type is erased.
pub struct RunnableKind {
    /// See [`Queued::run`].
    pub run: for<'py> fn(&Bound<'py, Scheduler>, Runnable) -> PyOutcome<'py, ()>,
    /// See [`Queued::is_cancelled`].
    pub cancelled: fn(&Bound<'_, PyAny>) -> bool,
    /// See [`Queued::SETS_CURRENT_TASK`].
    pub sets_current_task: bool,
    /// See [`Queued::describe`].
    pub describe: for<'py> fn(Python<'py>, &Runnable) -> PyResult<Bound<'py, PyAny>>,
    /// See [`Queued::track`].
    pub track: fn(&Bound<'_, PyAny>),
    /// See [`Queued::left_timers`].
    pub left_timers: fn(&Bound<'_, PyAny>),
    /// See [`Queued::lost_watch`].
    pub lost_watch: fn(&Bound<'_, PyAny>),
}

/// How the ready queue and the timers treat entries of one kind. A class that is queued in only one
/// way implements this itself; for a class that is queued in several ways there is a type for each.
pub trait Queued: 'static {
    /// The class of the entry's object.
    type Object: PyTypeInfo + PyTypeCheck;

    /// Whether it may run while the current task of the previous step is still set, because it
    /// sets its own.
    const SETS_CURRENT_TASK: bool = false;

    /// Does the work. An error ends `run_forever()`: only KeyboardInterrupt, SystemExit and what a
    /// broken exception handler raises.
    fn run<'py>(
        scheduler: &Bound<'py, Scheduler>,
        entry: QueueEntry<'py, Self::Object>,
    ) -> PyOutcome<'py, ()>;

    /// Whether it was cancelled and will do nothing. Runs no Python code.
    fn is_cancelled(_object: &Bound<'_, Self::Object>) -> bool {
        false
    }

    /// The object that debug output shows: a handle or a task.
    fn describe<'py>(entry: &QueueEntry<'py, Self::Object>) -> PyResult<Bound<'py, PyAny>> {
        Ok(entry.object.clone().into_any())
    }

    /// Makes the garbage collector track the object, which kinds may leave untracked while the loop
    /// runs. Runs no Python code.
    fn track(_object: &Bound<'_, Self::Object>) {}

    /// Called when a timer leaves the timers, due or cancelled. Runs no Python code.
    fn left_timers(_object: &Bound<'_, Self::Object>) {}

    /// Called when another owner of its descriptor has replaced or removed its watch. No cell is
    /// borrowed.
    fn lost_watch(_object: &Bound<'_, Self::Object>) {}
}

impl RunnableKind {
    /// The table of `Q`.
    pub const fn of<Q: Queued>() -> Self {
        Self {
            run: |scheduler, runnable| match runnable.into_entry(scheduler.py()) {
                Ok(entry) => Q::run(scheduler, entry),
                Err(error) => Err(Raised::of(scheduler.py(), error)),
            },
            cancelled: |object| object.cast().is_ok_and(|object| Q::is_cancelled(object)),
            sets_current_task: Q::SETS_CURRENT_TASK,
            describe: |py, runnable| Q::describe(&runnable.clone_ref(py).into_entry(py)?),
            track: |object| {
                if let Ok(object) = object.cast() {
                    Q::track(object);
                }
            },
            left_timers: |object| {
                if let Ok(object) = object.cast() {
                    Q::left_timers(object);
                }
            },
            lost_watch: |object| {
                if let Ok(object) = object.cast() {
                    Q::lost_watch(object);
                }
            },
        }
    }
}

/// A [`Runnable`] as its kind sees it.
pub struct QueueEntry<'py, T> {
    /// The object to run.
    pub object: Bound<'py, T>,
    /// The argument, for kinds that have one.
    pub argument: Option<Bound<'py, PyAny>>,
    /// The context to run in, for kinds whose object does not hold it.
    pub context: Option<Bound<'py, PyAny>>,
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
    /// A runnable without argument and context.
    #[inline(always)]
    pub fn new<T>(kind: &'static RunnableKind, object: Bound<'_, T>) -> Self {
        Self { kind, object: object.into_any().unbind(), argument: None, context: None }
    }

    #[inline(always)]
    fn into_entry<T: PyTypeInfo + PyTypeCheck>(
        self,
        py: Python<'_>,
    ) -> PyResult<QueueEntry<'_, T>> {
        Ok(QueueEntry {
            object: object::cast_into(self.object.into_bound(py))?,
            argument: self.argument.map(|argument| argument.into_bound(py)),
            context: self.context.map(|context| context.into_bound(py)),
        })
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
