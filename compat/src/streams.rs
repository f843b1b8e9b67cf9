//! Asynchronous generators of Python as streams.

use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};

use ::tokio::sync::mpsc::{self, Receiver, Sender, error::TrySendError};
use futures_core::Stream;
use pyo3::IntoPyObjectExt;
use pyo3::exceptions::PyStopAsyncIteration;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;

use crate::completion::{future_into_py_with_locals, into_future_with_locals};
use crate::locals::TaskLocals;
use crate::tokio::get_runtime;

/// The receiving end of a channel.
struct Received<T>(Receiver<T>);

impl<T> Stream for Received<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        self.0.poll_recv(context)
    }
}

/// A stream of the results of `__anext__()`. A task of Tokio asks for the next item while the
/// program processes the last.
pub(crate) fn of_steps(
    locals: TaskLocals,
    generator: Bound<'_, PyAny>,
) -> PyResult<impl Stream<Item = PyResult<Py<PyAny>>> + 'static + use<>> {
    let step = generator.getattr("__anext__")?.unbind();
    let (sender, receiver) = mpsc::channel(1);
    get_runtime().spawn(async move {
        loop {
            let item = next_item(&locals, &step).await;
            let is_end = match &item {
                Ok(_) => false,
                Err(error) => Python::attach(|py| error.is_instance_of::<PyStopAsyncIteration>(py)),
            };
            // Fails if the stream was dropped.
            if is_end || sender.send(item).await.is_err() {
                break;
            }
        }
    });
    Ok(Received(receiver))
}

async fn next_item(locals: &TaskLocals, step: &Py<PyAny>) -> PyResult<Py<PyAny>> {
    Python::attach(|py| into_future_with_locals(locals, step.bind(py).call0()?))?.await
}

/// Sends the items of a generator. `send()` returns whether more are wanted, or an awaitable of
/// that.
const FORWARD: &std::ffi::CStr = c"
import inspect

async def forward(generator, sender):
    try:
        async for item in generator:
            wanted = sender.send(item)
            if inspect.isawaitable(wanted):
                wanted = await wanted
            if not wanted:
                break
    finally:
        sender.close()
";

/// The items that a generator may be ahead of its stream.
const AHEAD: usize = 10;

/// A stream of what one task of Python sends.
pub(crate) fn of_task(
    locals: TaskLocals,
    generator: Bound<'_, PyAny>,
) -> PyResult<impl Stream<Item = Py<PyAny>> + 'static + use<>> {
    static MODULE: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    let py = generator.py();
    let made = || {
        let file = c"ferroloop_async_runtimes/forward.py";
        PyModule::from_code(py, FORWARD, file, c"ferroloop_async_runtimes_forward")
            .map(Bound::unbind)
    };
    let module = MODULE.get_or_try_init(py, made)?.bind(py);
    let (sender, receiver) = mpsc::channel(AHEAD);
    let sender = ItemSender { locals: locals.clone(), sender: Mutex::new(Some(sender)) };
    let forwarding = module.call_method1("forward", (generator, sender))?.unbind();
    let in_context = locals.clone();
    locals.post_attached(py, move |event_loop| {
        let py = event_loop.py();
        let create_task = event_loop.getattr("create_task")?;
        in_context.run_in_context(&create_task, forwarding.bind(py), &PyDict::new(py)).map(drop)
    })?;
    Ok(Received(receiver))
}

/// The sending end for Python code.
#[pyclass(frozen)]
struct ItemSender {
    locals: TaskLocals,
    sender: Mutex<Option<Sender<Py<PyAny>>>>,
}

#[pymethods]
impl ItemSender {
    fn send<'py>(&self, py: Python<'py>, item: Py<PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(sender) = sender else { return false.into_bound_py_any(py) };
        match sender.try_send(item) {
            Ok(()) => true.into_bound_py_any(py),
            Err(TrySendError::Closed(_)) => false.into_bound_py_any(py),
            Err(TrySendError::Full(item)) => {
                future_into_py_with_locals(py, self.locals.clone(), async move {
                    Ok(sender.send(item).await.is_ok())
                })
            }
        }
    }

    fn close(&self) {
        drop(self.sender.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}
