//! Python awaitables as Rust futures.

use std::future::Future as RustFuture;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use pyo3::exceptions::{PyBaseException, PyRuntimeError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::IntoPyDict;

use crate::api::futures::coroutine::running_loop;
use crate::api::futures::failure::{wake, wake_catching};
use crate::ffi::entries::without_section;
use crate::ffi::exception::PyOutcome;
use crate::ffi::layout::context;
use crate::ffi::objects::process_state::Locked;
use crate::ffi::panic::drop_catching;
use crate::ffi::section;
use crate::future::{Callback, Future, NativeCallback};
use crate::interop::imports;
use crate::scheduler::{QueueEntry, Queued, RunnableKind, Scheduler};
use crate::task::{as_exact_future, current};

/// A Python awaitable as a Rust future, made by [`into_future`].
///
/// Dropping it before it is done cancels the awaited task or future, as cancelling an awaiting task
/// does; `asyncio.shield()` prevents that.
pub struct PythonFuture {
    future: Py<PyAny>,
    completion: Option<Py<Completion>>,
    done: bool,
    /// Not `Send`: it belongs to the loop's thread.
    _local: PhantomData<*const ()>,
}

/// Awaits a coroutine, task, future or any other Python awaitable.
///
/// A coroutine is wrapped in a task at once, as by `asyncio.ensure_future()`. The output is the
/// result or the exception, which is CancelledError if the task was cancelled.
///
/// ```
/// # use pyo3::prelude::*;
/// async fn double_sleep(sleep: Py<PyAny>) -> PyResult<()> {
///     for _ in 0..2 {
///         Python::attach(|py| ferroloop::into_future(sleep.bind(py).call1((0.01,))?))?.await?;
///     }
///     Ok(())
/// }
/// ```
///
/// # Errors
/// RuntimeError if no loop of ferroloop runs in this thread; ValueError for a future of another
/// loop; TypeError if the object is not awaitable.
pub fn into_future(awaitable: Bound<'_, PyAny>) -> PyResult<PythonFuture> {
    let py = awaitable.py();
    let event_loop = running_loop(py)?;
    let is_ours = as_exact_future(&awaitable)
        .and_then(|future| future.get().owning_loop(py))
        .is_some_and(|owner| owner.is(&event_loop));
    let future = if is_ours {
        awaitable
    } else {
        imports::ensure_future(py)?
            .call((awaitable,), Some(&[(intern!(py, "loop"), event_loop)].into_py_dict(py)?))?
    };
    Ok(PythonFuture { future: future.unbind(), completion: None, done: false, _local: PhantomData })
}

impl PythonFuture {
    /// None while the awaited future is pending.
    fn outcome(&self, py: Python<'_>) -> Option<PyResult<Py<PyAny>>> {
        let future = self.future.bind(py);
        if let Some(future) = as_exact_future(future) {
            return section::enter_of(future, || {
                if !future.get().is_done(py) {
                    return None;
                }
                Some(future.get().retrieve_result(py).and_then(|found| match found {
                    Ok(value) => Ok(value.unbind()),
                    Err(exception) => Err(raise(&exception)),
                }))
            });
        }
        match future.call_method0(intern!(py, "done")).and_then(|done| done.is_truthy()) {
            Ok(false) => None,
            Ok(true) => Some(future.call_method0(intern!(py, "result")).map(Bound::unbind)),
            Err(error) => Some(Err(error)),
        }
    }

    /// Arranges for `waker` to be called when the future is done.
    fn watch(&mut self, py: Python<'_>, waker: &Waker) -> PyResult<()> {
        if let Some(completion) = &self.completion {
            drop_catching(completion.get().waker.replace(py, Some(waker.clone())));
            return Ok(());
        }
        let event_loop = running_loop(py)?;
        let current = section::enter(&event_loop, || current::get(event_loop.as_any()))?;
        if current.is_some_and(|task| task.is(&self.future)) {
            // Not to be cancelled when this is dropped.
            self.done = true;
            let message = format!("Task cannot await on itself: {}", self.future.bind(py).repr()?);
            return Err(PyRuntimeError::new_err(message));
        }
        let completion = Bound::new(py, Completion { waker: Locked::new(Some(waker.clone())) })?;
        let future = self.future.bind(py);
        match as_exact_future(future) {
            Some(future) => {
                let callback =
                    Callback::Native(completion.clone().into_any().unbind(), &COMPLETION);
                section::enter_of(future, || Future::add_callback(future, callback))?;
            }
            None => {
                future.call_method1(intern!(py, "add_done_callback"), (&completion,))?;
            }
        }
        self.completion = Some(completion.unbind());
        Ok(())
    }
}

/// An error that raises `exception` itself.
fn raise(exception: &Bound<'_, PyBaseException>) -> PyErr {
    PyErr::from_value(exception.clone().into_any())
}

impl RustFuture for PythonFuture {
    type Output = PyResult<Py<PyAny>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Python::attach(|py| {
            if let Some(outcome) = self.outcome(py) {
                self.done = true;
                return Poll::Ready(outcome);
            }
            match self.watch(py, context.waker()) {
                Ok(()) => Poll::Pending,
                Err(error) => Poll::Ready(Err(error)),
            }
        })
    }
}

impl Drop for PythonFuture {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        // While the interpreter shuts down no task runs that could be cancelled.
        let _ = Python::try_attach(|py| {
            if let Some(completion) = &self.completion {
                drop_catching(completion.get().waker.replace(py, None));
            }
            let future = self.future.bind(py);
            if let Err(error) = cancel(future) {
                error.write_unraisable(py, Some(future));
            }
        });
    }
}

/// Cancels what a dropped Rust future was awaiting.
fn cancel(future: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = future.py();
    let event_loop = match as_exact_future(future) {
        Some(future) => section::enter_of(future, || future.get().event_loop(py))?,
        None => future.call_method0(intern!(py, "get_loop"))?,
    };
    if !event_loop.call_method0(intern!(py, "is_closed"))?.is_truthy()? {
        return future.call_method0(intern!(py, "cancel")).map(drop);
    }
    // A closed loop cancels nothing: coroutines stay suspended. The Rust future owned the task, as a
    // suspended coroutine would; only the task that awaited it is destroyed with a message.
    let shows_message = intern!(py, "_log_destroy_pending");
    if future.hasattr(shows_message)? { future.setattr(shows_message, false) } else { Ok(()) }
}

/// A done callback that wakes a Rust future.
#[pyclass(frozen, module = "ferroloop._ferroloop", name = "_Completion")]
struct Completion {
    waker: Locked<Option<Waker>>,
}

without_section!(Completion);

#[pymethods]
impl Completion {
    fn __call__(&self, py: Python<'_>, _future: &Bound<'_, PyAny>) -> PyResult<()> {
        self.waker.replace(py, None).map_or(Ok(()), wake_catching)
    }
}

static COMPLETION: NativeCallback = NativeCallback {
    kind: &WAKE_RUST_FUTURE,
    as_callback: |completion| Ok([completion.clone(), context::copy_current(completion.py())?]),
};

static WAKE_RUST_FUTURE: RunnableKind = RunnableKind::of::<Completion>();

impl Queued for Completion {
    type Object = Self;

    fn run<'py>(
        scheduler: &Bound<'py, Scheduler>,
        entry: QueueEntry<'py, Self>,
    ) -> PyOutcome<'py, ()> {
        let waker = entry.object.get().waker.replace(scheduler.py(), None);
        waker.map_or(Ok(()), |waker| wake(scheduler, waker))
    }
}
