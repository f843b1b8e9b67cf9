//! What the loop reports to the user: exceptions that no code has caught, and slow callbacks.

use pyo3::exceptions::PyRuntimeWarning;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyFloat};

use super::Scheduler;
use crate::ffi::call;
use crate::ffi::exception::{Raised, handling, write_unraisable};
use crate::interop::imports;

/// `loop.call_exception_handler({key: value, ...})`, in the order given.
///
/// Runs Python code.
///
/// # Errors
/// What the handler raises: KeyboardInterrupt, SystemExit, or anything if the method is overridden.
pub fn call_exception_handler<'py>(
    event_loop: &Bound<'py, PyAny>,
    entries: &[(&str, Option<&Bound<'py, PyAny>>)],
) -> PyResult<()> {
    let py = event_loop.py();
    let context = PyDict::new(py);
    for (key, value) in entries {
        if let Some(value) = value {
            context.set_item(key, value)?;
        }
    }
    call::call_method(event_loop, intern!(py, "call_exception_handler"), [context.as_any()])?;
    Ok(())
}

/// As [`call_exception_handler`], where asyncio calls it inside an `except` block: the handler sees
/// `raised` as the exception being handled (`sys.exc_info()`).
pub fn report_raised<'py>(
    event_loop: &Bound<'py, PyAny>,
    raised: &Raised<'py>,
    entries: &[(&str, Option<&Bound<'py, PyAny>>)],
) -> PyResult<()> {
    handling(raised.value(), || call_exception_handler(event_loop, entries))
}

/// Whether the interpreter is shutting down so that nothing can be imported any more: a report from
/// a finalizer would only fail.
pub fn too_late_to_report(py: Python<'_>) -> bool {
    match imports::sys(py).and_then(|sys| sys.getattr(intern!(py, "meta_path"))) {
        Ok(meta_path) => meta_path.is_none(),
        Err(_) => true,
    }
}

/// Warns from the finalizer of a coroutine, as the interpreter does for one that was never awaited.
pub fn warn_never_awaited(coroutine: &Bound<'_, PyAny>, name: &str) {
    let py = coroutine.py();
    if too_late_to_report(py) {
        return;
    }
    let message = format!("coroutine '{name}' was never awaited");
    let warned =
        imports::warn(py).and_then(|warn| warn.call1((message, py.get_type::<PyRuntimeWarning>())));
    if let Err(error) = warned {
        write_unraisable(Raised::of(py, error), coroutine);
    }
}

/// Whether a callback that took this long must be reported, by `loop.slow_callback_duration`.
pub fn is_slow(scheduler: &Bound<'_, Scheduler>, seconds: f64) -> PyResult<bool> {
    let limit: f64 =
        scheduler.getattr(intern!(scheduler.py(), "slow_callback_duration"))?.extract()?;
    Ok(seconds >= limit)
}

/// Logs a slow callback.
pub fn slow_callback(
    scheduler: &Bound<'_, Scheduler>,
    described: &Bound<'_, PyAny>,
    seconds: f64,
) -> PyResult<()> {
    let py = scheduler.py();
    scheduler.get().shared.metrics.slow_callbacks.add(1);
    // asyncio logs the task instead of the handle of its step; our steps have no handle.
    let shown = if described.hasattr(intern!(py, "_callback"))? {
        imports::format_handle(py)?.call1((described,))?
    } else {
        described.repr()?.into_any()
    };
    let logger = imports::base_events(py)?.getattr(intern!(py, "logger"))?;
    let format = intern!(py, "Executing %s took %.3f seconds");
    let seconds = PyFloat::new(py, seconds);
    let arguments = [format.as_any(), &shown, seconds.as_any()];
    call::call_method(&logger, intern!(py, "warning"), arguments)?;
    Ok(())
}
