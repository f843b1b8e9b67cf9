//! The tasks that await a task, kept where tools look for them (`ffi/layout/task_object.rs`).

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PySet, PyType};

use super::Task;
use crate::ffi::objects::cell::AttachedCell;
use crate::ffi::objects::object;
use crate::ffi::section;
use crate::interop::imports;

/// The tasks that await a task. Most have at most one.
///
/// The order of the fields is asyncio's.
#[repr(C)]
pub struct AwaitedBy {
    /// A task, or a set of tasks.
    waiters: AttachedCell<Option<Py<PyAny>>>,
    /// asyncio's state, always that of a pending task.
    pub(super) state: u32,
    /// Tells tools a task from a future.
    pub(super) is_task: u8,
    pub(super) is_set: AttachedCell<bool>,
}

impl AwaitedBy {
    pub fn new() -> Self {
        Self {
            waiters: AttachedCell::new(None),
            state: 0,
            is_task: 1,
            is_set: AttachedCell::new(false),
        }
    }

    /// Adds a task. Runs Python code only if tasks are compared: if there are several.
    ///
    /// # Errors
    /// MemoryError; exceptions of the `__hash__` and `__eq__` of a subclass.
    #[inline(always)]
    pub fn add(&self, waiter: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = waiter.py();
        if self.waiters.is_some(py) {
            return self.add_another(waiter);
        }
        self.waiters.store(py, Some(waiter.clone()));
        Ok(())
    }

    #[cold]
    fn add_another(&self, waiter: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = waiter.py();
        let Some(present) = self.waiters.get_bound(py) else { return self.add(waiter) };
        if self.is_set.get(py) {
            return present.cast::<PySet>()?.add(waiter);
        }
        if present.is(waiter) {
            return Ok(());
        }
        let both = PySet::new(py, [&present, waiter])?;
        self.is_set.set(py, true);
        self.waiters.store(py, Some(both.into_any()));
        Ok(())
    }

    /// Removes a task, if it is there.
    ///
    /// # Errors
    /// As [`AwaitedBy::add`].
    #[inline(always)]
    pub fn discard(&self, waiter: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = waiter.py();
        if self.waiters.holds(py, waiter) {
            self.waiters.store(py, None);
            return Ok(());
        }
        if self.is_set.get(py) { self.discard_from_set(waiter) } else { Ok(()) }
    }

    #[cold]
    fn discard_from_set(&self, waiter: &Bound<'_, PyAny>) -> PyResult<()> {
        match self.waiters.get_bound(waiter.py()) {
            Some(present) => present.cast::<PySet>()?.discard(waiter).map(drop),
            None => Ok(()),
        }
    }

    /// All of them.
    pub fn list<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        match self.waiters.get_bound(py) {
            None => Ok(Vec::new()),
            Some(set) if self.is_set.get(py) => set.try_iter()?.collect(),
            Some(task) => Ok(vec![task]),
        }
    }

    /// Removes all of them; the caller drops what was there.
    pub fn clear(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.is_set.set(py, false);
        self.waiters.take(py)
    }

    pub fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.waiters.visit(visit)
    }
}

/// Records that `task` awaits `awaited`, which may be any future.
#[inline(always)]
pub fn record<'py>(awaited: &Bound<'py, PyAny>, task: &Bound<'py, Task>) -> PyResult<()> {
    match exact_task(awaited) {
        Some(awaited) => section::enter_of(awaited, || awaited.get().awaited_by.add(task)),
        None => Ok(()),
    }
}

/// Records that `task` no longer awaits `awaited`.
#[inline(always)]
pub fn forget<'py>(awaited: &Bound<'py, PyAny>, task: &Bound<'py, Task>) -> PyResult<()> {
    match exact_task(awaited) {
        Some(awaited) => section::enter_of(awaited, || awaited.get().awaited_by.discard(task)),
        None => Ok(()),
    }
}

/// `future_add_to_awaited_by()`: tasks of this crate have their own list of waiters, which asyncio's
/// function does not know. The waiters are tasks of this crate, or futures of asyncio.
///
/// # Errors
/// As [`AwaitedBy::add`].
pub fn add<'py>(future: &Bound<'py, PyAny>, waiter: &Bound<'py, PyAny>) -> PyResult<()> {
    match future.cast::<Task>() {
        Ok(task) if is_readable(waiter)? => {
            section::enter_of(task, || task.get().awaited_by.add(waiter))
        }
        Ok(_) => Ok(()),
        Err(_) => imports::add_to_awaited_by(future.py())?.call1((future, waiter)).map(drop),
    }
}

/// `future_discard_from_awaited_by()`.
///
/// # Errors
/// As [`AwaitedBy::add`].
pub fn discard<'py>(future: &Bound<'py, PyAny>, waiter: &Bound<'py, PyAny>) -> PyResult<()> {
    match future.cast::<Task>() {
        Ok(task) => section::enter_of(task, || task.get().awaited_by.discard(waiter)),
        Err(_) => imports::discard_from_awaited_by(future.py())?.call1((future, waiter)).map(drop),
    }
}

/// The tasks that are recorded as waiting for `task`.
///
/// # Errors
/// MemoryError.
pub fn recorded<'py>(task: &Bound<'py, Task>) -> PyResult<Vec<Bound<'py, PyAny>>> {
    section::enter_of(task, || task.get().awaited_by.list(task.py()))
}

/// Whether tools can read the memory of `waiter` as that of a future or a task of asyncio.
fn is_readable(waiter: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = waiter.py();
    if waiter.cast::<Task>().is_ok() {
        return Ok(true);
    }
    // By the actual type: objects of this crate have another `__class__`.
    let class = imports::asyncio_future(py)?.cast::<PyType>()?;
    waiter.get_type().is_subclass(class)
}

#[inline(always)]
fn exact_task<'a, 'py>(object: &'a Bound<'py, PyAny>) -> Option<&'a Bound<'py, Task>> {
    if object::is_exactly::<Task>(object) { object.cast::<Task>().ok() } else { None }
}
