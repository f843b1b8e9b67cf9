//! Reads the descriptor of Python's socket objects.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicI32, Ordering};

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

/// The first fields of CPython's `PySocketSockObject`, unchanged since Python 2.
#[repr(C)]
struct SocketObject {
    head: ffi::PyObject,
    descriptor: RawFd,
}

/// A socket object of the standard library, or of a subclass.
pub struct PythonSocket(Py<PyAny>);

impl PythonSocket {
    /// `object`, if it is a `_socket.socket`.
    pub fn of(object: &Bound<'_, PyAny>) -> PyResult<Option<Self>> {
        static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        let class = CLASS.import(object.py(), "_socket", "socket")?;
        // By the actual type: an object may have another `__class__`.
        let real = object.get_type();
        Ok(real.is_subclass(class)?.then(|| Self(object.clone().unbind())))
    }

    /// The descriptor, or -1 once the socket is closed or detached: what `fileno()` returns,
    /// without a call.
    #[inline(always)]
    pub fn descriptor(&self) -> RawFd {
        // SAFETY: the object is a `_socket.socket`, whose structure begins with these fields; a
        // reference to `self` exists only in an attached thread.
        // Another thread may be closing the socket.
        unsafe {
            let place = &raw mut (*self.0.as_ptr().cast::<SocketObject>()).descriptor;
            AtomicI32::from_ptr(place).load(Ordering::Relaxed)
        }
    }

    /// The object.
    pub fn object(&self) -> &Py<PyAny> {
        &self.0
    }
}
