//! Delivers the outcome of a job to a future, through one entry of the loop's ready queue.

use std::marker::PhantomData;
use std::sync::Arc;

use pyo3::exceptions::PyBaseException;
use pyo3::intern;
use pyo3::prelude::*;

use crate::executor::Job;
use crate::executor::detached_job::MakeResult;
use crate::ffi::call;
use crate::ffi::exception::{OrRaise, PyOutcome};
use crate::ffi::layout::context;
use crate::future::{Future, NativeCallback};
use crate::handle::{CallbackArguments, Handle};
use crate::interop::imports;
use crate::reactor::WakeSignal;
use crate::scheduler::report::call_exception_handler;
use crate::scheduler::{QueueEntry, Queued, Runnable, RunnableKind, Scheduler};

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
    let scheduler = future.get().owning_scheduler(py)?;
    let runnable = Runnable {
        kind,
        object: future.into_any().unbind(),
        argument: argument.map(Bound::unbind),
        context: None,
    };
    Scheduler::push_in_any_thread(&scheduler, runnable).ok()
}

static RESULT: RunnableKind = RunnableKind::of::<JobOutcome<WithResult>>();
static EXCEPTION: RunnableKind = RunnableKind::of::<JobOutcome<WithException>>();
static CANCELLATION: RunnableKind = RunnableKind::of::<JobOutcome<WithCancellation>>();

/// A queued outcome: the future, and what it is finished with as the argument.
struct JobOutcome<F>(PhantomData<F>);

/// How the future is finished.
trait Finish: 'static {
    fn finish<'py>(future: &Bound<'py, Future>, argument: Bound<'py, PyAny>) -> PyResult<()>;
}

struct WithResult;
struct WithException;
struct WithCancellation;

impl Finish for WithResult {
    fn finish<'py>(future: &Bound<'py, Future>, result: Bound<'py, PyAny>) -> PyResult<()> {
        Future::finish_with_result(future, result)
    }
}

impl Finish for WithException {
    fn finish<'py>(future: &Bound<'py, Future>, exception: Bound<'py, PyAny>) -> PyResult<()> {
        finish_with_exception(future, exception)
    }
}

impl Finish for WithCancellation {
    fn finish<'py>(future: &Bound<'py, Future>, _none: Bound<'py, PyAny>) -> PyResult<()> {
        Future::cancel(future, None).map(drop)
    }
}

impl<F: Finish> Queued for JobOutcome<F> {
    type Object = Future;

    #[inline]
    fn run<'py>(
        scheduler: &Bound<'py, Scheduler>,
        entry: QueueEntry<'py, Future>,
    ) -> PyOutcome<'py, ()> {
        let py = scheduler.py();
        let argument = entry.argument.unwrap_or_else(|| py.None().into_bound(py));
        finish_unless_done(scheduler, &entry.object, |future| F::finish(future, argument))
    }

    /// The handle that asyncio would have had in its queue.
    fn describe<'py>(entry: &QueueEntry<'py, Future>) -> PyResult<Bound<'py, PyAny>> {
        let future = &entry.object;
        let set = future.getattr(intern!(future.py(), "set_result"))?;
        let event_loop = future.get().event_loop(future.py())?;
        let handle = Handle::create(set, CallbackArguments::Empty, event_loop, None, false)?;
        Ok(handle.into_any())
    }
}

/// Finishes the future, unless it was cancelled while the job ran.
#[inline]
fn finish_unless_done<'py>(
    scheduler: &Bound<'py, Scheduler>,
    future: &Bound<'py, Future>,
    finish: impl FnOnce(&Bound<'py, Future>) -> PyResult<()>,
) -> PyOutcome<'py, ()> {
    let py = scheduler.py();
    if future.get().is_done(py) {
        return Ok(());
    }
    match finish(future) {
        Ok(()) => Ok(()),
        Err(error) => report(scheduler, future, &error).or_raise(py),
    }
}

/// Finishes the future that waits for the reply of a detached job.
pub(in crate::executor) fn deliver_reply<'py>(
    scheduler: &Bound<'py, Scheduler>,
    waiting: Runnable,
    reply: MakeResult,
) -> PyOutcome<'py, ()> {
    // Convert first: this may run the garbage collector, and a finalizer may cancel the future.
    let reply = reply(scheduler.py());
    let waiting = waiting.object.into_bound(scheduler.py());
    let Ok(future) = waiting.cast::<Future>() else { return Ok(()) };
    finish_unless_done(scheduler, future, |future| match reply {
        Ok(result) => Future::finish_with_result(future, result),
        Err(error) => {
            let exception = error.into_value(future.py()).into_bound(future.py());
            Future::finish_with_exception(future, exception)
        }
    })
}

/// Cancels the future that waits for the reply of a detached job.
pub(in crate::executor) fn cancel<'py>(
    scheduler: &Bound<'py, Scheduler>,
    waiting: Runnable,
) -> PyOutcome<'py, ()> {
    (CANCELLATION.run)(scheduler, waiting)
}

/// The runnable that waits for the reply of a detached job.
pub(in crate::executor) fn waiting_runnable(future: Bound<'_, Future>) -> Runnable {
    Runnable::new(&RESULT, future)
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
pub(in crate::executor) static CANCEL_WATCH: NativeCallback =
    NativeCallback { kind: &CANCEL_WATCH_KIND, as_callback };

static CANCEL_WATCH_KIND: RunnableKind = RunnableKind::of::<CancelWatch>();

struct CancelWatch;

impl Queued for CancelWatch {
    type Object = Job;

    fn run<'py>(
        _scheduler: &Bound<'py, Scheduler>,
        entry: QueueEntry<'py, Job>,
    ) -> PyOutcome<'py, ()> {
        if let Some(future) = &entry.argument {
            if let Ok(future) = future.cast::<Future>() {
                withdraw_if_cancelled(&entry.object, future);
            }
        }
        Ok(())
    }

    fn describe<'py>(entry: &QueueEntry<'py, Job>) -> PyResult<Bound<'py, PyAny>> {
        let py = entry.object.py();
        let event_loop = match &entry.argument {
            Some(future) => future.cast::<Future>()?.get().event_loop(py)?,
            None => py.None().into_bound(py),
        };
        let job = entry.object.clone().into_any();
        let handle = Handle::create(job, CallbackArguments::Empty, event_loop, None, false)?;
        Ok(handle.into_any())
    }
}

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
