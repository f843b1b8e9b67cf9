//! What the loop reports to the user: exceptions that no code has caught, and slow callbacks.

use pyo3::exceptions::PyRuntimeWarning;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::Scheduler;
use crate::ffi::call;
use crate::ffi::exception::{Raised, handling, write_unraisable};
use crate::interop::imports;
use crate::metrics::Spent;
use crate::reactor::clock;
use crate::sys::thread_usage;

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

/// How a thread has spent its time, as `ferroloop.blocking.Readings` in Python: CPU time and the
/// wait for a processor, in seconds; how often it was found waiting for the GIL and for anything
/// else; the last system call of the latter.
pub fn readings(spent: &Spent) -> (f64, Option<f64>, u32, u32, Option<String>) {
    let name = |call| {
        let name = thread_usage::call_name(call).map(str::to_owned);
        name.unwrap_or_else(|| format!("system call {call}"))
    };
    (
        clock::seconds(spent.cpu),
        spent.run_delay.map(clock::seconds),
        spent.seen_at_gil,
        spent.seen_waiting,
        spent.call.filter(|call| *call >= 0).map(name),
    )
}

/// Logs a slow callback, which started at a time on the loop's clock.
pub fn slow_callback(
    scheduler: &Bound<'_, Scheduler>,
    described: &Bound<'_, PyAny>,
    started: f64,
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
    let this = scheduler.get();
    let spent = match (this.mode.usage.get(py).1, thread_usage::usage(thread_usage::current())) {
        (Some(before), Some(after)) => Some(readings(&Spent::between(before, after))),
        _ => None,
    };
    let log = py.import("ferroloop.blocking")?.getattr("log_slow_callback")?;
    log.call1((logger, described, shown, started, seconds, spent, this.is_debug(py))).map(drop)
}
