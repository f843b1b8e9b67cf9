//! The only raw CPython calls of the crate, behind safe signatures.
//!
//! Rules of this folder:
//! * a `Python<'py>` token or a `Bound` proves that this thread is attached;
//! * every function says whether it may run Python code (and so re-enter the crate);
//! * errors come back as [`exception::Raised`], never left behind in the thread state;
//! * nothing here unwinds into C: functions that CPython calls catch panics.

#![allow(unsafe_code)]

pub mod attach;
pub mod attribute;
pub mod buffer;
pub mod c_api;
pub mod call;
pub mod coroutine;
pub mod exception;
pub mod function_like;
pub mod guard;
pub mod interpreter;
pub mod layout;
pub mod method;
pub mod objects;
#[cfg(Py_3_13)]
pub mod signals;
mod thread_exit;
mod thread_pointer;
