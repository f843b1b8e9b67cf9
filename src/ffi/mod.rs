//! The only raw CPython calls of the crate, behind safe signatures.
//!
//! Rules of this folder:
//! * a `Python<'py>` token or a `Bound` proves that this thread is attached;
//! * every function says whether it may run Python code (and so re-enter the crate);
//! * errors are returned as [`exception::Raised`], never left set in the thread state;
//! * nothing here unwinds into C: functions that CPython calls catch panics.
//!
//! Files:
//!
//! * `attach.rs`, `thread_exit.rs`, `thread_pointer.rs`, `thread_stack.rs`, `interpreter.rs`: threads
//!   and interpreters;
//! * `call.rs`, `coroutine.rs`, `exception.rs`, `signals.rs`: calls of Python code;
//! * `panic.rs`: panics that must not unwind into C;
//! * `section.rs`, `section_waiters.rs`, `entries/`: the section of a loop, threads that wait for it,
//!   and how classes enter it;
//! * `attribute.rs`, `buffer.rs`: attributes and memory of objects;
//! * `method.rs`, `bound_callback.rs`, `keyword.rs`, `fast_path.rs`, `function_like.rs`,
//!   `guard.rs`: methods of native classes; `ssl_class.rs`: methods of the classes of `_ssl`;
//!   `openssl/`: the functions below them;
//!   `python_class.rs`: methods in C of Python classes;
//! * `c_api.rs`: C functions for other extension modules;
//! * `objects/`: memory, slots and registries of objects;
//! * `layout/`: what depends on CPython's memory layout.

#![allow(unsafe_code)]

pub mod attach;
pub mod attribute;
pub mod bound_callback;
pub mod buffer;
pub mod c_api;
pub mod call;
pub mod coroutine;
pub mod entries;
pub mod exception;
pub mod fast_path;
pub mod function_like;
pub mod guard;
pub mod interpreter;
pub mod keyword;
pub mod layout;
pub mod method;
pub mod objects;
pub mod openssl;
pub mod panic;
pub mod python_class;
pub mod section;
#[cfg(Py_GIL_DISABLED)]
pub mod section_waiters;
#[cfg(Py_3_13)]
pub mod signals;
pub mod ssl_class;
pub mod thread_exit;
pub mod thread_pointer;
pub mod thread_stack;
