//! `get_extra_info()`: the socket and its addresses, determined on demand.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::interop::{address, imports};
use crate::sys::address::SocketAddress;
use crate::sys::socket;
use crate::transport::{Endpoint, Transport};

impl Transport {
    /// The value that asyncio's transport stores under `name` when it is created.
    fn find_extra<'py>(slf: &Bound<'py, Self>, name: &str) -> PyResult<Option<Bound<'py, PyAny>>> {
        if !slf.get().kind.is_socket {
            return Ok(None);
        }
        match name {
            "socket" => Self::transport_socket(slf).map(Some),
            "sockname" => Self::own_name(slf).map(Some),
            "peername" => Self::peer_name(slf).map(Some),
            _ => Ok(None),
        }
    }

    /// `get_extra_info(name, default)`.
    pub fn extra_info<'py>(
        slf: &Bound<'py, Self>,
        name: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = slf.py();
        if let Some(extra) = slf.get().extra.get_bound(py) {
            if let Some(value) = extra.get_item(name)? {
                return Ok(Some(value));
            }
        }
        let Ok(key) = name.extract::<&str>() else { return Ok(None) };
        let found = Self::find_extra(slf, key)?;
        if let Some(value) = &found {
            Self::extra_dict(slf).set_item(name, value)?;
        }
        Ok(found)
    }

    /// The dict of extra information.
    fn extra_dict<'py>(slf: &Bound<'py, Self>) -> Bound<'py, PyDict> {
        let py = slf.py();
        let this = slf.get();
        this.extra.get_bound(py).unwrap_or_else(|| {
            let extra = PyDict::new(py);
            this.extra.store(py, Some(extra.clone()));
            extra
        })
    }

    /// The complete dict, as asyncio's transport has it.
    pub fn complete_extra<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyDict>> {
        for name in ["socket", "sockname", "peername"] {
            Self::extra_info(slf, intern_name(slf.py(), name).as_any())?;
        }
        Ok(Self::extra_dict(slf))
    }

    /// The socket object, created now if the transport owns a bare descriptor; None if it is
    /// closed.
    pub fn socket_object<'py>(slf: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = slf.py();
        let this = slf.get();
        let is_bare = this.endpoint.inspect(py, |endpoint| matches!(endpoint, Endpoint::Bare(_)));
        if is_bare {
            if let Endpoint::Bare(bare) = this.endpoint.replace(py, Endpoint::Closed(None)) {
                let socket = bare.into_python(py)?;
                drop(this.endpoint.replace(py, Endpoint::of(&socket)?));
            }
        }
        Ok(this.endpoint.inspect(py, |endpoint| Some(endpoint.object()?.bind(py).clone())))
    }

    fn transport_socket<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let socket = match Self::socket_object(slf)? {
            Some(socket) => socket,
            None => {
                let kept = slf.get().endpoint.inspect(py, |endpoint| match endpoint {
                    Endpoint::Closed(Some(socket)) => Some(socket.bind(py).clone()),
                    _ => None,
                });
                match kept {
                    Some(socket) => socket,
                    // No socket object was created while it was open, and any closed one will do.
                    None => {
                        let socket = imports::socket_class(py)?.call0()?;
                        socket.call_method0(intern!(py, "close"))?;
                        socket
                    }
                }
            }
        };
        imports::transport_socket(py)?.call1((socket,))
    }

    /// Caches the local address, which is no longer available once the descriptor is closed.
    pub fn cache_own_name(&self, py: Python<'_>) {
        if self.names.inspect(py, |names| names.own.is_some()) {
            return;
        }
        if let Ok(name) = socket::own_name(self.descriptor(py)) {
            let mut names = self.names.take(py);
            names.own = Some(name);
            drop(self.names.replace(py, names));
        }
    }

    fn own_name<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        slf.get().cache_own_name(py);
        let name = slf.get().names.inspect(py, |names| names.own.clone());
        Self::address_object(slf, name, "getsockname")
    }

    fn peer_name<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let name = slf.get().names.inspect(py, |names| names.peer.clone());
        Self::address_object(slf, name, "getpeername")
    }

    fn address_object<'py>(
        slf: &Bound<'py, Self>,
        name: Option<SocketAddress>,
        method: &str,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let none = || py.None().into_bound(py);
        match name {
            None => Ok(none()),
            Some(SocketAddress::Other) => match Self::socket_object(slf)? {
                // Only Python can convert addresses of this family.
                Some(socket) => Ok(socket.call_method0(method).unwrap_or_else(|_| none())),
                None => Ok(none()),
            },
            Some(name) => address::to_python(py, &name),
        }
    }
}

fn intern_name<'py>(py: Python<'py>, name: &str) -> Bound<'py, pyo3::types::PyString> {
    pyo3::types::PyString::intern(py, name)
}
