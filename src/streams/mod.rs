//! asyncio's streams without their Python code, over native transports.
//!
//! A `StreamReader` of exactly asyncio's class is *adopted*: its state moves into a native object
//! and its class becomes a subclass with native methods. That happens to the reader and the writer
//! that a server passes to its callback before the callback is called, and to the reader of a client
//! when the first data arrives. Whatever is
//! unusual (an exception, the end of the stream, a limit, a replaced method, debug mode) is left to
//! asyncio's own coroutine, which finds the reader's state through properties of the subclass.
//!
//! Builds without a GIL adopt nothing, and asyncio's Python code does the work: giving an object
//! another class pauses all threads there.
//!
//! * `state.rs`: the state of a reader; `contents.rs`: the bytes that it holds;
//! * `originals.rs`: asyncio's classes and methods, and whether a program has replaced one;
//! * `adoption.rs`: makes readers and writers native;
//! * `feed.rs`: how a transport appends data and wakes the task that waits for it;
//! * `coroutine.rs`: what `read()`, `drain()` and the like return; `methods.rs`: these methods.

#![forbid(unsafe_code)]

mod adoption;
mod contents;
mod coroutine;
mod feed;
mod methods;
mod originals;
mod state;

use pyo3::prelude::*;
use pyo3::types::PyType;

pub use adoption::connection_made;
pub use coroutine::StreamCoroutine;
pub use feed::Feed;
pub use state::StreamReaderState;

use crate::ffi::entries;
use crate::ffi::objects::{freelist, slots};

/// Completes the classes. Called once, when the module is made.
pub fn install(py: Python<'_>) {
    freelist::install::<StreamCoroutine>(py);
    slots::install_self_awaiting::<StreamCoroutine>(py);
    slots::install_finalizer::<StreamCoroutine>(py);
    entries::install::<StreamCoroutine>(py);
    entries::install::<StreamReaderState>(py);
}

/// Adds the native methods to the subclasses of asyncio's classes, and gives these to what is
/// adopted from now on.
///
/// # Errors
/// Only those of a lack of memory.
pub fn register(reader: &Bound<'_, PyType>, writer: &Bound<'_, PyType>) -> PyResult<()> {
    methods::install(reader, writer)?;
    adoption::set_classes(reader, writer);
    Ok(())
}
