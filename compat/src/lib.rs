//! The interface of [pyo3-async-runtimes] for Tokio, on ferroloop's event loop: an extension module
//! that was written for that crate changes one line,
//!
//! ```ignore
//! use ferroloop_async_runtimes as pyo3_async_runtimes;
//! ```
//!
//! or the line of its manifest that names the dependency:
//!
//! ```toml
//! pyo3-async-runtimes = { package = "ferroloop-async-runtimes", version = "0.1", features = ["tokio-runtime"] }
//! ```
//!
//! Rust futures run on a Tokio runtime in other threads, as there. On a loop of ferroloop their
//! outcomes are messages to the loop: Tokio's threads neither take the GIL nor wait for it. On any
//! other loop, or if ferroloop is not installed, they are sent by `call_soon_threadsafe()`.
//!
//! New code that needs no Tokio runtime should use `include/ferroloop.rs`, by which futures run in
//! the loop's thread.
//!
//! Not provided: the module `async_std`, the traits of `generic`, and `testing` with the attribute
//! `test`. A new Rust program that runs Python code should use the crate `ferroloop` with its feature
//! `embed`.
//!
//! [pyo3-async-runtimes]: https://docs.rs/pyo3-async-runtimes

#![warn(missing_docs)]
#![deny(unsafe_code)]

mod at_exit;
mod completion;
pub mod err;
#[allow(unsafe_code, reason = "calls C functions")]
mod ferroloop;
mod locals;
mod streams;
pub mod tokio;

pub use completion::into_future_with_locals;
pub use locals::{TaskLocals, get_running_loop};
