//! `asyncio.current_task()` and `asyncio.all_tasks()`.
//!
//! asyncio stores the current task of each loop in a dict (up to 3.13) or in the thread state (from
//! 3.14 on). Steps of our tasks on our loop set it and do not reset it: consecutive task steps
//! overwrite it. The scheduler resets it before anything else runs, and at the end of a turn if the
//! ready queue is empty.
//!
//! A `WeakSet` entry costs more than a task, so each task registers itself when it starts
//! (`start.rs`): from 3.14 on in the interpreter's list of tasks (`ffi/layout/task_list.rs`), and
//! before, or if that is not found, in a registry of this crate, over which
//! `python/ferroloop/_task_registry.py` makes asyncio's own set iterate as well.

use pyo3::intern;
use pyo3::prelude::*;

use crate::ffi::exception::{OrRaise, PyOutcome, Raised, write_unraisable};
#[cfg(published_tasks)]
use crate::ffi::layout::task_list;
#[cfg(not(published_tasks))]
use crate::ffi::objects::weak_registry::WeakRegistry;
use crate::scheduler::Scheduler;
use crate::scheduler::report::report_raised;

/// All tasks of this crate that are not done.
#[cfg(not(published_tasks))]
pub static TASKS: WeakRegistry = WeakRegistry::new();

/// New references to the tasks of this crate that are not done and that asyncio itself does not list.
pub fn unlisted_tasks(py: Python<'_>) -> Vec<Bound<'_, PyAny>> {
    #[cfg(published_tasks)]
    return task_list::snapshot(py);
    #[cfg(not(published_tasks))]
    TASKS.snapshot(py)
}

/// Forgets all tasks that asyncio itself does not list.
#[cfg(Py_3_14)]
pub fn clear_unlisted_tasks(py: Python<'_>) {
    #[cfg(published_tasks)]
    task_list::clear(py);
    #[cfg(not(published_tasks))]
    TASKS.clear(py);
}

#[cfg(not(Py_3_14))]
mod storage {
    //! A dict from loop to task, which asyncio's C code reads as well.

    use pyo3::exceptions::PyRuntimeError;
    use pyo3::prelude::*;
    use pyo3::sync::PyOnceLock;
    use pyo3::types::PyDict;

    use crate::ffi::objects::object::{dict_discard, dict_set, dict_set_default};

    fn current_tasks(py: Python<'_>) -> PyResult<&Bound<'_, PyDict>> {
        static CELL: PyOnceLock<Py<PyDict>> = PyOnceLock::new();
        CELL.import(py, "asyncio.tasks", "_current_tasks")
    }

    pub fn enter(event_loop: &Bound<'_, PyAny>, task: &Bound<'_, PyAny>) -> PyResult<()> {
        let current = dict_set_default(current_tasks(event_loop.py())?, event_loop, task)?;
        if current.is(task) { Ok(()) } else { Err(other_task_error(task, &current)) }
    }

    #[cold]
    fn other_task_error(task: &Bound<'_, PyAny>, other: &Bound<'_, PyAny>) -> PyErr {
        let text = || -> PyResult<String> {
            Ok(format!(
                "Cannot enter into task {} while another task {} is being executed.",
                task.repr()?,
                other.repr()?
            ))
        };
        text().map_or_else(|error| error, PyRuntimeError::new_err)
    }

    #[inline(always)]
    pub fn overwrite(event_loop: &Bound<'_, PyAny>, task: &Bound<'_, PyAny>) -> PyResult<()> {
        dict_set(current_tasks(event_loop.py())?, event_loop, task)
    }

    pub fn clear(event_loop: &Bound<'_, PyAny>) -> PyResult<()> {
        // Code that runs nested steps may have cleared it already.
        dict_discard(current_tasks(event_loop.py())?, event_loop)
    }

    pub fn get<'py>(event_loop: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
        current_tasks(event_loop.py())?.get_item(event_loop)
    }
}

#[cfg(Py_3_14)]
mod storage {
    //! The thread state, accessed through asyncio's functions where direct access is impossible.

    use pyo3::prelude::*;

    use crate::ffi::layout::running_task;
    use crate::interop::imports;

    #[inline(always)]
    pub fn enter(event_loop: &Bound<'_, PyAny>, task: &Bound<'_, PyAny>) -> PyResult<()> {
        if running_task::enter(event_loop, task) {
            return Ok(());
        }
        imports::enter_task(event_loop.py())?.call1((event_loop, task)).map(drop)
    }

    #[inline(always)]
    pub fn overwrite(event_loop: &Bound<'_, PyAny>, task: &Bound<'_, PyAny>) -> PyResult<()> {
        if running_task::replace(event_loop, Some(task)) {
            return Ok(());
        }
        imports::swap_current_task(event_loop.py())?.call1((event_loop, task)).map(drop)
    }

    #[inline(always)]
    pub fn clear(event_loop: &Bound<'_, PyAny>) -> PyResult<()> {
        if running_task::replace(event_loop, None) {
            return Ok(());
        }
        let py = event_loop.py();
        imports::swap_current_task(py)?.call1((event_loop, py.None())).map(drop)
    }

    #[inline(always)]
    pub fn get<'py>(event_loop: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
        if let Some(task) = running_task::get(event_loop) {
            return Ok(task);
        }
        let py = event_loop.py();
        let task = imports::current_task(py)?.call1((event_loop,))?;
        Ok((!task.is_none()).then_some(task))
    }
}

/// The current task of a loop.
pub fn get<'py>(event_loop: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
    storage::get(event_loop)
}

/// Makes `task` the current one until the scheduler calls [`leave`].
#[inline(always)]
pub fn enter(scheduler: &Bound<'_, Scheduler>, task: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = scheduler.py();
    if scheduler.get().has_current_task(py) {
        return storage::overwrite(scheduler, task);
    }
    storage::enter(scheduler, task)?;
    scheduler.get().call_to_leave_task(py, leave);
    Ok(())
}

fn leave(scheduler: &Bound<'_, Scheduler>) {
    if let Err(error) = storage::clear(scheduler) {
        let py = scheduler.py();
        report_leave_failure(scheduler, Raised::of(py, error));
    }
}

/// Reports a failure to leave a task, as happens from 3.14 on in a child that was forked inside of
/// a callback. The message is asyncio's, whose wake-up callback fails then.
#[cold]
fn report_leave_failure<'py>(scheduler: &Bound<'py, Scheduler>, raised: Raised<'py>) {
    let py = scheduler.py();
    let message = intern!(py, "Exception in callback Task.task_wakeup()");
    let entries =
        [("message", Some(message.as_any())), ("exception", Some(raised.value().as_any()))];
    if let Err(error) = report_raised(scheduler, &raised, &entries) {
        write_unraisable(Raised::of(py, error), scheduler);
    }
}

/// Runs `body` with `task` as the current one, then restores the previous one: for tasks that start
/// eagerly inside another, and for foreign loops.
pub fn run_as_current<'py>(
    event_loop: &Bound<'py, PyAny>,
    task: &Bound<'py, PyAny>,
    nested: bool,
    body: impl FnOnce() -> PyOutcome<'py, ()>,
) -> PyOutcome<'py, ()> {
    let py = event_loop.py();
    let previous = if nested { storage::get(event_loop).or_raise(py)? } else { None };
    let entered = match previous {
        Some(_) => storage::overwrite(event_loop, task),
        None => storage::enter(event_loop, task),
    };
    entered.or_raise(py)?;
    let result = body();
    let restored = match previous {
        Some(previous) => storage::overwrite(event_loop, &previous),
        None => storage::clear(event_loop),
    };
    result.and(restored.or_raise(py))
}
