//! `loop.sock_recv()` and the other calls on a socket that the program keeps.
//!
//! * `operation.rs`: one call that waits until its socket is ready;
//! * `reader.rs`: the reader that stays registered between two calls on one socket.

#![forbid(unsafe_code)]

mod operation;
mod reader;

pub use operation::{Action, SocketOperation};
pub use reader::is_parked;

use pyo3::prelude::*;

use crate::ffi::objects::slots;

/// Completes the class. Called once, when the module is made.
pub fn install(py: Python<'_>) {
    slots::install_self_awaiting::<SocketOperation>(py);
    slots::install_finalizer::<SocketOperation>(py);
}
