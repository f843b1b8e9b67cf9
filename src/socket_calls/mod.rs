//! `loop.sock_recv()` and the other `sock_*()` methods, on sockets that the program owns.
//!
//! * `call.rs`: one call, which waits until its socket is ready; `action.rs`: its system call;
//! * `messages.rs`: the calls for messages with ancillary data;
//! * `reader.rs`: the reader that stays registered between two calls on one socket.
//!
//! The methods and their parameters are in `event_loop::socket_calls`. A call that waits is
//! listed in `scheduler::socket_waiters`, which ends it if the program closes its socket.

#![forbid(unsafe_code)]

mod action;
mod call;
mod messages;
mod reader;

pub use action::Action;
pub use call::SocketCall;
pub use reader::is_idle_reader;

use pyo3::prelude::*;

use crate::ffi::objects::slots;

/// Completes the class. Called once, when the module is made.
pub fn install(py: Python<'_>) {
    slots::install_self_awaiting::<SocketCall>(py);
    slots::install_finalizer::<SocketCall>(py);
    crate::ffi::entries::install::<SocketCall>(py);
}
