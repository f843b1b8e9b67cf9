//! Futures of Python for Rust futures, and the reverse.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};

use ::tokio::sync::oneshot;
use ::tokio::task::AbortHandle;
use pyo3::IntoPyObjectExt;
use pyo3::exceptions::asyncio::CancelledError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::err::RustPanic;
use crate::ferroloop::{self, SpawnOptions};
use crate::locals::TaskLocals;
use crate::tokio::{get_runtime, scope, scope_local};

/// Runs `future` on the Tokio runtime; returns a future of Python that completes with its outcome.
/// Cancelling that drops the Rust future.
pub(crate) fn future_into_py_with_locals<F, T>(
    py: Python<'_>,
    locals: TaskLocals,
    future: F,
) -> PyResult<Bound<'_, PyAny>>
where
    F: Future<Output = PyResult<T>> + Send + 'static,
    T: for<'py> IntoPyObject<'py> + Send + 'static,
{
    let python_future = locals.event_loop(py).call_method0("create_future")?;
    let completed = python_future.clone().unbind();
    let task = get_runtime().spawn(async move {
        let outcome = scope(locals.clone(), CatchPanic(Box::pin(future))).await;
        // The value is converted in the loop's thread.
        locals.post(move |event_loop| {
            let py = event_loop.py();
            complete(completed.bind(py), outcome.and_then(|value| value.into_py_any(py)))
        });
    });
    abort_if_cancelled(&python_future, task.abort_handle())?;
    Ok(python_future)
}

/// [`future_into_py_with_locals`] for a future that is not `Send`. On a loop of ferroloop that runs
/// in this thread, `future` runs there, as a task and with the Tokio runtime entered. Otherwise it
/// runs on the `LocalSet` of Tokio that runs in this thread.
pub(crate) fn local_future_into_py_with_locals<F, T>(
    py: Python<'_>,
    locals: TaskLocals,
    future: F,
) -> PyResult<Bound<'_, PyAny>>
where
    F: Future<Output = PyResult<T>> + 'static,
    T: for<'py> IntoPyObject<'py>,
{
    if locals.are_of_this_thread(py) {
        let context = Some(locals.context(py)).filter(|context| !context.is_none());
        let options = SpawnOptions { name: None, context };
        return ferroloop::spawn_local_with(py, options, async move {
            let value =
                scope_local(locals, CatchPanic(Box::pin(InRuntime(Box::pin(future))))).await?;
            Python::attach(|py| value.into_py_any(py))
        });
    }
    let python_future = locals.event_loop(py).call_method0("create_future")?;
    let completed = python_future.clone().unbind();
    let task = ::tokio::task::spawn_local(async move {
        let outcome = scope_local(locals.clone(), CatchPanic(Box::pin(future))).await;
        let outcome = Python::attach(|py| outcome.and_then(|value| value.into_py_any(py)));
        locals.post(move |event_loop| complete(completed.bind(event_loop.py()), outcome));
    });
    abort_if_cancelled(&python_future, task.abort_handle())?;
    Ok(python_future)
}

/// Completes a future of Python, unless it is done: it was cancelled meanwhile.
fn complete(python_future: &Bound<'_, PyAny>, outcome: PyResult<Py<PyAny>>) -> PyResult<()> {
    if python_future.call_method0("done")?.is_truthy()? {
        return Ok(());
    }
    match outcome {
        Ok(value) => python_future.call_method1("set_result", (value,)),
        Err(error) => {
            let set = python_future.call_method1("set_exception", (error,));
            // A future refuses StopIteration.
            set.or_else(|refused| python_future.call_method1("set_exception", (refused,)))
        }
    }
    .map(drop)
}

fn abort_if_cancelled(python_future: &Bound<'_, PyAny>, task: AbortHandle) -> PyResult<()> {
    python_future.call_method1("add_done_callback", (AbortIfCancelled(task),)).map(drop)
}

/// A done callback that drops the Rust future of a cancelled future.
#[pyclass(frozen)]
struct AbortIfCancelled(AbortHandle);

#[pymethods]
impl AbortIfCancelled {
    fn __call__(&self, python_future: &Bound<'_, PyAny>) -> PyResult<()> {
        if python_future.call_method0("cancelled")?.is_truthy()? {
            self.0.abort();
        }
        Ok(())
    }
}

/// Makes RustPanic of a panic.
struct CatchPanic<F>(Pin<Box<F>>);

impl<F: Future<Output = PyResult<T>>, T> Future for CatchPanic<F> {
    type Output = PyResult<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        catch_unwind(AssertUnwindSafe(|| self.0.as_mut().poll(context)))
            .unwrap_or_else(|payload| Poll::Ready(Err(panicked(&*payload))))
    }
}

fn panicked(payload: &(dyn Any + Send)) -> PyErr {
    let message = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("unknown error");
    RustPanic::new_err(format!("rust future panicked: {message}"))
}

/// Polls a future with the Tokio runtime entered, so that Tokio's timers and sockets work.
struct InRuntime<F>(Pin<Box<F>>);

impl<F: Future> Future for InRuntime<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let _entered = get_runtime().enter();
        self.0.as_mut().poll(context)
    }
}

/// Awaits a Python awaitable on the loop of `locals` and in their context. Any thread may poll the
/// future. Dropping it does not cancel the awaitable.
///
/// # Errors
/// RuntimeError if the loop is closed.
pub fn into_future_with_locals(
    locals: &TaskLocals,
    awaitable: Bound<'_, PyAny>,
) -> PyResult<impl Future<Output = PyResult<Py<PyAny>>> + Send + use<>> {
    let (sender, receiver) = oneshot::channel();
    let (py, awaitable, in_context) = (awaitable.py(), awaitable.unbind(), locals.clone());
    locals.post_attached(py, move |event_loop| {
        let py = event_loop.py();
        let mut sender = Some(sender);
        let started = start(&in_context, event_loop, awaitable.bind(py), &mut sender);
        if let (Err(error), Some(sender)) = (started, sender) {
            // Fails if the future was dropped.
            let _ = sender.send(Err(error));
        }
        Ok(())
    })?;
    Ok(async move {
        let dropped = |_| Err(CancelledError::new_err(()));
        pin!(receiver).await.unwrap_or_else(dropped)
    })
}

type Outcome = PyResult<Py<PyAny>>;

fn start(
    locals: &TaskLocals,
    event_loop: &Bound<'_, PyAny>,
    awaitable: &Bound<'_, PyAny>,
    sender: &mut Option<oneshot::Sender<Outcome>>,
) -> PyResult<()> {
    let py = event_loop.py();
    let ensure_future = py.import("asyncio")?.getattr("ensure_future")?;
    let keywords = PyDict::new(py);
    keywords.set_item("loop", event_loop)?;
    let task = locals.run_in_context(&ensure_future, awaitable, &keywords)?;
    task.call_method1("add_done_callback", (SendOutcome(Mutex::new(sender.take())),)).map(drop)
}

/// A done callback that sends the outcome to a Rust future.
#[pyclass(frozen)]
struct SendOutcome(Mutex<Option<oneshot::Sender<Outcome>>>);

#[pymethods]
impl SendOutcome {
    fn __call__(&self, task: &Bound<'_, PyAny>) {
        let sender = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(sender) = sender {
            // Fails if the Rust future was dropped.
            let _ = sender.send(task.call_method0("result").map(Bound::unbind));
        }
    }
}
