//! `Handle`, by which other threads use a loop.

use std::future::Future;
use std::sync::Arc;
use std::{error, fmt};

use pyo3::intern;
use pyo3::prelude::*;

use crate::api::futures::coroutine::{closed, running_loop};
use crate::api::futures::failure::{panicked, report};
use crate::api::futures::join::{JoinHandle, output_channel};
use crate::api::futures::spawn::{SpawnOptions, boxed, start};
use crate::ffi::panic;
use crate::scheduler::Scheduler;
use crate::scheduler::inbox::{Inbox, Message};

/// Refers to a loop from any thread: it holds no Python object and its methods need no GIL.
///
/// A handle does not keep the loop open.
///
/// ```
/// # fn main() -> pyo3::PyResult<()> {
/// let runtime = ferroloop::Runtime::new()?;
/// let handle = runtime.handle();
/// let thread = std::thread::spawn(move || {
///     let sum = handle.spawn(async { 1 + 1 }).unwrap().join().unwrap();
///     handle.stop().unwrap();
///     sum
/// });
/// runtime.run_forever()?;
/// assert_eq!(thread.join().unwrap(), 2);
/// runtime.close()
/// # }
/// ```
#[derive(Clone)]
pub struct Handle(Arc<Inbox>);

/// The loop is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the event loop is closed")
    }
}

impl error::Error for Closed {}

/// RuntimeError, with the text that the loop's own methods raise.
impl From<Closed> for PyErr {
    fn from(_: Closed) -> Self {
        closed()
    }
}

impl Handle {
    /// The loop that runs in this thread.
    ///
    /// # Errors
    /// RuntimeError if no loop of ferroloop runs in this thread.
    pub fn current(py: Python<'_>) -> PyResult<Self> {
        Ok(Self::of_scheduler(&running_loop(py)?))
    }

    /// The loop that is this Python object.
    ///
    /// # Errors
    /// TypeError if the object is not a loop of ferroloop.
    pub fn of(event_loop: &Bound<'_, PyAny>) -> PyResult<Self> {
        Ok(Self::of_scheduler(event_loop.cast::<Scheduler>()?))
    }

    fn of_scheduler(scheduler: &Bound<'_, Scheduler>) -> Self {
        Self(scheduler.get().inbox().clone())
    }

    /// Runs `future` as a task of the loop. Any thread can await or join its output.
    ///
    /// # Errors
    /// [`Closed`] if the loop is closed.
    pub fn spawn<F>(&self, future: F) -> Result<JoinHandle<F::Output>, Closed>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.spawn_with(move || future)
    }

    /// Like [`Handle::spawn`], for a future that is not `Send`: `make` is called in the loop's
    /// thread.
    ///
    /// # Errors
    /// [`Closed`] if the loop is closed.
    pub fn spawn_with<M, F>(&self, make: M) -> Result<JoinHandle<F::Output>, Closed>
    where
        M: FnOnce() -> F + Send + 'static,
        F: Future + 'static,
        F::Output: Send + 'static,
    {
        let (sender, handle) = output_channel();
        self.post(move |scheduler| {
            let future = make();
            let task_body = async move {
                sender.send(future.await);
                Ok(())
            };
            start(scheduler, SpawnOptions::default(), boxed(task_body)).map(drop)
        })?;
        Ok(handle)
    }

    /// Calls `function` with the loop, in the loop's thread, between two callbacks. Errors and
    /// panics of the function go to the loop's exception handler.
    ///
    /// # Errors
    /// [`Closed`] if the loop is closed.
    pub fn call<F>(&self, function: F) -> Result<(), Closed>
    where
        F: for<'py> FnOnce(&Bound<'py, PyAny>) -> PyResult<()> + Send + 'static,
    {
        self.post(move |scheduler| function(scheduler))
    }

    /// Stops the loop after its current turn, as `loop.stop()` does.
    ///
    /// # Errors
    /// [`Closed`] if the loop is closed.
    pub fn stop(&self) -> Result<(), Closed> {
        self.post(|scheduler| {
            scheduler.get().set_stopping(scheduler.py(), true);
            Ok(())
        })
    }

    fn post<F>(&self, function: F) -> Result<(), Closed>
    where
        F: for<'py> FnOnce(&Bound<'py, Scheduler>) -> PyResult<()> + Send + 'static,
    {
        let call = Message::Call(Box::new(move |scheduler| {
            let done = panic::catch(|| function(scheduler));
            match done.unwrap_or_else(|message| Err(panicked(&message))) {
                Ok(()) => Ok(()),
                Err(error) => {
                    let text = intern!(scheduler.py(), "Exception in a call from another thread");
                    report(scheduler, text, error)
                }
            }
        }));
        self.0.post(call).map_err(|_| Closed)
    }
}
