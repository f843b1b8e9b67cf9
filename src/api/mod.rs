//! The interface of the event loop for Python, Rust programs and other extension modules.
//!
//! * `futures/`: Rust futures on the loop's thread, as tasks and coroutines of Python;
//! * `net/`: sockets for those futures;
//! * `embed/`: starts Python in a Rust program and runs a loop (feature `embed`);
//! * `capsule.rs`: the C functions by which other extension modules use the loop;
//! * `native_module.rs`: the module `_ferroloop` of the Python package.

#![forbid(unsafe_code)]

pub mod capsule;
#[cfg(feature = "embed")]
pub mod embed;
pub mod futures;
mod native_module;
pub mod net;
