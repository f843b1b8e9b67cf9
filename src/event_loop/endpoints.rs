//! Creates transports and listeners for asyncio's coroutines, as `create_connection()`.

use std::os::fd::RawFd;

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyInt};

use super::{EventLoop, hooks};
use crate::ffi::section;
use crate::interop::imports;
use crate::sys::address::SocketAddress;
use crate::sys::socket;
use crate::tls::{self, TlsProtocol};
use crate::transport::{
    DatagramTransport, Endpoint, ListenOptions, Listener, OWNERS, ReadPipeTransport, ServeMode,
    StreamTransport, Transport, TransportParts, WritePipeTransport,
};

impl EventLoop {
    /// The open transport of this loop that owns a descriptor.
    fn owner_of<'py>(slf: &Bound<'py, Self>, fd: RawFd) -> Option<Bound<'py, Transport>> {
        let py = slf.py();
        let transport = OWNERS.get(py, fd)?.cast_into::<Transport>().ok()?;
        let is_ours = transport.get().scheduler(py).is_some_and(|scheduler| scheduler.is(slf));
        is_ours.then_some(transport)
    }
}

#[pymethods]
impl EventLoop {
    /// The transport that owns a descriptor, or None.
    fn _transport_of<'py>(slf: &Bound<'py, Self>, fd: RawFd) -> Option<Bound<'py, Transport>> {
        Self::owner_of(slf, fd)
    }

    /// Allows other uses of a transport's descriptor, while `sendfile()` runs.
    fn _release_transport_of(slf: &Bound<'_, Self>, fd: RawFd) -> bool {
        match Self::owner_of(slf, fd) {
            Some(transport) => {
                transport.get().release_descriptor(slf.py());
                true
            }
            None => false,
        }
    }

    /// Makes a transport the owner of its descriptor again.
    fn _claim_transport(_slf: &Bound<'_, Self>, transport: &Bound<'_, PyAny>) -> bool {
        match transport.cast::<Transport>() {
            Ok(transport) => {
                section::enter_of(transport, || Transport::claim_descriptor(transport));
                true
            }
            Err(_) => false,
        }
    }

    /// Raises RuntimeError for a descriptor that a transport of this loop owns.
    fn _ensure_fd_no_transport(slf: &Bound<'_, Self>, fd: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        let number = if fd.is_instance_of::<PyInt>() {
            fd.extract::<RawFd>().ok()
        } else {
            let fileno = fd
                .call_method0(intern!(py, "fileno"))
                .and_then(|number| py.get_type::<PyInt>().call1((number,))?.extract::<RawFd>());
            match fileno {
                Ok(number) => Some(number),
                Err(error) if is_file_object_error(py, &error) => {
                    let message = format!("Invalid file object: {}", fd.repr()?);
                    return Err(PyValueError::new_err(message));
                }
                Err(error) => return Err(error),
            }
        };
        let Some(number) = number else { return Ok(()) };
        let owner = match Self::owner_of(slf, number) {
            Some(transport) if !transport.get().is_closing(py) => transport.into_any(),
            Some(_) => return Ok(()),
            None => {
                // Transports that are not ours register themselves in the loop's dict.
                let foreign = slf
                    .getattr(intern!(py, "_transports"))?
                    .call_method1(intern!(py, "get"), (number,))?;
                if foreign.is_none()
                    || foreign.call_method0(intern!(py, "is_closing"))?.is_truthy()?
                {
                    return Ok(());
                }
                foreign
            }
        };
        let (fd, owner) = (fd.repr()?, owner.repr()?);
        Err(PyRuntimeError::new_err(format!("File descriptor {fd} is used by transport {owner}")))
    }

    /// A transport for a connected stream socket. `context`, which asyncio passes from 3.15 on, is
    /// the connection's own.
    #[pyo3(signature = (sock, protocol, waiter=None, *, extra=None, server=None, context=None))]
    fn _make_socket_transport<'py>(
        slf: &Bound<'py, Self>,
        sock: Bound<'py, PyAny>,
        protocol: Bound<'py, PyAny>,
        waiter: Option<Bound<'py, PyAny>>,
        extra: Option<Bound<'py, PyDict>>,
        server: Option<Bound<'py, PyAny>>,
        context: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if let Some(make) = hooks::replaced_transport_factory(slf, "_make_socket_transport")? {
            let keywords = PyDict::new(slf.py());
            keywords.set_item("extra", extra)?;
            keywords.set_item("server", server)?;
            add_context(&keywords, context)?;
            return make.call((sock, protocol, waiter), Some(&keywords));
        }
        Self::_ensure_fd_no_transport(slf, &sock)?;
        if has_own_methods(&sock, &["recv", "recv_into", "send", "sendmsg"])? {
            let class = imports::socket_transport(slf.py())?;
            let keywords = PyDict::new(slf.py());
            add_context(&keywords, context)?;
            return class.call((slf, sock, protocol, waiter, extra, server), Some(&keywords));
        }
        let endpoint = Endpoint::of(&sock)?;
        let fd = endpoint.descriptor();
        // Read now: once the peer has reset the connection, its name is no longer available.
        let peer = socket::peer_name(fd).ok();
        if matches!(peer, Some(SocketAddress::V4 { .. } | SocketAddress::V6 { .. })) {
            // The call fails, harmlessly, for streams over IP that are not TCP.
            let _not_tcp = socket::set_no_delay(fd);
        }
        let scheduler = slf.as_super().clone();
        let parts = TransportParts { scheduler, endpoint, protocol, extra, server, peer, context };
        StreamTransport::open(parts, waiter).map(Bound::into_any)
    }

    /// A transport for a datagram socket; `address` is the peer if it is connected to one.
    #[pyo3(signature = (sock, protocol, address=None, waiter=None, extra=None))]
    fn _make_datagram_transport<'py>(
        slf: &Bound<'py, Self>,
        sock: Bound<'py, PyAny>,
        protocol: Bound<'py, PyAny>,
        address: Option<Bound<'py, PyAny>>,
        waiter: Option<Bound<'py, PyAny>>,
        extra: Option<Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if let Some(make) = hooks::replaced_transport_factory(slf, "_make_datagram_transport")? {
            return make.call1((sock, protocol, address, waiter, extra));
        }
        Self::_ensure_fd_no_transport(slf, &sock)?;
        if has_own_methods(&sock, &["recvfrom", "send", "sendto"])? {
            let class = imports::datagram_transport(slf.py())?;
            return class.call1((slf, sock, protocol, address, waiter, extra));
        }
        let endpoint = Endpoint::of(&sock)?;
        let peer = socket::peer_name(endpoint.descriptor()).ok();
        let family = sock.getattr(intern!(slf.py(), "family"))?.extract()?;
        let scheduler = slf.as_super().clone();
        let (server, context) = (None, None);
        let parts = TransportParts { scheduler, endpoint, protocol, extra, server, peer, context };
        DatagramTransport::open(parts, family, address, waiter).map(Bound::into_any)
    }

    /// A transport for the reading end of a pipe.
    #[pyo3(signature = (pipe, protocol, waiter=None, extra=None))]
    fn _make_read_pipe_transport<'py>(
        slf: &Bound<'py, Self>,
        pipe: &Bound<'py, PyAny>,
        protocol: Bound<'py, PyAny>,
        waiter: Option<Bound<'py, PyAny>>,
        extra: Option<Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if let Some(make) = hooks::replaced_transport_factory(slf, "_make_read_pipe_transport")? {
            return make.call1((pipe, protocol, waiter, extra));
        }
        let scheduler = slf.as_super().clone();
        let parts = Transport::pipe_parts(scheduler, pipe, protocol, extra)?;
        ReadPipeTransport::open(parts, waiter).map(Bound::into_any)
    }

    /// A transport for the writing end of a pipe.
    #[pyo3(signature = (pipe, protocol, waiter=None, extra=None))]
    fn _make_write_pipe_transport<'py>(
        slf: &Bound<'py, Self>,
        pipe: &Bound<'py, PyAny>,
        protocol: Bound<'py, PyAny>,
        waiter: Option<Bound<'py, PyAny>>,
        extra: Option<Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if let Some(make) = hooks::replaced_transport_factory(slf, "_make_write_pipe_transport")? {
            return make.call1((pipe, protocol, waiter, extra));
        }
        let scheduler = slf.as_super().clone();
        let parts = Transport::pipe_parts(scheduler, pipe, protocol, extra)?;
        WritePipeTransport::open(parts, waiter).map(Bound::into_any)
    }

    /// The TLS transport for `protocol`, over a connected stream socket.
    #[pyo3(signature = (
        rawsock, protocol, sslcontext, waiter=None, *, server_side=false, server_hostname=None,
        extra=None, server=None, ssl_handshake_timeout=None, ssl_shutdown_timeout=None,
        context=None,
    ))]
    #[expect(clippy::too_many_arguments, reason = "asyncio's signature")]
    fn _make_ssl_transport<'py>(
        slf: &Bound<'py, Self>,
        rawsock: Bound<'py, PyAny>,
        protocol: Bound<'py, PyAny>,
        sslcontext: Bound<'py, PyAny>,
        waiter: Option<Bound<'py, PyAny>>,
        server_side: bool,
        server_hostname: Option<Bound<'py, PyAny>>,
        extra: Option<Bound<'py, PyDict>>,
        server: Option<Bound<'py, PyAny>>,
        ssl_handshake_timeout: Option<Bound<'py, PyAny>>,
        ssl_shutdown_timeout: Option<Bound<'py, PyAny>>,
        context: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        if let Some(make) = hooks::replaced_transport_factory(slf, "_make_ssl_transport")? {
            let keywords = PyDict::new(slf.py());
            keywords.set_item("server_side", server_side)?;
            keywords.set_item("server_hostname", server_hostname)?;
            keywords.set_item("extra", extra)?;
            keywords.set_item("server", server)?;
            keywords.set_item("ssl_handshake_timeout", ssl_handshake_timeout)?;
            keywords.set_item("ssl_shutdown_timeout", ssl_shutdown_timeout)?;
            add_context(&keywords, context)?;
            let made = make.call((rawsock, protocol, sslcontext, waiter), Some(&keywords))?;
            return Ok(Some(made));
        }
        Self::_ensure_fd_no_transport(slf, &rawsock)?;
        let tls = TlsProtocol::create(tls::TlsParts {
            scheduler: slf.as_super().clone(),
            protocol,
            context: sslcontext,
            waiter,
            server_side,
            server_hostname,
            call_connection_made: true,
            handshake_timeout: ssl_handshake_timeout,
            shutdown_timeout: ssl_shutdown_timeout,
        })?;
        let protocol = tls.clone().into_any();
        Self::_make_socket_transport(slf, rawsock, protocol, None, extra, server, context)?;
        Ok(TlsProtocol::transport(&tls).map(Bound::into_any))
    }

    /// Accepts connections on a listening socket and serves each in a task, whose coroutine
    /// `serve(socket, extra, context)` returns. Its context is None unless one is given here.
    fn _listen_by_tasks<'py>(
        slf: &Bound<'py, Self>,
        serve: Bound<'py, PyAny>,
        sock: &Bound<'py, PyAny>,
        server: Option<Bound<'py, PyAny>>,
        backlog: &Bound<'py, PyAny>,
        context: Option<Bound<'py, PyAny>>,
    ) -> PyResult<()> {
        let (factory, mode) = (serve, ServeMode::Task);
        let backlog = backlog.extract().unwrap_or(u32::MAX);
        let options = ListenOptions { factory, server, backlog, mode, context };
        Listener::start(slf.as_super(), sock, options)
    }

    /// Accepts connections on a listening socket and serves each by a protocol.
    fn _listen<'py>(
        slf: &Bound<'py, Self>,
        protocol_factory: Bound<'py, PyAny>,
        sock: &Bound<'py, PyAny>,
        server: Option<Bound<'py, PyAny>>,
        backlog: &Bound<'py, PyAny>,
        context: Option<Bound<'py, PyAny>>,
    ) -> PyResult<()> {
        let (factory, mode) = (protocol_factory, ServeMode::Protocol);
        let backlog = backlog.extract().unwrap_or(u32::MAX);
        let options = ListenOptions { factory, server, backlog, mode, context };
        Listener::start(slf.as_super(), sock, options)
    }
}

/// Adds a connection's context to the keywords for a method of asyncio, which accepts it from 3.15
/// on.
fn add_context(keywords: &Bound<'_, PyDict>, context: Option<Bound<'_, PyAny>>) -> PyResult<()> {
    if cfg!(Py_3_15) { keywords.set_item("context", context) } else { Ok(()) }
}

/// Whether the class of a socket overrides one of these methods. asyncio's transports call them
/// and ours make the system calls directly, so such a socket gets one of asyncio's.
fn has_own_methods(sock: &Bound<'_, PyAny>, methods: &[&str]) -> PyResult<bool> {
    let standard = imports::socket_class(sock.py())?;
    let class = sock.get_type();
    if class.is(standard) || !class.is_subclass(standard)? {
        return Ok(false);
    }
    for method in methods {
        if !class.getattr(*method)?.is(&standard.getattr(*method)?) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_file_object_error(py: Python<'_>, error: &PyErr) -> bool {
    use pyo3::exceptions::{PyAttributeError, PyTypeError};
    error.is_instance_of::<PyAttributeError>(py)
        || error.is_instance_of::<PyTypeError>(py)
        || error.is_instance_of::<PyValueError>(py)
}
