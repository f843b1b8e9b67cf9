//! ferroloop: asyncio's event loop, `Task` and `Future` in Rust, for Python and for Rust programs.
//!
//! What Rust code has of it, see also `docs/EMBEDDING.md`:
//!
//! * `Runtime` (feature `embed`) starts Python and runs a loop, [`Handle`] reaches it from any
//!   thread;
//! * [`coroutine`] and [`spawn_local`] give a Rust future to Python, [`into_future`] a Python
//!   awaitable to Rust, [`spawn_blocking`] a call to the loop's pool;
//! * [`sleep`], [`timeout`], [`TcpStream`], [`TcpListener`], [`UnixStream`], [`UnixListener`] and
//!   [`AsyncFd`] are time and I/O on the same loop.
//!
//! Other extension modules use `include/ferroloop.rs` instead of this crate.
//!
//! The layers, which point down only and which `tests/check_layers.py` checks, are those of
//! `docs/ARCHITECTURE.md`.

mod api;
mod event_loop;
mod executor;
mod ffi;
mod future;
mod handle;
mod interop;
mod logging;
mod metrics;
mod reactor;
mod scheduler;
mod signals;
mod socket_calls;
mod subprocess;
mod sys;
mod task;
mod tls;
mod transport;
mod watchdog;
mod write_side;

#[cfg(feature = "embed")]
pub use api::embed::*;
pub use api::futures::{
    Blocking, Closed, Elapsed, Handle, JoinError, JoinHandle, PythonFuture, Sleep, SpawnOptions,
    coroutine, into_future, sleep, spawn_blocking, spawn_local, spawn_local_with, timeout,
    yield_now,
};
pub use api::net::{AsyncFd, Direction, TcpListener, TcpStream, UnixListener, UnixStream};

/// What this repository's benchmarks measure by itself. Not part of the API.
#[doc(hidden)]
pub mod internals {
    pub use crate::executor::queue::{JobRunner, Queue, Wait, work};
    pub use crate::reactor::Timers;
}

/// Tests the guide.
#[cfg(all(doctest, feature = "embed"))]
#[doc = include_str!("../docs/EMBEDDING.md")]
struct Guide;
