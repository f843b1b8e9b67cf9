//! One job of the thread pool.

use std::sync::{Arc, Weak};

use pyo3::exceptions::PyBaseException;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;

use crate::executor::completion::{self, CANCEL_WATCH};
use crate::executor::detached_job::{self, DetachedJob};
use crate::executor::queue::Ticket;
use crate::executor::worker_threads::WorkerThreads;
use crate::ffi::entries::without_section;
use crate::ffi::exception::{OrRaise, PyOutcome};
use crate::ffi::objects::cell::Traverse;
use crate::ffi::objects::process_state::Locked;
use crate::ffi::section::{self, attach_unshared};
use crate::future::{Callback, Future};
use crate::handle::CallbackArguments;
use crate::reactor::SlotKey;
use crate::reactor::WakeSignal;
use crate::scheduler::Scheduler;

/// What a worker calls.
pub enum Call {
    /// `function(*arguments)`.
    Function(Py<PyAny>, CallbackArguments),
    /// `convert(function(*arguments))`, where both functions are internal.
    Converted(Py<PyAny>, CallbackArguments, Convert),
}

/// Converts a result on the worker's thread.
pub type Convert = for<'py> fn(Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>>;

/// The receiver of the outcome.
pub(in crate::executor) enum Receiver {
    /// A future of a loop of this crate.
    Loop(Py<Future>),
    /// A `concurrent.futures.Future`.
    Thread(Py<PyAny>),
}

/// An entry of the queue.
pub(in crate::executor) enum QueuedJob {
    /// Needs the GIL.
    Call(Py<Job>),
    /// Needs no interpreter.
    DetachedJob(DetachedJob),
}

impl QueuedJob {
    /// Cancels the future of a job that the queue has dropped.
    pub(in crate::executor) fn cancel(self, py: Python<'_>) -> PyResult<()> {
        match self {
            Self::Call(job) => job.get().cancel(py),
            Self::DetachedJob(detached_job) => {
                detached_job.cancel();
                Ok(())
            }
        }
    }
}

/// The work of a job, until a worker takes it or a cancellation drops it.
pub(in crate::executor) enum Work {
    /// A call and its receiver.
    Call(Call, Receiver),
    /// A detached job, whose future is parked in the loop.
    DetachedJob(Py<Scheduler>, SlotKey),
}

impl Traverse for Option<Work> {
    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        let (call, receiver) = match self {
            Some(Work::Call(call, receiver)) => (call, receiver),
            Some(Work::DetachedJob(scheduler, _)) => return visit.call(scheduler),
            None => return Ok(()),
        };
        match call {
            Call::Function(function, arguments) | Call::Converted(function, arguments, _) => {
                visit.call(function)?;
                arguments.traverse(visit)?;
            }
        }
        match receiver {
            Receiver::Loop(future) => visit.call(future),
            Receiver::Thread(future) => visit.call(future),
        }
    }
}

/// A job that waits for a worker. It is a done callback of its future, which tells it about a
/// cancellation.
#[pyclass(frozen, module = "ferroloop._ferroloop", name = "_Job")]
pub struct Job {
    /// Taken by the worker, or by the loop's thread if the future is cancelled.
    work: Locked<Option<Work>>,
    queue_entry: Locked<Option<(Weak<WorkerThreads>, Ticket)>>,
}

impl Job {
    fn new(work: Work) -> Self {
        Self { work: Locked::new(Some(work)), queue_entry: Locked::new(None) }
    }

    /// Creates a job and the loop's future that receives its outcome.
    pub fn for_loop<'py>(
        scheduler: &Bound<'py, Scheduler>,
        call: Call,
    ) -> PyResult<(Bound<'py, Self>, Bound<'py, Future>)> {
        let future = Bound::new(scheduler.py(), Future::for_loop(scheduler)?)?;
        let job =
            Self::watching(&future, Work::Call(call, Receiver::Loop(future.clone().unbind())))?;
        Ok((job, future))
    }

    /// Creates a detached job: the job, its queue entry, and the loop's future that receives its
    /// reply.
    pub(in crate::executor) fn for_detached<'py>(
        scheduler: &Bound<'py, Scheduler>,
        work: detached_job::DetachedWork,
    ) -> PyResult<(Bound<'py, Self>, DetachedJob, Bound<'py, Future>)> {
        let py = scheduler.py();
        let this = scheduler.get();
        let future = Bound::new(py, Future::for_loop(scheduler)?)?;
        let waiting = completion::waiting_runnable(future.clone());
        let key = this.await_reply(py, waiting);
        let job = Self::watching(&future, Work::DetachedJob(scheduler.clone().unbind(), key))?;
        Ok((job, DetachedJob::new(work, this.inbox().clone(), key), future))
    }

    /// Creates a job that is withdrawn when the future is cancelled.
    fn watching<'py>(future: &Bound<'py, Future>, work: Work) -> PyResult<Bound<'py, Self>> {
        let job = Bound::new(future.py(), Self::new(work))?;
        let watch = Callback::Native(job.clone().into_any().unbind(), &CANCEL_WATCH);
        Future::add_callback(future, watch)?;
        Ok(job)
    }

    /// Creates a job whose outcome a `concurrent.futures.Future` receives.
    pub fn for_threads<'py>(future: Bound<'py, PyAny>, call: Call) -> PyResult<Bound<'py, Self>> {
        let py = future.py();
        Bound::new(py, Self::new(Work::Call(call, Receiver::Thread(future.unbind()))))
    }

    /// Records the queue entry of the job.
    pub(in crate::executor) fn set_queue_entry(
        &self,
        py: Python<'_>,
        workers: &Arc<WorkerThreads>,
        ticket: Ticket,
    ) {
        drop(self.queue_entry.replace(py, Some((Arc::downgrade(workers), ticket))));
    }

    /// Removes the job from the queue and drops the call, unless a worker has taken it. The reply
    /// of a running detached job is then discarded. Dropping may run Python code.
    pub(in crate::executor) fn withdraw(&self, py: Python<'_>) {
        let queued = self
            .queue_entry
            .replace(py, None)
            .and_then(|(workers, ticket)| workers.upgrade()?.queue().remove(ticket));
        let work = self.work.replace(py, None);
        let released = match &work {
            Some(Work::DetachedJob(scheduler, key)) => {
                section::enter(scheduler.bind(py), || scheduler.get().release_slot(py, *key))
            }
            _ => None,
        };
        drop((queued, work, released));
    }

    /// Makes the call and delivers the outcome, unless the call has forked and this is the child.
    /// Returns the wake signal of the loop, which the caller must notify.
    pub(in crate::executor) fn run(
        &self,
        py: Python<'_>,
        workers: &WorkerThreads,
    ) -> Option<Arc<WakeSignal>> {
        drop(self.queue_entry.replace(py, None));
        let Some(Work::Call(call, receiver)) = self.work.replace(py, None) else { return None };
        if let Receiver::Thread(future) = &receiver {
            match is_wanted(future.bind(py)) {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => {
                    error.write_unraisable(py, Some(future.bind(py)));
                    return None;
                }
            }
        }
        let outcome = call.run(py);
        if !workers.is_ours() {
            return None;
        }
        match receiver {
            Receiver::Loop(future) => completion::post(future.into_bound(py), outcome),
            Receiver::Thread(future) => {
                let future = future.into_bound(py);
                if let Err(error) = set_outcome(&future, outcome) {
                    error.write_unraisable(py, Some(&future));
                }
                None
            }
        }
    }

    /// Drops the call and cancels the future.
    fn cancel(&self, py: Python<'_>) -> PyResult<()> {
        drop(self.queue_entry.replace(py, None));
        let Some(Work::Call(call, receiver)) = self.work.replace(py, None) else { return Ok(()) };
        drop(call);
        match receiver {
            Receiver::Loop(future) => completion::post_cancellation(future.into_bound(py)),
            Receiver::Thread(future) => {
                future.bind(py).call_method0(intern!(py, "cancel"))?;
            }
        }
        Ok(())
    }
}

impl Call {
    /// Makes the call, and drops function and arguments before the outcome is delivered.
    fn run(self, py: Python<'_>) -> PyOutcome<'_, Bound<'_, PyAny>> {
        match self {
            Self::Function(function, arguments) => arguments.bound(py).call(function.bind(py)),
            Self::Converted(function, arguments, convert) => {
                let result = arguments.bound(py).call(function.bind(py))?;
                convert(result).or_raise(py)
            }
        }
    }
}

fn is_wanted(future: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = future.py();
    future.call_method0(intern!(py, "set_running_or_notify_cancel"))?.is_truthy()
}

fn set_outcome<'py>(
    future: &Bound<'py, PyAny>,
    outcome: PyOutcome<'py, Bound<'py, PyAny>>,
) -> PyResult<()> {
    let py = future.py();
    match outcome {
        Ok(result) => future.call_method1(intern!(py, "set_result"), (result,))?,
        Err(raised) => {
            let exception: Bound<'py, PyBaseException> = raised.into_value();
            future.call_method1(intern!(py, "set_exception"), (exception,))?
        }
    };
    Ok(())
}

without_section!(Job);

#[pymethods]
impl Job {
    /// Handle the completion of the job's future, as its done callback.
    fn __call__(slf: &Bound<'_, Self>, future: &Bound<'_, Future>) {
        completion::withdraw_if_cancelled(slf, future);
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.work.traverse(|work| work.traverse(&visit))
    }

    fn __clear__(&self) {
        attach_unshared(|py| drop(self.work.replace(py, None)));
    }
}
