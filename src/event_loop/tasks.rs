//! `create_future()` and `create_task()`.

use std::ffi::CStr;

use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::EventLoop;
use super::parameters::missing;
use crate::ffi::method::{Arguments, FastMethod, NoArguments};
use crate::future::{Future, new_object};
use crate::interop::imports;
use crate::task::{Task, TaskOptions};

/// `create_future()`.
pub struct CreateFuture;

impl NoArguments for CreateFuture {
    type Class = EventLoop;
    const NAME: &'static CStr = c"create_future";
    const DOC: &'static CStr =
        c"create_future($self, /)\n--\n\nReturn a new Future of this loop.\n";

    #[inline(always)]
    fn call<'py>(slf: &Bound<'py, EventLoop>) -> PyResult<Bound<'py, PyAny>> {
        Ok(new_object(slf.py(), Future::for_loop(slf.as_super())?)?.into_any())
    }
}

/// `create_task(coro, *, name=None, context=None, ...)`.
pub struct CreateTask;

impl FastMethod for CreateTask {
    type Class = EventLoop;
    const COUNTED: bool = false;
    const NAME: &'static CStr = c"create_task";
    const DOC: &'static CStr =
        c"create_task($self, coro, /, *, name=None, context=None, eager_start=None)\n--\n\n\
        Schedule a coroutine; return its Task.\n";

    #[inline]
    fn call<'py>(
        slf: &Bound<'py, EventLoop>,
        arguments: &Arguments<'_, 'py>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let scheduler = slf.as_super();
        scheduler.get().check_open(py)?;
        let factory = slf.get().task_factory.get_bound(py);
        if factory.is_some_and(|factory| !is_eager_factory(&factory)) {
            return by_asyncio(slf, arguments);
        }
        let eager = slf.get().task_factory.is_some(py);
        let mut coroutine = arguments.get(0).map(|coroutine| coroutine.to_owned());
        let mut options = TaskOptions { eager_start: eager, ..TaskOptions::default() };
        let mut known = true;
        arguments.for_each_keyword(|keyword, value| {
            match keyword.to_str()? {
                "coro" if coroutine.is_none() => coroutine = Some(value.to_owned()),
                "name" => options.name = Some(value.to_owned()),
                "context" => options.context = Some(value.to_owned()),
                "eager_start" if takes_eager_start(py)? => {
                    options.eager_start = value.is_truthy()?;
                }
                _ => known = false,
            }
            Ok(())
        })?;
        if !known {
            return by_asyncio(slf, arguments);
        }
        let Some(coroutine) = coroutine else {
            return Err(missing(arguments, &["coro"]));
        };
        if arguments.len() > 1 {
            return Err(PyTypeError::new_err(format!(
                "BaseEventLoop.create_task() takes 2 positional arguments but {} were given",
                arguments.len() + 1
            )));
        }
        Ok(Task::start(scheduler, coroutine, options)?.into_any())
    }
}

/// Whether `factory` is `asyncio.eager_task_factory`: our tasks start eagerly without calling it.
#[cfg(Py_3_12)]
fn is_eager_factory(factory: &Bound<'_, PyAny>) -> bool {
    imports::eager_task_factory(factory.py()).is_ok_and(|eager| factory.is(eager))
}

#[cfg(not(Py_3_12))]
fn is_eager_factory(_factory: &Bound<'_, PyAny>) -> bool {
    false
}

/// Whether `create_task()` of the running release passes the keyword to the task: 3.14 does, and so
/// do some releases of 3.13.
fn takes_eager_start(py: Python<'_>) -> PyResult<bool> {
    const VARIABLE_KEYWORDS: u32 = 0x08;
    if cfg!(Py_3_14) {
        return Ok(true);
    }
    let function = imports::base_event_loop(py)?.getattr(intern!(py, "create_task"))?;
    let Some(code) = function.getattr_opt(intern!(py, "__code__"))? else { return Ok(false) };
    let flags: u32 = code.getattr(intern!(py, "co_flags"))?.extract()?;
    Ok(flags & VARIABLE_KEYWORDS != 0)
}

/// Calls asyncio's own `create_task()`: the arguments of a task factory, and the errors, differ
/// from release to release.
#[cold]
fn by_asyncio<'py>(
    slf: &Bound<'py, EventLoop>,
    arguments: &Arguments<'_, 'py>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = slf.py();
    let keywords = PyDict::new(py);
    arguments.for_each_keyword(|keyword, value| keywords.set_item(keyword, value))?;
    let all = std::iter::once(slf.clone().into_any()).chain(arguments.tuple_from(0)?.iter());
    let all = PyTuple::new(py, all.collect::<Vec<_>>())?;
    imports::base_event_loop(py)?.getattr("create_task")?.call(all, Some(&keywords))
}
