//! Protocols written in Rust, which get what was received without a Python object for it.

#![forbid(unsafe_code)]

use pyo3::prelude::*;

use crate::ffi::exception::PyOutcome;
use crate::ffi::objects::shared_buffer::BufferLease;

/// What a native protocol does in place of `data_received()`.
pub struct NativeProtocolKind {
    /// Takes the first so many bytes of the window. What it raises is treated as raised by
    /// `buffer_updated()`.
    pub received:
        for<'py> fn(&Bound<'py, NativeProtocol>, &BufferLease<'py>, usize) -> PyOutcome<'py, ()>,
}

/// Base class of native protocols. Their other methods are called as those of any protocol.
#[pyclass(frozen, subclass, module = "ferroloop._ferroloop")]
pub struct NativeProtocol {
    kind: &'static NativeProtocolKind,
}

impl NativeProtocol {
    /// The base of a protocol of that kind.
    pub const fn new(kind: &'static NativeProtocolKind) -> Self {
        Self { kind }
    }

    /// Hands over what was received.
    #[inline(always)]
    pub fn received<'py>(
        slf: &Bound<'py, Self>,
        window: &BufferLease<'py>,
        length: usize,
    ) -> PyOutcome<'py, ()> {
        (slf.get().kind.received)(slf, window, length)
    }
}
