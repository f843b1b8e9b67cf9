//! A look into Python's socket objects.

use std::os::fd::RawFd;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

/// The head of CPython's `PySocketSockObject`, the same since Python 2.
#[repr(C)]
struct SocketObject {
    head: ffi::PyObject,
    descriptor: RawFd,
}

/// A socket object of the standard library, subclasses included.
pub struct PythonSocket(Py<PyAny>);

impl PythonSocket {
    /// `object`, if it is a `_socket.socket`.
    pub fn of(object: &Bound<'_, PyAny>) -> PyResult<Option<Self>> {
        static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        let class = CLASS.import(object.py(), "_socket", "socket")?;
        // By the real type: an object may claim another `__class__`.
        let real = object.get_type();
        Ok(real.is_subclass(class)?.then(|| Self(object.clone().unbind())))
    }

    /// The descriptor, -1 once the socket is closed or detached: what `fileno()` answers, without
    /// a call.
    #[inline(always)]
    pub fn descriptor(&self) -> RawFd {
        // SAFETY: the object is a `_socket.socket`, whose structure begins with these fields;
        // whoever holds a reference to the cell's content is attached.
        unsafe { (*self.0.as_ptr().cast::<SocketObject>()).descriptor }
    }

    /// The object.
    pub fn object(&self) -> &Py<PyAny> {
        &self.0
    }
}
