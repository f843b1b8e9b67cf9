//! Panics of code that the program supplies: futures, wakers, destructors.
//!
//! A panic must not unwind into C, which would abort the process, and must not keep the rest of a
//! loop from being processed. The panic hook has already reported it when it is caught here.

use std::any::Any;
use std::mem::forget;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Calls `body`; the error is the message of its panic.
#[inline(always)]
pub fn catch<R>(body: impl FnOnce() -> R) -> Result<R, String> {
    catch_unwind(AssertUnwindSafe(body)).map_err(into_message)
}

/// The message of a caught panic. Drops the payload.
#[cold]
fn into_message(payload: Box<dyn Any + Send>) -> String {
    let message = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("unknown reason")
        .to_owned();
    // Dropping the payload may panic as well. That one's payload is leaked, or this might not end.
    if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        forget(second);
    }
    message
}

/// Drops a value of the program, whose destructor may panic.
pub fn drop_catching<T>(value: T) {
    if let Err(message) = catch(|| drop(value)) {
        tracing::error!(target: "ferroloop::loop", message, "a destructor panicked");
    }
}

/// A value of the program that is dropped where a panic must not unwind.
pub struct CatchOnDrop<T>(Option<T>);

impl<T> CatchOnDrop<T> {
    /// Owns `value`.
    pub fn new(value: T) -> Self {
        Self(Some(value))
    }
}

impl<T> Deref for CatchOnDrop<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect("it is taken only to be dropped")
    }
}

impl<T> Drop for CatchOnDrop<T> {
    fn drop(&mut self) {
        drop_catching(self.0.take());
    }
}
