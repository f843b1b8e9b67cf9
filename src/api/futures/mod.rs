//! Rust futures on the loop's thread, beside Python's coroutines.
//!
//! * `spawn.rs`: [`spawn_local`] and [`coroutine()`] give a Rust future to Python, as a task or as
//!   a coroutine;
//! * `coroutine.rs`: [`RustCoroutine`], the Python object for a Rust future;
//! * `frames.rs`: what tools show of such a coroutine;
//! * `awaitable.rs`: [`into_future`] gives a Python awaitable to Rust; `stream.rs`: [`into_stream`]
//!   an asynchronous iterator;
//! * `blocking.rs`: [`spawn_blocking`] calls a blocking function in the default executor;
//!   [`run_on_executor`] runs a future on another executor: its code is that of the extensions;
//! * `time.rs`: [`sleep`] and [`timeout`], on the loop's timers;
//! * `handle.rs`: [`Handle`], by which other threads use the loop; `join.rs`: [`JoinHandle`], which
//!   waits for the output of a future that they have spawned;
//! * `budget.rs`: has tasks that find their sockets always ready yield to others;
//! * `failure.rs`: panics and errors of Rust code as exceptions;
//! * `arena.rs`: thread-local storage of the futures; `waker.rs`: their wakers, and
//!   `poll_state.rs`: which wake-ups of them count.
//!
//! A future is polled with the GIL held, between two callbacks of the loop and in the context of
//! its task; long computations should release the GIL with [`Python::detach`]. Futures of any
//! executor-agnostic crate work. Wakers can be called in any thread and need no GIL.
//!
//! [`Python::detach`]: pyo3::Python::detach

mod arena;
mod awaitable;
mod blocking;
pub mod budget;
mod coroutine;
mod failure;
#[cfg(published_tasks)]
mod frames;
mod handle;
mod join;
mod poll_state;
mod spawn;
mod stream;
mod time;
mod waker;

pub use awaitable::{PythonFuture, into_future};
pub use blocking::{Blocking, spawn_blocking};
pub use coroutine::{RustCoroutine, running_loop};
pub use failure::{wake, wake_catching};
pub use handle::{Closed, Handle};
pub use join::{JoinError, JoinHandle};
pub use spawn::{SpawnOptions, boxed, coroutine, spawn_local, spawn_local_with, start, yield_now};
pub use stream::{PythonStream, into_stream};
pub use time::{Elapsed, Sleep, sleep, timeout};

use std::pin::Pin;

use pyo3::prelude::*;

pub use crate::ffi::c_api::{ExecutorFuture, ExecutorTask, run_on_executor};
use crate::ffi::objects::{freelist, slots};

/// A future whose output goes to Python.
pub type LocalFuture = Pin<Box<dyn Future<Output = PyResult<Py<PyAny>>>>>;

/// Completes the class. Called once, when the module is made.
pub fn install(py: Python<'_>) {
    freelist::install::<RustCoroutine>(py);
    slots::install_self_awaiting::<RustCoroutine>(py);
    slots::install_finalizer::<RustCoroutine>(py);
    #[cfg(published_tasks)]
    crate::task::set_stand_in(frames::stand_in);
    crate::ffi::entries::install::<RustCoroutine>(py);
}
