//! The interface for the Tokio runtime.

use std::future::Future;
use std::ops::Deref;
use std::sync::{Mutex, OnceLock, PoisonError};

use ::tokio::runtime::{Builder, Runtime};
use futures_core::Stream;
use pyo3::prelude::*;

use crate::{TaskLocals, completion, get_running_loop, into_future_with_locals, streams};

/// Makes the function `main()` of a Rust program of an async one: it starts Python, and runs the
/// body by [`run`]. `flavor = "current_thread"` or `worker_threads = 4` set up the runtime.
///
/// The program must know this crate as `pyo3_async_runtimes`.
#[cfg(feature = "attributes")]
pub use pyo3_async_runtimes_macros::tokio_main as main;

/// What [`main`](macro@main) uses.
#[cfg(feature = "attributes")]
pub mod re_exports {
    pub use std::future::pending;

    pub use ::tokio::runtime;
}

::tokio::task_local! {
    static TASK_LOCALS: TaskLocals;
}

enum SharedRuntime {
    Borrowed(&'static Runtime),
    Owned(Runtime),
}

impl Deref for SharedRuntime {
    type Target = Runtime;

    fn deref(&self) -> &Runtime {
        match self {
            Self::Borrowed(runtime) => runtime,
            Self::Owned(runtime) => runtime,
        }
    }
}

static BUILDER: Mutex<Option<Builder>> = Mutex::new(None);
static RUNTIME: OnceLock<SharedRuntime> = OnceLock::new();

/// Sets how the runtime is built, which happens when it is first used.
pub fn init(builder: Builder) {
    *BUILDER.lock().unwrap_or_else(PoisonError::into_inner) = Some(builder);
}

/// Sets the runtime to use.
///
/// # Errors
/// If there is one already.
#[allow(clippy::result_unit_err, reason = "the interface of pyo3-async-runtimes")]
pub fn init_with_runtime(runtime: &'static Runtime) -> Result<(), ()> {
    RUNTIME.set(SharedRuntime::Borrowed(runtime)).map_err(|_| ())
}

/// The runtime, by default one with several threads.
///
/// # Panics
/// If the runtime cannot be built.
pub fn get_runtime<'a>() -> &'a Runtime {
    RUNTIME.get_or_init(|| {
        let mut builder = BUILDER.lock().unwrap_or_else(PoisonError::into_inner);
        let builder = builder.get_or_insert_with(|| {
            let mut builder = Builder::new_multi_thread();
            builder.enable_all();
            builder
        });
        SharedRuntime::Owned(builder.build().expect("Unable to build Tokio runtime"))
    })
}

/// Runs `future` with `locals` as its locals.
pub async fn scope<F, R>(locals: TaskLocals, future: F) -> R
where
    F: Future<Output = R> + Send + 'static,
{
    TASK_LOCALS.scope(locals, future).await
}

/// [`scope`] for a future that is not `Send`.
pub async fn scope_local<F, R>(locals: TaskLocals, future: F) -> R
where
    F: Future<Output = R> + 'static,
{
    TASK_LOCALS.scope(locals, future).await
}

/// The loop of the locals of this task, or else the loop that runs in this thread.
///
/// # Errors
/// RuntimeError if there is neither.
pub fn get_current_loop(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    match TASK_LOCALS.try_with(TaskLocals::clone) {
        Ok(locals) => Ok(locals.event_loop(py)),
        Err(_) => get_running_loop(py),
    }
}

/// The locals of this task, or else the loop that runs in this thread and a copy of the current
/// context.
///
/// # Errors
/// RuntimeError if there is neither.
pub fn get_current_locals(py: Python<'_>) -> PyResult<TaskLocals> {
    match TASK_LOCALS.try_with(TaskLocals::clone) {
        Ok(locals) => Ok(locals),
        Err(_) => TaskLocals::with_running_loop(py)?.copy_context(py),
    }
}

/// Runs `event_loop` in this thread until `future`, which runs on the Tokio runtime, is done.
///
/// # Errors
/// The error of the future; RuntimeError if the loop is stopped before.
pub fn run_until_complete<F, T>(event_loop: Bound<'_, PyAny>, future: F) -> PyResult<T>
where
    F: Future<Output = PyResult<T>> + Send + 'static,
    T: Send + Sync + 'static,
{
    let py = event_loop.py();
    let locals = TaskLocals::new(event_loop.clone()).copy_context(py)?;
    let (sender, output) = std::sync::mpsc::channel();
    let python_future = future_into_py_with_locals(py, locals, async move {
        let value = future.await?;
        // Fails if the loop was stopped.
        let _ = sender.send(value);
        Ok(())
    })?;
    event_loop.call_method1("run_until_complete", (python_future,))?;
    output.try_recv().map_err(|_| {
        pyo3::exceptions::PyRuntimeError::new_err("the future ended without an output")
    })
}

/// Runs `future` on the Tokio runtime, and a new loop in this thread until it is done: a loop of
/// ferroloop, or one of asyncio if ferroloop is not installed.
///
/// # Errors
/// The error of the future.
pub fn run<F, T>(py: Python<'_>, future: F) -> PyResult<T>
where
    F: Future<Output = PyResult<T>> + Send + 'static,
    T: Send + Sync + 'static,
{
    let module = py.import("ferroloop").or_else(|_| py.import("asyncio"))?;
    let event_loop = module.call_method0("new_event_loop")?;
    let result = run_until_complete(event_loop.clone(), future);
    let shut_down = |name| -> PyResult<()> {
        let waiting = event_loop.call_method0(name)?;
        event_loop.call_method1("run_until_complete", (waiting,)).map(drop)
    };
    shut_down("shutdown_asyncgens")?;
    shut_down("shutdown_default_executor")?;
    event_loop.call_method0("close")?;
    result
}

/// Runs `future` on the Tokio runtime, in the scope of `locals`; returns a future of Python that
/// completes with its outcome. Cancelling that drops the Rust future. A panic becomes
/// [`RustPanic`](crate::err::RustPanic).
///
/// # Errors
/// RuntimeError if the loop is closed.
pub fn future_into_py_with_locals<F, T>(
    py: Python<'_>,
    locals: TaskLocals,
    future: F,
) -> PyResult<Bound<'_, PyAny>>
where
    F: Future<Output = PyResult<T>> + Send + 'static,
    T: for<'py> IntoPyObject<'py> + Send + 'static,
{
    completion::future_into_py_with_locals(py, locals, future)
}

/// [`future_into_py_with_locals`] with the current locals.
///
/// # Errors
/// RuntimeError if no loop runs in this thread.
pub fn future_into_py<F, T>(py: Python<'_>, future: F) -> PyResult<Bound<'_, PyAny>>
where
    F: Future<Output = PyResult<T>> + Send + 'static,
    T: for<'py> IntoPyObject<'py> + Send + 'static,
{
    future_into_py_with_locals(py, get_current_locals(py)?, future)
}

/// [`future_into_py_with_locals`] for a future that is not `Send`. On a loop of ferroloop that runs
/// in this thread, `future` runs there, as a task. Otherwise a `LocalSet` of Tokio must run in this
/// thread.
///
/// # Errors
/// RuntimeError if the loop is closed.
///
/// # Panics
/// If there is neither.
pub fn local_future_into_py_with_locals<F, T>(
    py: Python<'_>,
    locals: TaskLocals,
    future: F,
) -> PyResult<Bound<'_, PyAny>>
where
    F: Future<Output = PyResult<T>> + 'static,
    T: for<'py> IntoPyObject<'py>,
{
    completion::local_future_into_py_with_locals(py, locals, future)
}

/// [`local_future_into_py_with_locals`] with the current locals.
///
/// # Errors
/// RuntimeError if no loop runs in this thread.
///
/// # Panics
/// As there.
pub fn local_future_into_py<F, T>(py: Python<'_>, future: F) -> PyResult<Bound<'_, PyAny>>
where
    F: Future<Output = PyResult<T>> + 'static,
    T: for<'py> IntoPyObject<'py>,
{
    local_future_into_py_with_locals(py, get_current_locals(py)?, future)
}

/// [`into_future_with_locals`] with the current locals.
///
/// # Errors
/// RuntimeError if there are none, or if the loop is closed.
pub fn into_future(
    awaitable: Bound<'_, PyAny>,
) -> PyResult<impl Future<Output = PyResult<Py<PyAny>>> + Send + use<>> {
    into_future_with_locals(&get_current_locals(awaitable.py())?, awaitable)
}

/// A stream of what an asynchronous generator yields, each item by a call of `__anext__()` in a
/// task of its own. An exception is an item.
///
/// # Errors
/// AttributeError if the object is not an asynchronous iterator.
pub fn into_stream_with_locals_v1(
    locals: TaskLocals,
    generator: Bound<'_, PyAny>,
) -> PyResult<impl Stream<Item = PyResult<Py<PyAny>>> + 'static + use<>> {
    streams::of_steps(locals, generator)
}

/// [`into_stream_with_locals_v1`] with the current locals.
///
/// # Errors
/// As there; RuntimeError if there are no locals.
pub fn into_stream_v1(
    generator: Bound<'_, PyAny>,
) -> PyResult<impl Stream<Item = PyResult<Py<PyAny>>> + 'static + use<>> {
    into_stream_with_locals_v1(get_current_locals(generator.py())?, generator)
}

/// A stream of what an asynchronous generator yields in one task of Python, which runs ahead of the
/// stream by some items. An exception of the generator ends the stream.
///
/// # Errors
/// RuntimeError if the loop is closed.
pub fn into_stream_with_locals_v2(
    locals: TaskLocals,
    generator: Bound<'_, PyAny>,
) -> PyResult<impl Stream<Item = Py<PyAny>> + 'static + use<>> {
    streams::of_task(locals, generator)
}

/// [`into_stream_with_locals_v2`] with the current locals.
///
/// # Errors
/// As there; RuntimeError if there are no locals.
pub fn into_stream_v2(
    generator: Bound<'_, PyAny>,
) -> PyResult<impl Stream<Item = Py<PyAny>> + 'static + use<>> {
    into_stream_with_locals_v2(get_current_locals(generator.py())?, generator)
}
