//! Blocking Rust functions in the loop's default executor.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyCFunction;

use crate::api::futures::awaitable::{PythonFuture, into_future};
use crate::api::futures::coroutine::running_loop;
use crate::api::futures::failure::panicked;
use crate::ffi::panic::{self, CatchOnDrop};

/// Its return value, or the message of its panic.
type Outcome<T> = Arc<Mutex<Option<Result<T, String>>>>;

/// Waits for a call in the default executor, made by [`spawn_blocking`].
///
/// Dropping it cancels the call if no thread has begun it.
pub struct Blocking<T> {
    done: PythonFuture,
    result: Outcome<T>,
}

/// Calls `function` in a thread of the loop's default executor, with the GIL released.
///
/// The output is the function's return value. It is RuntimeError if the function panics or if the
/// executor is shut down before it makes the call.
///
/// ```
/// # use pyo3::prelude::*;
/// async fn size(path: std::path::PathBuf) -> PyResult<u64> {
///     let found = Python::attach(|py| {
///         ferroloop::spawn_blocking(py, move || std::fs::metadata(path))
///     })?;
///     Ok(found.await??.len())
/// }
/// ```
///
/// # Errors
/// RuntimeError if no loop of ferroloop runs in this thread, or its executor was shut down.
pub fn spawn_blocking<F, T>(py: Python<'_>, function: F) -> PyResult<Blocking<T>>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    let event_loop = running_loop(py)?;
    let result: Outcome<T> = Arc::default();
    // Python drops the job, also if it was cancelled.
    let call = CatchOnDrop::new((Mutex::new(Some(function)), result.clone()));
    let job = PyCFunction::new_closure(py, None, None, move |arguments, _keywords| {
        let (function, slot) = &*call;
        let function = function.lock().take();
        if let Some(function) = function {
            arguments.py().detach(|| {
                let outcome = panic::catch(function);
                *slot.lock() = Some(outcome);
            });
        }
    })?;
    let future = event_loop.call_method1(intern!(py, "run_in_executor"), (py.None(), job))?;
    Ok(Blocking { done: into_future(future)?, result })
}

impl<T> Future for Blocking<T> {
    type Output = PyResult<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let done = ready!(Pin::new(&mut self.done).poll(context));
        Poll::Ready(match (done, self.result.lock().take()) {
            (_, Some(Ok(value))) => Ok(value),
            (_, Some(Err(message))) => Err(panicked(&message)),
            (Err(error), None) => Err(error),
            (Ok(_), None) => Err(PyRuntimeError::new_err("the executor did not make the call")),
        })
    }
}
