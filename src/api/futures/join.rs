//! The outcome of a future that runs on a loop, for any thread.

#![forbid(unsafe_code)]

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::{error, fmt};

use parking_lot::{Condvar, Mutex};

/// Why there is no output.
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

enum State<T> {
    Pending(Option<Waker>),
    Done(T),
    Dropped,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    ended: Condvar,
}

/// Waits for the output of a future spawned by a [`Handle`](crate::api::futures::Handle): as a future in any
/// executor, or by blocking. Dropping it leaves the future alone.
pub struct JoinHandle<T>(Arc<Shared<T>>);

/// The other end; dropping it without an output tells the waiting one.
pub struct Promise<T>(Arc<Shared<T>>);

/// A promise and who waits for it.
pub fn promise<T>() -> (Promise<T>, JoinHandle<T>) {
    let shared =
        Arc::new(Shared { state: Mutex::new(State::Pending(None)), ended: Condvar::new() });
    (Promise(shared.clone()), JoinHandle(shared))
}

impl<T> Promise<T> {
    /// Keeps the promise.
    pub fn keep(self, value: T) {
        self.0.end(State::Done(value));
    }
}

impl<T> Drop for Promise<T> {
    fn drop(&mut self) {
        if matches!(*self.0.state.lock(), State::Pending(_)) {
            self.0.end(State::Dropped);
        }
    }
}

impl<T> Shared<T> {
    fn end(&self, outcome: State<T>) {
        let before = std::mem::replace(&mut *self.state.lock(), outcome);
        self.ended.notify_all();
        if let State::Pending(Some(waker)) = before {
            waker.wake();
        }
    }
}

impl<T> JoinHandle<T> {
    /// Blocks until the future is over. Not in the thread of the loop, which could never end it,
    /// and not with the GIL held: see [`Python::detach`](pyo3::Python::detach).
    ///
    /// # Errors
    /// If the future was dropped before it was done.
    pub fn join(self) -> Result<T, JoinError> {
        let mut state = self.0.state.lock();
        loop {
            match std::mem::replace(&mut *state, State::Dropped) {
                State::Done(value) => return Ok(value),
                State::Dropped => return Err(JoinError::Dropped),
                pending @ State::Pending(_) => {
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
        if let State::Pending(waker) = &mut *state {
            let unused = waker.replace(context.waker().clone());
            drop(state);
            drop(unused);
            return Poll::Pending;
        }
        match std::mem::replace(&mut *state, State::Dropped) {
            State::Done(value) => Poll::Ready(Ok(value)),
            _ => Poll::Ready(Err(JoinError::Dropped)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_promise_is_joined() {
        let (promise, handle) = promise();
        let thread = std::thread::spawn(move || handle.join());
        promise.keep(7);
        assert_eq!(thread.join().unwrap(), Ok(7));
    }

    #[test]
    fn a_dropped_promise_is_told() {
        let (promise, handle) = promise::<u8>();
        let thread = std::thread::spawn(move || handle.join());
        drop(promise);
        assert_eq!(thread.join().unwrap(), Err(JoinError::Dropped));
    }
}
