//! Protocols written in Rust, which receive data without a Python object for it.

use pyo3::prelude::*;

use crate::ffi::exception::PyOutcome;
use crate::ffi::objects::shared_buffer::BufferLease;

/// The functions of a native protocol.
pub struct NativeProtocolKind {
    /// Called instead of `data_received()`, with the number of bytes received into the buffer.
    /// Exceptions are treated as those of `buffer_updated()`.
    pub received:
        for<'py> fn(&Bound<'py, NativeProtocol>, &BufferLease<'py>, usize) -> PyOutcome<'py, ()>,
}

/// The base class of native protocols. Their other methods are called as those of any protocol.
#[pyclass(frozen, subclass, module = "ferroloop._ferroloop")]
pub struct NativeProtocol {
    kind: &'static NativeProtocolKind,
}

impl NativeProtocol {
    /// The base of a protocol of this kind.
    pub const fn new(kind: &'static NativeProtocolKind) -> Self {
        Self { kind }
    }

    /// Passes received data to the protocol.
    #[inline(always)]
    pub fn received<'py>(
        slf: &Bound<'py, Self>,
        lease: &BufferLease<'py>,
        length: usize,
    ) -> PyOutcome<'py, ()> {
        (slf.get().kind.received)(slf, lease, length)
    }
}
