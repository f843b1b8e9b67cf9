//! The socket of a transport.

use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::ffi::layout::socket::PythonSocket;
use crate::ffi::objects::cell::Traverse;
use crate::interop::imports;

/// The owner of the descriptor.
///
/// The layout makes zeroed memory `Closed`: on 3.11 and 3.12 the garbage collector may visit a
/// transport before its value is moved in.
#[repr(C, u64)]
pub enum Endpoint {
    /// Closed; the Python object, if there was one, is kept for `get_extra_info("socket")`.
    Closed(Option<Py<PyAny>>) = 0,
    /// A socket object of the standard library.
    Python(PythonSocket),
    /// Any other object with the methods of a socket, and its initial descriptor.
    Foreign(Py<PyAny>, RawFd),
    /// The transport itself. It becomes a Python socket when the program asks for one.
    Bare(BareSocket),
}

/// A descriptor, and the arguments for creating a Python socket object for it.
pub struct BareSocket {
    /// The descriptor.
    pub fd: OwnedFd,
    /// `AF_INET` and so on.
    pub family: i32,
    /// `SOCK_STREAM` and so on.
    pub kind: i32,
    /// `IPPROTO_TCP` and so on.
    pub protocol: i32,
}

impl Endpoint {
    /// The endpoint for a Python object.
    ///
    /// # Errors
    /// Those of `fileno()`.
    pub fn of(socket: &Bound<'_, PyAny>) -> PyResult<Self> {
        if let Some(socket) = PythonSocket::of(socket)? {
            return Ok(Self::Python(socket));
        }
        let fd = socket.call_method0(intern!(socket.py(), "fileno"))?.extract()?;
        Ok(Self::Foreign(socket.clone().unbind(), fd))
    }

    /// The descriptor, or -1 if it is closed.
    #[inline(always)]
    pub fn descriptor(&self) -> RawFd {
        match self {
            Self::Python(socket) => socket.descriptor(),
            Self::Bare(socket) => socket.fd.as_raw_fd(),
            Self::Foreign(_, fd) => *fd,
            Self::Closed(_) => -1,
        }
    }

    /// Whether the transport has closed it.
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::Closed(_))
    }

    /// The Python object, if there is one and it is open.
    pub fn object(&self) -> Option<&Py<PyAny>> {
        match self {
            Self::Python(socket) => Some(socket.object()),
            Self::Foreign(socket, _) => Some(socket),
            Self::Bare(_) | Self::Closed(_) => None,
        }
    }
}

impl BareSocket {
    /// Moves the descriptor to a new Python socket object.
    pub fn into_python(self, py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        let class = imports::socket_class(py)?;
        let keywords = PyDict::new(py);
        // The socket object owns the descriptor as soon as it exists.
        let fd = self.fd.into_raw_fd();
        keywords.set_item(intern!(py, "fileno"), fd)?;
        let socket = class.call((self.family, self.kind, self.protocol), Some(&keywords))?;
        socket.call_method1(intern!(py, "setblocking"), (false,))?;
        Ok(socket)
    }
}

impl Traverse for Endpoint {
    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Self::Python(socket) => visit.call(socket.object()),
            Self::Foreign(socket, _) | Self::Closed(Some(socket)) => visit.call(socket),
            Self::Bare(_) | Self::Closed(None) => Ok(()),
        }
    }
}
