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
pub mod c_future;
pub mod call;
pub mod cell;
pub mod class_version;
pub mod context;
pub mod coroutine;
pub mod exception;
pub mod freelist;
pub mod function_like;
pub mod guard;
pub mod instruction;
pub mod interpreter;
pub mod live;
pub mod method;
pub mod object;
pub mod owner;
pub mod reuse;
#[cfg(Py_3_14)]
pub mod running_task;
#[cfg(Py_3_13)]
pub mod signals;
pub mod slots;
pub mod socket;
pub mod task_number;
mod thread_exit;
mod thread_pointer;
mod thread_state;
mod trashcan;
pub mod window;
