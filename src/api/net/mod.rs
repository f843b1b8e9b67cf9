//! Sockets for Rust futures, on the loop's poller.
//!
//! * `descriptor.rs`: [`AsyncFd`], readiness of any descriptor;
//! * `tcp.rs`: [`TcpStream`] and [`TcpListener`];
//! * `unix.rs`: [`UnixStream`] and [`UnixListener`];
//! * `stream.rs`: [`AsyncRead`](futures_io::AsyncRead) and [`AsyncWrite`](futures_io::AsyncWrite)
//!   of both streams.
//!
//! They wrap the standard library's sockets, and belong to the loop that ran when they were
//! created, and so to its thread.

mod descriptor;
mod stream;
mod tcp;
mod unix;

pub use descriptor::{AsyncFd, Direction};
pub use tcp::{TcpListener, TcpStream};
pub use unix::{UnixListener, UnixStream};
