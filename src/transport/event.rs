//! Events of a transport in the ready queue: each runs in its context, and its exception is
//! reported as a handle's callback would report it.

use pyo3::PyClass;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

use crate::ffi::exception::{OrRaise, PyOutcome, Raised};
use crate::ffi::layout::context;
use crate::ffi::section;
use crate::handle::{self, CallbackArguments, Handle};
use crate::scheduler::{QueueEntry, Scheduler};
use crate::transport::Transport;
use crate::transport::origin::{self, displayed_method};

/// Runs `body` on the transport, in the context of its registration. Exceptions are reported as
/// failures of `method`.
#[inline(always)]
pub fn run_event<'py, T: PyClass>(
    scheduler: &Bound<'py, Scheduler>,
    entry: QueueEntry<'py, T>,
    method: &str,
    body: impl FnOnce(&Bound<'py, T>) -> PyOutcome<'py, ()>,
) -> PyOutcome<'py, ()> {
    let QueueEntry { object: transport, context, .. } = entry;
    let result = in_context(context.as_ref(), || body(&transport));
    if result.is_ok() {
        return Ok(());
    }
    let method = PyString::intern(scheduler.py(), method);
    report_exception_of(scheduler, &transport, &method, &[], context.as_ref(), result)
}

/// Runs `body` inside `context`, if there is one.
#[inline(always)]
pub fn in_context<'py, R>(
    context: Option<&Bound<'py, PyAny>>,
    body: impl FnOnce() -> PyOutcome<'py, R>,
) -> PyOutcome<'py, R> {
    match context {
        Some(context) => context::run_in(context, body),
        None => body(),
    }
}

/// Reports an exception as a failure of `method`, unless it stops the loop: then it is returned.
#[inline(always)]
pub fn report_exception_of<'py, T: PyClass>(
    scheduler: &Bound<'py, Scheduler>,
    transport: &Bound<'py, T>,
    method: &Bound<'py, PyString>,
    arguments: &[&Bound<'py, PyAny>],
    context: Option<&Bound<'py, PyAny>>,
    result: PyOutcome<'py, ()>,
) -> PyOutcome<'py, ()> {
    match result {
        Err(raised) if !raised.stops_the_loop() => {
            let callback = displayed_method(transport.as_any(), method).or_raise(scheduler.py())?;
            report_failure(scheduler, callback, arguments, context, raised)
        }
        other => other,
    }
}

/// The handle that represents a read or write event in debug output.
pub fn describe_event<'py, T>(
    entry: &QueueEntry<'py, T>,
    method: &str,
) -> PyResult<Bound<'py, PyAny>> {
    let transport = entry.object.as_any();
    let method = PyString::intern(transport.py(), method);
    let (_, stack) = origin::split(entry.argument.as_ref());
    as_handle(transport, displayed_method(transport, &method)?, &[], stack, entry.context.clone())
}

/// The handle that asyncio would have queued, for debug output and reports. `stack` is where it was
/// scheduled, `context` the one in which it runs.
pub fn as_handle<'py>(
    event_loop: &Bound<'py, PyAny>,
    callback: Bound<'py, PyAny>,
    arguments: &[&Bound<'py, PyAny>],
    stack: Option<Bound<'py, PyAny>>,
    context: Option<Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = event_loop.py();
    let arguments = CallbackArguments::from_tuple(PyTuple::new(py, arguments)?);
    // A transport without a loop represents itself.
    let event_loop = match event_loop.cast::<Transport>() {
        Ok(transport) => match section::enter_of(transport, || transport.get().scheduler(py)) {
            Some(scheduler) => scheduler.into_any(),
            None => return Ok(event_loop.clone()),
        },
        Err(_) => event_loop.clone(),
    };
    let handle = Handle::create(callback, arguments, event_loop, context, false)?;
    if let Some(stack) = stack {
        handle.get().set_source_traceback(stack);
    }
    Ok(handle.into_any())
}

/// Reports an exception of a callback as a handle does: the exception handler runs in the
/// callback's context.
pub fn report_failure<'py>(
    scheduler: &Bound<'py, Scheduler>,
    callback: Bound<'py, PyAny>,
    arguments: &[&Bound<'py, PyAny>],
    context: Option<&Bound<'py, PyAny>>,
    raised: Raised<'py>,
) -> PyOutcome<'py, ()> {
    let py = scheduler.py();
    let stack = current_stack(scheduler).or_raise(py)?;
    let handle =
        as_handle(scheduler.as_any(), callback, arguments, stack, context.cloned()).or_raise(py)?;
    match handle.cast_into::<Handle>() {
        Ok(handle) => handle::report_exception(&handle, raised).or_raise(py),
        Err(_) => Err(raised),
    }
}

/// The stack where the current callback was scheduled, which only debug mode keeps.
fn current_stack<'py>(scheduler: &Bound<'py, Scheduler>) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = scheduler.py();
    if !scheduler.get().is_debug(py) {
        return Ok(None);
    }
    let current = scheduler.getattr(intern!(py, "_current_handle"))?;
    Ok(current.cast::<Handle>().ok().and_then(|handle| handle.get().source_traceback(py)))
}
