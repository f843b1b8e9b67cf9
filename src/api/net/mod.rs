//! Sockets for Rust futures, on the poller that serves Python's.
//!
//! * [`AsyncFd`]: any descriptor, by readiness (`descriptor.rs`);
//! * [`TcpStream`], [`TcpListener`], [`UnixStream`], [`UnixListener`]: the standard library's
//!   sockets, with [`AsyncRead`](futures_io::AsyncRead) and
//!   [`AsyncWrite`](futures_io::AsyncWrite) (`stream.rs`, `tcp.rs`, `unix.rs`).
//!
//! All of them belong to the loop, and so to the thread, in which they were made.

#![forbid(unsafe_code)]

mod descriptor;
mod stream;
mod tcp;
mod unix;

pub use descriptor::{AsyncFd, Direction};
pub use tcp::{TcpListener, TcpStream};
pub use unix::{UnixListener, UnixStream};
