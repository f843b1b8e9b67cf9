//! Delivers the outcome of a job to a future, through one entry of the loop's ready queue.

#![forbid(unsafe_code)]

use std::sync::Arc;

use pyo3::exceptions::PyBaseException;
use pyo3::intern;
use pyo3::prelude::*;

use crate::executor::Job;
use crate::executor::detached_job::MakeResult;
use crate::ffi::call;
use crate::ffi::exception::PyOutcome;
use crate::ffi::layout::context;
use crate::future::{Future, Waiter};
use crate::handle::{CallbackArguments, Handle};
use crate::interop::imports;
use crate::reactor::WakeSignal;
use crate::scheduler::report::{call_exception_handler, outcome};
use crate::scheduler::runnable::{never_cancelled, nothing_to_note};
use crate::scheduler::{Runnable, RunnableKind, Scheduler};

/// Queues the outcome for the future; callable from any thread. Returns the wake signal, which the
/// caller must notify afterwards; `None` if the loop is closed: then the outcome is dropped, as
/// asyncio does.
pub(in crate::executor) fn post<'py>(
    future: Bound<'py, Future>,
    outcome: PyOutcome<'py, Bound<'py, PyAny>>,
) -> Option<Arc<WakeSignal>> {
    match outcome {
        Ok(result) => push(future, &RESULT, Some(result)),
        Err(raised) => push(future, &EXCEPTION, Some(raised.into_value().into_any())),
    }
}

/// Queues the cancellation of the future and wakes its loop.
pub(in crate::executor) fn post_cancellation(future: Bound<'_, Future>) {
    if let Some(wake_signal) = push(future, &CANCELLATION, None) {
        wake_signal.notify();
    }
}

fn push<'py>(
    future: Bound<'py, Future>,
    kind: &'static RunnableKind,
    argument: Option<Bound<'py, PyAny>>,
) -> Option<Arc<WakeSignal>> {
    let py = future.py();
    let scheduler = future.get().scheduler(py)?;
    let this = scheduler.get();
    if this.closed.get(py) {
        return None;
    }
    let runnable = Runnable {
        kind,
        object: future.into_any().unbind(),
        argument: argument.map(Bound::unbind),
        context: None,
    };
    this.push(py, runnable);
    Some(this.wake_signal.clone())
}

static RESULT: RunnableKind = RunnableKind {
    run: |scheduler, runnable| run(scheduler, runnable, Future::finish_with_result),
    ..KIND
};

static EXCEPTION: RunnableKind = RunnableKind {
    run: |scheduler, runnable| run(scheduler, runnable, finish_with_exception),
    ..KIND
};

static CANCELLATION: RunnableKind = RunnableKind {
    run: |scheduler, runnable| {
        run(scheduler, runnable, |future, _none| Future::cancel(future, None).map(drop))
    },
    ..KIND
};

const KIND: RunnableKind = RunnableKind {
    run: |_scheduler, _runnable| Ok(()),
    cancelled: never_cancelled,
    sets_current_task: false,
    describe,
    show: nothing_to_note,
    left_timers: nothing_to_note,
};

#[inline]
fn run<'py>(
    scheduler: &Bound<'py, Scheduler>,
    runnable: Runnable,
    finish: impl FnOnce(&Bound<'py, Future>, Bound<'py, PyAny>) -> PyResult<()>,
) -> PyOutcome<'py, ()> {
    let py = scheduler.py();
    let argument = runnable.argument.unwrap_or_else(|| py.None());
    finish_unless_done(scheduler, runnable.object, |future| finish(future, argument.into_bound(py)))
}

/// Finishes the future, unless it was cancelled while the job ran.
#[inline]
fn finish_unless_done<'py>(
    scheduler: &Bound<'py, Scheduler>,
    future: Py<PyAny>,
    finish: impl FnOnce(&Bound<'py, Future>) -> PyResult<()>,
) -> PyOutcome<'py, ()> {
    let py = scheduler.py();
    let Ok(future) = future.into_bound(py).cast_into::<Future>() else { return Ok(()) };
    if future.get().is_done(py) {
        return Ok(());
    }
    match finish(&future) {
        Ok(()) => Ok(()),
        Err(error) => outcome(py, report(scheduler, &future, &error)),
    }
}

/// Finishes the future that waits for the answer of a detached job.
pub(in crate::executor) fn deliver_answer<'py>(
    scheduler: &Bound<'py, Scheduler>,
    waiting: Runnable,
    answer: MakeResult,
) -> PyOutcome<'py, ()> {
    // Convert first: this may run the garbage collector, and a finalizer may cancel the future.
    let answer = answer(scheduler.py());
    finish_unless_done(scheduler, waiting.object, |future| match answer {
        Ok(result) => Future::finish_with_result(future, result),
        Err(error) => {
            let exception = error.into_value(future.py()).into_bound(future.py());
            Future::finish_with_exception(future, exception)
        }
    })
}

/// Cancels the future that waits for the answer of a detached job.
pub(in crate::executor) fn cancel<'py>(
    scheduler: &Bound<'py, Scheduler>,
    waiting: Runnable,
) -> PyOutcome<'py, ()> {
    (CANCELLATION.run)(scheduler, waiting)
}

/// The runnable that waits for the answer of a detached job.
pub(in crate::executor) fn waiting_runnable(future: Bound<'_, Future>) -> Runnable {
    Runnable::new(&KIND, future)
}

fn finish_with_exception<'py>(
    future: &Bound<'py, Future>,
    exception: Bound<'py, PyAny>,
) -> PyResult<()> {
    let py = future.py();
    // Converts exceptions of concurrent.futures to asyncio's.
    let exception = call::call1(imports::convert_future_exception(py)?, &exception)?;
    if exception.is_instance_of::<PyBaseException>() {
        future.call_method1(intern!(py, "set_exception"), (exception,))?;
    }
    Ok(())
}

/// Returns a handle like the one that asyncio would have queued.
fn describe<'py>(py: Python<'py>, runnable: &Runnable) -> PyResult<Bound<'py, PyAny>> {
    let future = runnable.object.bind(py).cast::<Future>()?;
    let set = future.getattr(intern!(py, "set_result"))?;
    let event_loop = future.get().event_loop(py)?;
    let handle = Handle::create(set, CallbackArguments::Empty, event_loop, None, false)?;
    Ok(handle.into_any())
}

#[cold]
fn report<'py>(
    scheduler: &Bound<'py, Scheduler>,
    future: &Bound<'py, Future>,
    error: &PyErr,
) -> PyResult<()> {
    let py = scheduler.py();
    let message = intern!(py, "Exception in setting the outcome of an executor's job");
    let entries = [
        ("message", Some(message.as_any())),
        ("exception", Some(error.value(py).as_any())),
        ("future", Some(future.as_any())),
    ];
    call_exception_handler(scheduler, &entries)
}

/// The done callback by which a job learns that its future was cancelled.
pub(in crate::executor) static CANCEL_WATCH: Waiter =
    Waiter { kind: &CANCEL_WATCH_KIND, as_callback };

static CANCEL_WATCH_KIND: RunnableKind = RunnableKind {
    run: |scheduler, runnable| {
        let py = scheduler.py();
        let Some(future) = &runnable.argument else { return Ok(()) };
        if let (Ok(job), Ok(future)) =
            (runnable.object.bind(py).cast::<Job>(), future.bind(py).cast::<Future>())
        {
            withdraw_if_cancelled(job, future);
        }
        Ok(())
    },
    cancelled: never_cancelled,
    sets_current_task: false,
    describe: |py, runnable| {
        let event_loop = match &runnable.argument {
            Some(future) => future.bind(py).cast::<Future>()?.get().event_loop(py)?,
            None => py.None().into_bound(py),
        };
        let job = runnable.object.bind(py).clone();
        let handle = Handle::create(job, CallbackArguments::Empty, event_loop, None, false)?;
        Ok(handle.into_any())
    },
    show: nothing_to_note,
    left_timers: nothing_to_note,
};

fn as_callback<'py>(job: &Bound<'py, PyAny>) -> PyResult<[Bound<'py, PyAny>; 2]> {
    Ok([job.clone(), context::copy_current(job.py())?])
}

/// Withdraws the job from the queue if its future was cancelled and no worker has taken it.
pub(in crate::executor) fn withdraw_if_cancelled(job: &Bound<'_, Job>, future: &Bound<'_, Future>) {
    let py = job.py();
    if future.get().is_cancelled(py) {
        job.get().withdraw(py);
    }
}
