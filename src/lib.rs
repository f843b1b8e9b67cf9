//! ferroloop: asyncio's event loop, `Task` and `Future` in Rust, for Python and for Rust programs.
//!
//! What Rust programs can use, see also `docs/EMBEDDING.md`:
//!
//! * `Runtime` (feature `embed`) starts Python and runs a loop, [`Handle`] reaches it from any
//!   thread;
//! * [`coroutine`] and [`spawn_local`] make a Rust future available to Python, [`into_future`] a
//!   Python awaitable to Rust and [`into_stream`] an asynchronous generator; [`spawn_blocking`] runs
//!   a function in the loop's thread pool, [`run_on_executor`] a future on another executor;
//! * [`sleep`] and [`timeout`] are timers, [`TcpStream`], [`TcpListener`], [`UnixStream`],
//!   [`UnixListener`] and [`AsyncFd`] I/O on the same loop.
//!
//! Other extension modules use `include/ferroloop.rs` instead of this crate.
//!
//! Modules use lower layers only, which `tests/check_layers.py` checks. From the highest to the
//! lowest, see also `docs/ARCHITECTURE.md`:
//!
//! * 10: `lib.rs` re-exports the public Rust API.
//! * 9: `api/`: the module `_ferroloop`, the embedding API, C functions for extension modules.
//! * 8: `event_loop/`: the loop class; `api/net/`: sockets for Rust futures.
//! * 7: `tls/`; `socket_calls/`: `sock_recv()` and the like; `api/futures/`: Rust futures.
//! * 6: `task/`; `transport/`; `executor/`: the thread pool.
//! * 5: `streams/`: asyncio's stream readers and writers.
//! * 4: `future/`; `subprocess.rs`.
//! * 3: `handle/`; `signals.rs`; `watchdog.rs`: detection of a blocked loop.
//! * 2: `scheduler/`: ready queue, timers, watched descriptors, the turn.
//! * 1: `reactor/`, `executor/queue/`, `write_side/`, `metrics/`, without Python; `interop/`;
//!   `logging/`.
//! * 0: `ffi/`: CPython calls (`objects/`, `layout/`); `sys/`: system calls. All `unsafe` code.

// Unit tests are compiled with the dependencies of all tests.
#![cfg_attr(not(test), warn(unused_crate_dependencies))]

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
mod streams;
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
    Blocking, Closed, Elapsed, ExecutorFuture, ExecutorTask, Handle, JoinError, JoinHandle,
    PythonFuture, PythonStream, Sleep, SpawnOptions, coroutine, into_future, into_stream,
    run_on_executor, sleep, spawn_blocking, spawn_local, spawn_local_with, timeout, yield_now,
};
pub use api::net::{AsyncFd, Direction, TcpListener, TcpStream, UnixListener, UnixStream};

/// Parts that the benchmarks of this repository measure separately. Not part of the API.
#[doc(hidden)]
pub mod internals {
    pub use crate::executor::queue::{IdleWait, JobRunner, Queue, work};
    pub use crate::reactor::Timers;
}

/// Compiles the examples of the guide as tests.
#[cfg(all(doctest, feature = "embed"))]
#[doc = include_str!("../docs/EMBEDDING.md")]
struct Guide;
