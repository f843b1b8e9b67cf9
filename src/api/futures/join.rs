//! The channel by which any thread receives the output of a future that runs on a loop.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::{error, fmt};

use parking_lot::{Condvar, Mutex};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::ffi::panic;

/// Why a [`JoinHandle`] gives no output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JoinError {
    /// The future was dropped before it was done: its task was cancelled, it panicked, or its loop
    /// was closed.
    Dropped,
}

impl fmt::Display for JoinError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the future was dropped before it was done")
    }
}

impl error::Error for JoinError {}

/// RuntimeError.
impl From<JoinError> for PyErr {
    fn from(error: JoinError) -> Self {
        PyRuntimeError::new_err(error.to_string())
    }
}

enum JoinState<T> {
    Pending(Option<Waker>),
    Done(T),
    Dropped,
}

struct Shared<T> {
    state: Mutex<JoinState<T>>,
    ended: Condvar,
}

/// Waits for the output of a future spawned by a [`Handle`](crate::api::futures::Handle): as a
/// future of any executor, or by blocking with [`JoinHandle::join`].
///
/// Dropping it does not cancel the future.
///
/// ```
/// use ferroloop::{Handle, JoinError, JoinHandle};
///
/// /// To be called in any thread but that of the loop, which it would block.
/// fn answer(handle: &Handle) -> Result<i32, JoinError> {
///     let output: JoinHandle<i32> =
///         handle.spawn(async { 42 }).map_err(|_closed| JoinError::Dropped)?;
///     output.join()
/// }
/// ```
pub struct JoinHandle<T>(Arc<Shared<T>>);

/// The sending end. Dropping it without an output makes the other end fail.
pub struct OutputSender<T>(Arc<Shared<T>>);

/// Both ends of a channel for one output.
pub fn output_channel<T>() -> (OutputSender<T>, JoinHandle<T>) {
    let shared =
        Arc::new(Shared { state: Mutex::new(JoinState::Pending(None)), ended: Condvar::new() });
    (OutputSender(shared.clone()), JoinHandle(shared))
}

impl<T> OutputSender<T> {
    /// Sends the output.
    pub fn send(self, value: T) {
        self.0.end(JoinState::Done(value));
    }
}

impl<T> Drop for OutputSender<T> {
    fn drop(&mut self) {
        if matches!(*self.0.state.lock(), JoinState::Pending(_)) {
            self.0.end(JoinState::Dropped);
        }
    }
}

impl<T> Shared<T> {
    fn end(&self, outcome: JoinState<T>) {
        let before = std::mem::replace(&mut *self.state.lock(), outcome);
        self.ended.notify_all();
        // This may run while the future's own panic unwinds, when another one would abort.
        let JoinState::Pending(Some(waker)) = before else { return };
        if let Err(message) = panic::catch(|| waker.wake()) {
            tracing::error!(target: "ferroloop::loop", message, "a waker panicked");
        }
    }
}

impl<T> JoinHandle<T> {
    /// Blocks until the future is done or dropped.
    ///
    /// It deadlocks if it is called in the loop's thread, or with the GIL held, since the future
    /// cannot run then: release the GIL with [`Python::detach`](pyo3::Python::detach).
    ///
    /// # Errors
    /// If the future was dropped before it was done.
    pub fn join(self) -> Result<T, JoinError> {
        let mut state = self.0.state.lock();
        loop {
            match std::mem::replace(&mut *state, JoinState::Dropped) {
                JoinState::Done(value) => return Ok(value),
                JoinState::Dropped => return Err(JoinError::Dropped),
                pending @ JoinState::Pending(_) => {
                    *state = pending;
                    self.0.ended.wait(&mut state);
                }
            }
        }
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.0.state.lock();
        if let JoinState::Pending(waker) = &mut *state {
            let unused = waker.replace(context.waker().clone());
            drop(state);
            drop(unused);
            return Poll::Pending;
        }
        match std::mem::replace(&mut *state, JoinState::Dropped) {
            JoinState::Done(value) => Poll::Ready(Ok(value)),
            _ => Poll::Ready(Err(JoinError::Dropped)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sent_output_is_joined() {
        let (sender, handle) = output_channel();
        let thread = std::thread::spawn(move || handle.join());
        sender.send(7);
        assert_eq!(thread.join().unwrap(), Ok(7));
    }

    #[test]
    fn a_dropped_sender_is_reported() {
        let (sender, handle) = output_channel::<u8>();
        let thread = std::thread::spawn(move || handle.join());
        drop(sender);
        assert_eq!(thread.join().unwrap(), Err(JoinError::Dropped));
    }
}
