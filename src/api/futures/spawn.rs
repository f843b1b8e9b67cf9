//! Gives Rust futures to Python, as coroutines and as tasks.

use std::any::TypeId;
use std::borrow::Cow;
use std::future::Future;
use std::task::Poll;

use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::api::futures::LocalFuture;
use crate::api::futures::coroutine::{RustCoroutine, running_loop};
use crate::ffi::section;
use crate::scheduler::Scheduler;
use crate::task::{Task, TaskOptions};

/// Boxes a future and converts its output to a Python object: `()` to None.
pub fn boxed<F, T>(future: F) -> LocalFuture
where
    F: Future<Output = PyResult<T>> + 'static,
    T: for<'py> IntoPyObject<'py> + 'static,
{
    Box::pin(async move {
        let value = future.await?;
        Python::attach(|py| {
            // Not an empty tuple.
            let is_unit = TypeId::of::<T>() == TypeId::of::<()>();
            if is_unit { Ok(py.None()) } else { value.into_py_any(py) }
        })
    })
}

/// A Python coroutine that runs `future` when it is awaited.
///
/// It behaves like the coroutine of an `async def` function: it does not start before it is
/// awaited, it can be awaited once, in this thread, and dropping it unawaited warns. `name` is its
/// `__name__`. Ending it early, for example by a cancellation, drops the future.
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
    T: for<'a> IntoPyObject<'a> + 'static,
{
    Ok(RustCoroutine::new(py, name.into(), boxed(future))?.into_any())
}

/// Options of a task that runs a Rust future, for [`spawn_local_with`].
#[derive(Default)]
pub struct SpawnOptions<'py> {
    /// Name of the task, by default `Task-N`.
    pub name: Option<Cow<'static, str>>,
    /// The `contextvars.Context` to run in, by default a copy of the current one.
    pub context: Option<Bound<'py, PyAny>>,
}

/// Runs `future` as a task of the loop that runs in this thread; returns the task.
///
/// To asyncio it is an ordinary task: it has a name and a context, `all_tasks()` lists it and
/// `current_task()` returns it while it is polled. An error becomes the task's exception; a panic
/// becomes RuntimeError. Cancelling the task drops the future, in this thread.
///
/// ```
/// use std::time::Duration;
///
/// use ferroloop::{sleep, spawn_local};
/// use pyo3::prelude::*;
///
/// #[pyfunction]
/// fn start(py: Python<'_>, seconds: f64) -> PyResult<Bound<'_, PyAny>> {
///     let duration = Duration::from_secs_f64(seconds);
///     spawn_local(py, async move {
///         sleep(duration).await;
///         Ok("slept")
///     })
/// }
/// ```
///
/// # Errors
/// RuntimeError if no loop of ferroloop runs in this thread.
pub fn spawn_local<F, T>(py: Python<'_>, future: F) -> PyResult<Bound<'_, PyAny>>
where
    F: Future<Output = PyResult<T>> + 'static,
    T: for<'a> IntoPyObject<'a> + 'static,
{
    spawn_local_with(py, SpawnOptions::default(), future)
}

/// Like [`spawn_local`], with a name or a context.
///
/// ```
/// use ferroloop::{SpawnOptions, spawn_local_with};
/// use pyo3::prelude::*;
///
/// #[pyfunction]
/// fn start(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
///     let options = SpawnOptions { name: Some("answer".into()), ..Default::default() };
///     spawn_local_with(py, options, async { Ok(42) })
/// }
/// ```
///
/// # Errors
/// RuntimeError if no loop of ferroloop runs in this thread.
pub fn spawn_local_with<'py, F, T>(
    py: Python<'py>,
    options: SpawnOptions<'py>,
    future: F,
) -> PyResult<Bound<'py, PyAny>>
where
    F: Future<Output = PyResult<T>> + 'static,
    T: for<'a> IntoPyObject<'a> + 'static,
{
    start(&running_loop(py)?, options, boxed(future))
}

/// Runs `future` as a task of `scheduler`.
pub fn start<'py>(
    scheduler: &Bound<'py, Scheduler>,
    options: SpawnOptions<'py>,
    future: LocalFuture,
) -> PyResult<Bound<'py, PyAny>> {
    section::enter(scheduler, || start_in_section(scheduler, options, future))
}

fn start_in_section<'py>(
    scheduler: &Bound<'py, Scheduler>,
    options: SpawnOptions<'py>,
    future: LocalFuture,
) -> PyResult<Bound<'py, PyAny>> {
    let py = scheduler.py();
    let name = options.name.clone().unwrap_or(Cow::Borrowed("rust_future"));
    let coroutine = RustCoroutine::new(py, name, future)?;
    // From now on closing the loop drops the future.
    coroutine.get().bind_to_loop(scheduler).inspect_err(|_| coroutine.get().abandon(py))?;
    let options = TaskOptions {
        name: options.name.map(|name| PyString::new(py, &name).into_any()),
        context: options.context,
        eager_start: false,
        is_coroutine: true,
    };
    Ok(Task::start(scheduler, coroutine.into_any(), options)?.into_any())
}

/// Yields to other callbacks; ready in the loop's next turn.
///
/// ```
/// async fn sum(numbers: Vec<u64>) -> u64 {
///     let mut sum = 0;
///     for part in numbers.chunks(100_000) {
///         sum += part.iter().sum::<u64>();
///         // Connections are served between two parts.
///         ferroloop::yield_now().await;
///     }
///     sum
/// }
/// ```
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
