//! Readiness events of a transport's descriptor in the ready queue.

#![forbid(unsafe_code)]

use pyo3::PyClass;
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::ffi::exception::PyOutcome;
use crate::scheduler::report::outcome;
use crate::scheduler::runnable::{describe_object, never_cancelled, nothing_to_note};
use crate::scheduler::{Runnable, RunnableKind, Scheduler};
use crate::transport::lifecycle::{in_context, report_exception_of};

/// What readiness events of all transports have in common; `run` is never used as it is here.
pub const EVENT: RunnableKind = RunnableKind {
    run: |_, _| Ok(()),
    cancelled: never_cancelled,
    sets_current_task: false,
    describe: describe_object,
    left_timers: nothing_to_note,
    show: nothing_to_note,
};

/// For a direction that is never watched.
pub static NEVER: RunnableKind = EVENT;

/// Runs `body` on the transport, in the context of its registration. Exceptions are reported as
/// failures of `method`.
#[inline(always)]
pub fn run_event<'py, T: PyClass>(
    scheduler: &Bound<'py, Scheduler>,
    runnable: Runnable,
    method: &str,
    body: impl FnOnce(&Bound<'py, T>) -> PyOutcome<'py, ()>,
) -> PyOutcome<'py, ()> {
    let py = scheduler.py();
    let transport = runnable.object.into_bound(py).cast_into::<T>();
    let transport = outcome(py, transport.map_err(PyErr::from))?;
    let context = runnable.context.map(|context| context.into_bound(py));
    let result = in_context(context.as_ref(), || body(&transport));
    if result.is_ok() {
        return Ok(());
    }
    let method = PyString::intern(py, method);
    report_exception_of(scheduler, &transport, &method, &[], context.as_ref(), result)
}
