//! Awaiting futures of other classes.

use pyo3::exceptions::PyBaseException;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use super::Task;
use super::step::{record_awaited, throw_in_next_step, throw_invalid_await, wakeup_callback};
use crate::ffi::call;
use crate::ffi::exception::Raised;
use crate::ffi::layout::c_future::CFutureClass;
use crate::ffi::objects::object::HasBase;
use crate::interop::imports;

/// Waits for any object with `_asyncio_future_blocking`, by asyncio's general protocol.
pub(super) fn wait_for<'py>(task: &Bound<'py, Task>, awaited: Bound<'py, PyAny>) -> PyResult<()> {
    let py = task.py();
    if let Some(class) = class_of(&awaited)? {
        return wait_for_known(task, awaited, class);
    }
    let blocking = awaited.getattr_opt(intern!(py, "_asyncio_future_blocking"))?;
    let Some(blocking) = blocking.filter(|blocking| !blocking.is_none()) else {
        let text = if imports::isgenerator(py)?.call1((&awaited,))?.is_truthy()? {
            format!(
                "yield was used instead of yield from for generator in task {} with {}",
                task.repr()?,
                awaited.repr()?
            )
        } else {
            format!("Task got bad yield: {}", awaited.repr()?)
        };
        return throw_in_next_step(task, text);
    };
    let own = task.base().event_loop(py)?;
    let same_loop = loop_of(&awaited)?.is(&own);
    let blocking = blocking.is_truthy()?;
    if !same_loop || !blocking || awaited.is(task) {
        return throw_invalid_await(task, &awaited, same_loop, blocking);
    }
    awaited.setattr(intern!(py, "_asyncio_future_blocking"), false)?;
    let wakeup = wakeup_callback(task)?;
    let context = task.get().context_slot().expose(py)?;
    let context = context.unwrap_or_else(|| py.None().into_bound(py));
    call::call_method_in_context(&awaited, intern!(py, "add_done_callback"), &wakeup, &context)?;
    record_awaited(task, awaited)
}

/// Waits for an instance of asyncio's own Future or Task.
fn wait_for_known<'py>(
    task: &Bound<'py, Task>,
    awaited: Bound<'py, PyAny>,
    class: &CFutureClass,
) -> PyResult<()> {
    let py = task.py();
    let own = task.base().event_loop(py)?;
    let same_loop = class.event_loop(&awaited)?.is(&own);
    let blocking = class.is_blocking(&awaited)?;
    if !same_loop || !blocking {
        return throw_invalid_await(task, &awaited, same_loop, blocking);
    }
    class.set_not_blocking(&awaited)?;
    let wakeup = wakeup_callback(task)?;
    let context = task.get().context_slot().expose(py)?;
    let context = context.unwrap_or_else(|| py.None().into_bound(py));
    class.add_done_callback(&awaited, &wakeup, &context)?;
    record_awaited(task, awaited)
}

/// The exception of a done future, if it has one.
pub(super) fn exception_of<'py>(
    future: &Bound<'py, PyAny>,
) -> PyResult<Option<Bound<'py, PyBaseException>>> {
    let py = future.py();
    if let Some(class) = class_of(future)? {
        return Ok(class.result(future).err().map(Raised::into_value));
    }
    let result = call::call_method(future, intern!(py, "result"), []);
    Ok(result.err().map(Raised::into_value))
}

/// The class of `future`, if that is exactly asyncio's own Task or Future.
#[inline(always)]
fn class_of<'py>(future: &Bound<'py, PyAny>) -> PyResult<Option<&'py CFutureClass>> {
    static CLASSES: PyOnceLock<[Option<CFutureClass>; 2]> = PyOnceLock::new();
    let py = future.py();
    let classes = CLASSES.get_or_try_init(py, || -> PyResult<_> {
        Ok([
            CFutureClass::of(imports::asyncio_task(py)?)?,
            CFutureClass::of(imports::asyncio_future(py)?)?,
        ])
    })?;
    Ok(classes.iter().flatten().find(|class| class.is_class_of(future)))
}

/// The loop of a duck-typed future: `get_loop()`, or `_loop` for old ones.
fn loop_of<'py>(future: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = future.py();
    match future.getattr_opt(intern!(py, "get_loop"))? {
        Some(get_loop) => get_loop.call0(),
        None => future.getattr(intern!(py, "_loop")),
    }
}
