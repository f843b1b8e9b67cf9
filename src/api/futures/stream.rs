//! Asynchronous iterators of Python, for Rust.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pyo3::exceptions::PyStopAsyncIteration;
use pyo3::intern;
use pyo3::prelude::*;

use crate::api::futures::awaitable::{PythonFuture, into_future};

/// An asynchronous iterator of Python, made by [`into_stream`].
///
/// `futures_util::stream::poll_fn(move |context| stream.poll_next(context))` makes a `Stream` of
/// it.
pub struct PythonStream {
    /// None after the end.
    iterator: Option<Py<PyAny>>,
    step: Option<PythonFuture>,
}

/// Iterates over an asynchronous generator or any other asynchronous iterable.
///
/// Iteration begins with the first call of [`PythonStream::next`]. Dropping the stream cancels the
/// step that it waits for, and leaves the generator as `break` leaves it in Python.
///
/// ```
/// # use pyo3::prelude::*;
/// async fn total(numbers: Py<PyAny>) -> PyResult<i64> {
///     let mut numbers = Python::attach(|py| ferroloop::into_stream(numbers.bind(py)))?;
///     let mut sum = 0;
///     while let Some(number) = numbers.next().await {
///         sum += Python::attach(|py| number?.extract::<i64>(py))?;
///     }
///     Ok(sum)
/// }
/// ```
///
/// # Errors
/// TypeError if the object is not an asynchronous iterable.
pub fn into_stream(iterable: &Bound<'_, PyAny>) -> PyResult<PythonStream> {
    let iterator = iterable.call_method0(intern!(iterable.py(), "__aiter__"))?;
    Ok(PythonStream { iterator: Some(iterator.unbind()), step: None })
}

impl PythonStream {
    /// The next item, or None at the end. After an exception the end follows, as for a generator.
    pub async fn next(&mut self) -> Option<PyResult<Py<PyAny>>> {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// [`PythonStream::next`] for implementations of `Stream`.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<PyResult<Py<PyAny>>>> {
        let Some(iterator) = &self.iterator else { return Poll::Ready(None) };
        let step = match &mut self.step {
            Some(step) => step,
            None => match Python::attach(|py| next_step(iterator.bind(py))) {
                Ok(step) => self.step.insert(step),
                Err(error) => return Poll::Ready(self.ended(error)),
            },
        };
        let item = ready!(Pin::new(step).poll(context));
        self.step = None;
        Poll::Ready(item.map_or_else(|error| self.ended(error), |item| Some(Ok(item))))
    }

    fn ended(&mut self, error: PyErr) -> Option<PyResult<Py<PyAny>>> {
        self.iterator = None;
        let is_end = Python::attach(|py| error.is_instance_of::<PyStopAsyncIteration>(py));
        (!is_end).then_some(Err(error))
    }
}

fn next_step(iterator: &Bound<'_, PyAny>) -> PyResult<PythonFuture> {
    into_future(iterator.call_method0(intern!(iterator.py(), "__anext__"))?)
}
