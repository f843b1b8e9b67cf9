//! Rust futures for Python: as coroutines and as tasks.

#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::future::Future;
use std::task::Poll;

use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::api::futures::arena::LocalFuture;
use crate::api::futures::coroutine::{RustCoroutine, running};
use crate::scheduler::Scheduler;
use crate::task::{Task, TaskOptions};

/// The future with its output made a Python object.
pub fn boxed<F, T>(future: F) -> LocalFuture
where
    F: Future<Output = PyResult<T>> + 'static,
    T: for<'py> IntoPyObject<'py>,
{
    Box::pin(async move {
        let value = future.await?;
        Python::attach(|py| value.into_py_any(py))
    })
}

/// A Python coroutine that runs `future` when it is awaited.
///
/// It is what calling an `async def` function gives: nothing happens before it is awaited, it can
/// be awaited once, in this thread, and dropping it unawaited warns. `name` is its `__name__`.
/// Ending it early, by a cancellation for example, drops the future.
///
/// ```
/// use ferroloop::coroutine;
/// use pyo3::prelude::*;
///
/// #[pyfunction]
/// fn answer(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
///     coroutine(py, "answer", async {
///         ferroloop::yield_now().await;
///         Ok(42)
///     })
/// }
/// ```
pub fn coroutine<'py, F, T>(
    py: Python<'py>,
    name: impl Into<Cow<'static, str>>,
    future: F,
) -> PyResult<Bound<'py, PyAny>>
where
    F: Future<Output = PyResult<T>> + 'static,
    T: for<'a> IntoPyObject<'a>,
{
    Ok(RustCoroutine::new(py, name.into(), boxed(future))?.into_any())
}

/// Options of a task that runs a Rust future.
#[derive(Default)]
pub struct SpawnOptions<'py> {
    /// Name of the task; `Task-N` by default.
    pub name: Option<Cow<'static, str>>,
    /// The `contextvars.Context` to run in; a copy of the current one by default.
    pub context: Option<Bound<'py, PyAny>>,
}

/// Runs `future` as a task of the loop that runs in this thread; returns the task.
///
/// To asyncio it is a task as any other: it has a name and a context, `all_tasks()` lists it and
/// `current_task()` names it while it is polled. An error is the task's exception, and so is a
/// panic, as RuntimeError. Cancelling the task drops the future, in this thread.
///
/// # Errors
/// RuntimeError if no loop of ferroloop runs in this thread.
pub fn spawn_local<F, T>(py: Python<'_>, future: F) -> PyResult<Bound<'_, PyAny>>
where
    F: Future<Output = PyResult<T>> + 'static,
    T: for<'a> IntoPyObject<'a>,
{
    spawn_local_with(py, SpawnOptions::default(), future)
}

/// As [`spawn_local`], with options.
///
/// # Errors
/// As there.
pub fn spawn_local_with<'py, F, T>(
    py: Python<'py>,
    options: SpawnOptions<'py>,
    future: F,
) -> PyResult<Bound<'py, PyAny>>
where
    F: Future<Output = PyResult<T>> + 'static,
    T: for<'a> IntoPyObject<'a>,
{
    start(&running(py)?, options, boxed(future))
}

/// Makes a task of a future.
pub fn start<'py>(
    scheduler: &Bound<'py, Scheduler>,
    options: SpawnOptions<'py>,
    future: LocalFuture,
) -> PyResult<Bound<'py, PyAny>> {
    let py = scheduler.py();
    let name = options.name.clone().unwrap_or(Cow::Borrowed("rust_future"));
    let coroutine = RustCoroutine::new(py, name, future)?;
    // From now on the loop drops the future when it is closed.
    coroutine.get().settle(scheduler).inspect_err(|_| coroutine.get().abandon(py))?;
    let options = TaskOptions {
        name: options.name.map(|name| PyString::new(py, &name).into_any()),
        context: options.context,
        eager_start: false,
        is_coroutine: true,
    };
    Ok(Task::start(scheduler, coroutine.into_any(), options)?.into_any())
}

/// Lets other callbacks run: ready in the loop's next turn.
pub async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|context| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
