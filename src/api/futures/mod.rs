//! Rust futures on the loop's thread, beside Python's coroutines.
//!
//! * [`spawn_local`] and [`coroutine`]: a Rust future for Python, as a task or as a coroutine
//!   (`spawn.rs`, `coroutine.rs`);
//! * [`into_future`]: a Python awaitable for Rust (`awaitable.rs`);
//! * [`spawn_blocking`]: a call that may block, on the loop's pool (`blocking.rs`);
//! * [`sleep`] and [`timeout`], on the loop's timers (`time.rs`);
//! * [`Handle`]: the loop seen from other threads (`handle.rs`, `join.rs`);
//! * `arena.rs`: where futures live; `waker.rs`: how they are woken.
//!
//! A future is polled with the GIL held, between two callbacks of the loop and in the context of
//! its task; long computations should let go of the GIL by [`Python::detach`]. It may be made by
//! any executor-agnostic crate. Its waker can be called in any thread and needs no GIL.
//!
//! [`Python::detach`]: pyo3::Python::detach

#![forbid(unsafe_code)]

mod arena;
mod awaitable;
mod blocking;
mod coroutine;
mod handle;
mod join;
mod spawn;
mod time;
mod waker;

pub use awaitable::{PythonFuture, into_future};
pub use blocking::{Blocking, spawn_blocking};
pub use coroutine::{RustCoroutine, running};
pub use handle::{Closed, Handle};
pub use join::{JoinError, JoinHandle};
pub use spawn::{SpawnOptions, boxed, coroutine, spawn_local, spawn_local_with, start, yield_now};
pub use time::{Elapsed, Sleep, sleep, timeout};

use pyo3::prelude::*;

use crate::ffi::objects::{freelist, slots};

/// Completes the class. Called once, when the module is made.
pub fn install(py: Python<'_>) {
    freelist::install::<RustCoroutine>(py);
    slots::install_self_awaiting::<RustCoroutine>(py);
    slots::install_finalizer::<RustCoroutine>(py);
}
