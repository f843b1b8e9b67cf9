//! How a handle runs, and how its exceptions are reported.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

use super::Handle;
use super::arguments::BoundArguments;
#[cfg(Py_3_14)]
use super::threadsafe;
use crate::ffi::call;
use crate::ffi::exception::{OrRaise, PyOutcome, Raised};
use crate::ffi::layout::context;
use crate::ffi::objects::object;
use crate::interop::imports;
use crate::scheduler::contexts::ContextSlot;
use crate::scheduler::report::report_raised;
use crate::scheduler::{QueueEntry, Queued, RunnableKind, Scheduler};

/// How the ready queue runs a handle.
pub static HANDLE: RunnableKind = RunnableKind::of::<Handle>();

impl Queued for Handle {
    type Object = Self;

    #[inline(always)]
    fn run<'py>(
        scheduler: &Bound<'py, Scheduler>,
        entry: QueueEntry<'py, Self>,
    ) -> PyOutcome<'py, ()> {
        #[cfg(Py_3_14)]
        if entry.object.get().threadsafe.get(scheduler.py()) {
            return threadsafe::run(scheduler, &entry.object);
        }
        run_owned(scheduler, &entry.object)
    }

    fn is_cancelled(handle: &Bound<'_, Self>) -> bool {
        handle.get().cancelled.get(handle.py())
    }

    fn track(handle: &Bound<'_, Self>) {
        Handle::track(handle);
    }
}

/// Runs a handle that the queue owned. If it has other owners now, the garbage collector must track
/// it.
#[inline(always)]
pub(super) fn run_owned<'py>(
    scheduler: &Bound<'py, Scheduler>,
    handle: &Bound<'py, Handle>,
) -> PyOutcome<'py, ()> {
    let py = handle.py();
    let contexts = scheduler.get().contexts();
    let result = run(handle, |slot| slot.to_enter(py, contexts));
    if object::is_shared(handle) {
        Handle::track(handle);
    } else {
        handle.get().context_slot().reclaim(py, contexts);
    }
    result
}

/// Runs the callback in its context; an exception goes to the loop's exception handler.
#[inline(always)]
pub(super) fn run<'py>(
    handle: &Bound<'py, Handle>,
    context: impl FnOnce(ContextSlot<'_>) -> PyResult<Option<Bound<'py, PyAny>>>,
) -> PyOutcome<'py, ()> {
    let py = handle.py();
    let this = handle.get();
    if this.cancelled.get(py) {
        return Ok(());
    }
    let context = context(this.context_slot()).or_raise(py)?;
    let (Some(callback), Some(context)) = (this.callback.get_bound(py), context) else {
        return Ok(());
    };
    let arguments = this.arguments.inspect(py, |arguments| arguments.bound(py));
    let result = if context::is_context(&context) {
        context::run_in(&context, || arguments.call(&callback))
    } else {
        run_in_foreign_context(&context, &callback, &arguments)
    };
    match result {
        Ok(_) => Ok(()),
        Err(raised) if raised.stops_the_loop() => Err(raised),
        Err(raised) => {
            let reported = report(handle, &callback, &arguments, raised);
            reported.or_raise(py)
        }
    }
}

/// `context.run(callback, *arguments)` for an object that is no `contextvars.Context` but has its
/// methods.
#[cold]
fn run_in_foreign_context<'py>(
    context: &Bound<'py, PyAny>,
    callback: &Bound<'py, PyAny>,
    arguments: &BoundArguments<'py>,
) -> PyOutcome<'py, Bound<'py, PyAny>> {
    let py = context.py();
    let prepared = || -> PyResult<_> {
        let run = context.getattr(intern!(py, "run"))?;
        let rest = arguments.to_tuple(py)?.unwrap_or_else(|| PyTuple::empty(py));
        let all = std::iter::once(callback.clone()).chain(rest.iter()).collect::<Vec<_>>();
        Ok((run, PyTuple::new(py, all)?))
    };
    let (run, all) = prepared().or_raise(py)?;
    call::call_tuple(&run, &all)
}

/// Reports an exception of the callback of `handle`, as if the loop had run it.
#[cold]
pub fn report_exception<'py>(handle: &Bound<'py, Handle>, raised: Raised<'py>) -> PyResult<()> {
    let py = handle.py();
    let this = handle.get();
    let Some(callback) = this.callback.get_bound(py) else { return Ok(()) };
    let arguments = this.arguments.inspect(py, |arguments| arguments.bound(py));
    report(handle, &callback, &arguments, raised)
}

#[cold]
fn report<'py>(
    handle: &Bound<'py, Handle>,
    callback: &Bound<'py, PyAny>,
    arguments: &BoundArguments<'py>,
    raised: Raised<'py>,
) -> PyResult<()> {
    let py = handle.py();
    let this = handle.get();
    let Some(event_loop) = this.event_loop.get_bound(py) else { return Ok(()) };
    // asyncio formats what the handle holds now, since a callback may have cancelled its own
    // handle.
    let callback = this.callback.get_bound(py).unwrap_or_else(|| callback.clone());
    let source = format_source(py, &callback, arguments, this.loop_debug(py)?)?;
    let message = PyString::new(py, &format!("Exception in callback {source}"));
    report_raised(
        &event_loop,
        &raised,
        &[
            ("message", Some(message.as_any())),
            ("exception", Some(raised.value().as_any())),
            ("handle", Some(handle.as_any())),
            ("source_traceback", this.source_traceback(py).as_ref()),
        ],
    )
}

/// A callback as asyncio formats it: name, arguments and source location.
fn format_source<'py>(
    py: Python<'py>,
    callback: &Bound<'py, PyAny>,
    arguments: &BoundArguments<'py>,
    debug: bool,
) -> PyResult<String> {
    use pyo3::types::{IntoPyDict, PyDict};
    let arguments = arguments.to_tuple(py)?;
    let format = imports::format_callback_source(py)?;
    // The `debug` parameter exists from 3.13 (and late releases of 3.12) on: inspect the function.
    let code = format.getattr(intern!(py, "__code__"))?;
    let takes_debug = code.getattr(intern!(py, "co_varnames"))?.contains(intern!(py, "debug"))?;
    let keywords: Option<Bound<'_, PyDict>> =
        if takes_debug { Some([("debug", debug)].into_py_dict(py)?) } else { None };
    format.call((callback, arguments), keywords.as_ref())?.extract()
}
