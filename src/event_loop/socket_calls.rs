//! The `sock_*()` methods: their parameters; `socket_calls` does the work. For anything but a plain
//! `socket.socket` asyncio's own code runs, except for messages, which asyncio does not have.

use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyInt, PyString, PyTuple};

use super::EventLoop;
use crate::ffi::layout::socket::PythonSocket;
use crate::interop::{address, imports};
use crate::socket_calls::{Action, SocketCall};

impl EventLoop {
    /// A native call; `None` for sockets and arguments that are left to asyncio.
    fn socket_call<'py>(
        slf: &Bound<'py, Self>,
        sock: &Bound<'py, PyAny>,
        action: Option<Action>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = slf.py();
        // Subclasses may override the methods that asyncio would call.
        if !sock.get_type().is(imports::socket_class(py)?) {
            return Ok(None);
        }
        let (Some(action), Some(socket)) = (action, PythonSocket::of(sock)?) else {
            return Ok(None);
        };
        let call = SocketCall::new(slf.as_super(), socket, action);
        Ok(Some(Bound::new(py, call)?.into_any()))
    }

    fn socket_call_or_asyncio<'py>(
        slf: &Bound<'py, Self>,
        name: &str,
        action: Option<Action>,
        arguments: &[&Bound<'py, PyAny>],
    ) -> PyResult<Bound<'py, PyAny>> {
        if let Some(sock) = arguments.first() {
            if let Some(call) = Self::socket_call(slf, sock, action)? {
                return Ok(call);
            }
        }
        let all = std::iter::once(slf.as_any()).chain(arguments.iter().copied());
        let all = PyTuple::new(slf.py(), all.collect::<Vec<_>>())?;
        imports::selector_event_loop(slf.py())?.getattr(name)?.call1(all)
    }

    /// A call for messages, with the arguments of the socket's method of that name.
    fn message_call<'py, const N: usize>(
        slf: &Bound<'py, Self>,
        sock: &Bound<'py, PyAny>,
        action: fn(Py<PyAny>) -> Action,
        arguments: [Bound<'py, PyAny>; N],
    ) -> PyResult<Bound<'py, SocketCall>> {
        let py = slf.py();
        let Some(socket) = PythonSocket::of(sock)? else {
            let class = sock.get_type().name()?;
            return Err(PyTypeError::new_err(format!("sock must be a socket.socket, got {class}")));
        };
        let action = action(PyTuple::new(py, arguments)?.into_any().unbind());
        Bound::new(py, SocketCall::new(slf.as_super(), socket, action))
    }
}

/// An argument that the caller may omit; `None` is a value like any other.
enum Argument<'py> {
    Omitted,
    Given(Bound<'py, PyAny>),
}

impl<'a, 'py> FromPyObject<'a, 'py> for Argument<'py> {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        Ok(Self::Given(object.to_owned()))
    }
}

impl<'py> Argument<'py> {
    fn or_zero(self, py: Python<'py>) -> Bound<'py, PyAny> {
        match self {
            Self::Omitted => PyInt::new(py, 0).into_any(),
            Self::Given(object) => object,
        }
    }
}

/// A buffer size for a native call; `None` if it is out of range.
fn size(number: &Bound<'_, PyAny>) -> Option<usize> {
    number.extract::<u32>().ok().map(|number| number as usize)
}

#[pymethods]
impl EventLoop {
    /// Receive at most n bytes from a socket.
    fn sock_recv<'py>(
        slf: &Bound<'py, Self>,
        sock: &Bound<'py, PyAny>,
        n: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let action = size(n).map(Action::Receive);
        Self::socket_call_or_asyncio(slf, "sock_recv", action, &[sock, n])
    }

    /// Receive from a socket into a buffer; the result is the number of bytes.
    fn sock_recv_into<'py>(
        slf: &Bound<'py, Self>,
        sock: &Bound<'py, PyAny>,
        buf: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let action = Some(Action::ReceiveInto(buf.clone().unbind()));
        Self::socket_call_or_asyncio(slf, "sock_recv_into", action, &[sock, buf])
    }

    /// Receive a datagram; the result is a pair of the data and the sender's address.
    fn sock_recvfrom<'py>(
        slf: &Bound<'py, Self>,
        sock: &Bound<'py, PyAny>,
        bufsize: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let action = size(bufsize).filter(|_| knows_addresses(sock)).map(Action::ReceiveFrom);
        Self::socket_call_or_asyncio(slf, "sock_recvfrom", action, &[sock, bufsize])
    }

    /// Receive a datagram into a buffer; the result is a pair of its size and the sender.
    #[pyo3(signature = (sock, buf, nbytes=None))]
    fn sock_recvfrom_into<'py>(
        slf: &Bound<'py, Self>,
        sock: &Bound<'py, PyAny>,
        buf: &Bound<'py, PyAny>,
        nbytes: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let nbytes = match nbytes {
            Some(nbytes) => nbytes,
            None => 0i32.into_pyobject(slf.py())?.into_any(),
        };
        // asyncio raises for a size larger than the buffer.
        let fits = |size: &usize| buf.len().is_ok_and(|length| *size <= length);
        let action = size(&nbytes)
            .filter(fits)
            .filter(|_| knows_addresses(sock))
            .map(|size| Action::ReceiveFromInto(buf.clone().unbind(), size));
        Self::socket_call_or_asyncio(slf, "sock_recvfrom_into", action, &[sock, buf, &nbytes])
    }

    /// Send all data to a socket.
    fn sock_sendall<'py>(
        slf: &Bound<'py, Self>,
        sock: &Bound<'py, PyAny>,
        data: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let action = Some(Action::SendAll(data.clone().unbind(), 0));
        Self::socket_call_or_asyncio(slf, "sock_sendall", action, &[sock, data])
    }

    /// Send a datagram to an address; the result is the number of bytes sent.
    fn sock_sendto<'py>(
        slf: &Bound<'py, Self>,
        sock: &Bound<'py, PyAny>,
        data: &Bound<'py, PyAny>,
        address: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let action = Some(Action::SendTo(data.clone().unbind(), address.clone().unbind()));
        Self::socket_call_or_asyncio(slf, "sock_sendto", action, &[sock, data, address])
    }

    /// Connect a socket. asyncio's own coroutine resolves host names.
    fn sock_connect<'py>(
        slf: &Bound<'py, Self>,
        sock: &Bound<'py, PyAny>,
        address: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let action = literal(sock, address)?.map(|to| Action::Connect(to.unbind(), false));
        Self::socket_call_or_asyncio(slf, "sock_connect", action, &[sock, address])
    }

    /// The family and the address to which `create_connection()` would resolve a host and a port;
    /// None if the host is not an IP address in its usual form.
    fn _literal_address<'py>(
        &self,
        host: &Bound<'py, PyAny>,
        port: &Bound<'py, PyAny>,
    ) -> PyResult<Option<(i32, Bound<'py, PyAny>)>> {
        let (Ok(text), true) =
            (host.cast_exact::<PyString>(), port.is_exact_instance_of::<PyInt>())
        else {
            return Ok(None);
        };
        let is_v6 = text.to_str().is_ok_and(|text| text.contains(':'));
        let family = if is_v6 { libc::AF_INET6 } else { libc::AF_INET };
        let given = PyTuple::new(host.py(), [host, port])?;
        Ok(resolved(family, given.as_any())?.map(|address| (family, address)))
    }

    /// Accept a connection; the result is a pair of the new socket and the peer's address.
    fn sock_accept<'py>(
        slf: &Bound<'py, Self>,
        sock: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let action = knows_addresses(sock).then_some(Action::Accept);
        Self::socket_call_or_asyncio(slf, "sock_accept", action, &[sock])
    }

    /// Send a message, as `socket.sendmsg()` does: data from several buffers, and ancillary data
    /// such as descriptors; the result is the number of bytes of data sent, which may be less than
    /// given. A call that is cancelled has sent nothing.
    #[pyo3(
        signature = (
            sock, buffers, ancdata=Argument::Omitted, flags=Argument::Omitted, address=None
        ),
        text_signature = "($self, sock, buffers, ancdata=(), flags=0, address=None)"
    )]
    fn sock_sendmsg<'py>(
        slf: &Bound<'py, Self>,
        sock: &Bound<'py, PyAny>,
        buffers: Bound<'py, PyAny>,
        ancdata: Argument<'py>,
        flags: Argument<'py>,
        address: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, SocketCall>> {
        let py = slf.py();
        let ancdata = match ancdata {
            Argument::Omitted => PyTuple::empty(py).into_any(),
            Argument::Given(ancdata) => ancdata,
        };
        let address = address.unwrap_or_else(|| py.None().into_bound(py));
        let arguments = [buffers, ancdata, flags.or_zero(py), address];
        Self::message_call(slf, sock, Action::SendMessage, arguments)
    }

    /// Receive a message, as `socket.recvmsg()` does; the result is a tuple of the data, a list of
    /// ancillary data, the flags of the message and the sender's address. A call that is cancelled
    /// has received nothing.
    #[pyo3(
        signature = (sock, bufsize, ancbufsize=Argument::Omitted, flags=Argument::Omitted),
        text_signature = "($self, sock, bufsize, ancbufsize=0, flags=0)"
    )]
    fn sock_recvmsg<'py>(
        slf: &Bound<'py, Self>,
        sock: &Bound<'py, PyAny>,
        bufsize: Bound<'py, PyAny>,
        ancbufsize: Argument<'py>,
        flags: Argument<'py>,
    ) -> PyResult<Bound<'py, SocketCall>> {
        let py = slf.py();
        let arguments = [bufsize, ancbufsize.or_zero(py), flags.or_zero(py)];
        Self::message_call(slf, sock, Action::ReceiveMessage, arguments)
    }

    /// Receive a message into several buffers, as `socket.recvmsg_into()` does; the result is as
    /// that of `sock_recvmsg()`, with the number of bytes of data in place of the data.
    #[pyo3(
        signature = (sock, buffers, ancbufsize=Argument::Omitted, flags=Argument::Omitted),
        text_signature = "($self, sock, buffers, ancbufsize=0, flags=0)"
    )]
    fn sock_recvmsg_into<'py>(
        slf: &Bound<'py, Self>,
        sock: &Bound<'py, PyAny>,
        buffers: Bound<'py, PyAny>,
        ancbufsize: Argument<'py>,
        flags: Argument<'py>,
    ) -> PyResult<Bound<'py, SocketCall>> {
        let py = slf.py();
        let arguments = [buffers, ancbufsize.or_zero(py), flags.or_zero(py)];
        Self::message_call(slf, sock, Action::ReceiveMessageInto, arguments)
    }
}

/// The address to which asyncio would connect `sock`, if that needs no DNS lookup.
fn literal<'py>(
    sock: &Bound<'py, PyAny>,
    address: &Bound<'py, PyAny>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let family = sock.getattr(intern!(sock.py(), "family")).and_then(|family| family.extract());
    match family {
        Ok(libc::AF_UNIX) => Ok(Some(address.clone())),
        Ok(family) => resolved(family, address),
        Err(_) => Ok(None),
    }
}

/// An Internet address, completed as by asyncio; `None` if the host is a name, or for any unusual
/// argument.
fn resolved<'py>(family: i32, given: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
    let Ok(tuple) = given.cast_exact::<PyTuple>() else { return Ok(None) };
    if address::from_python(given, family).is_none() {
        return Ok(None);
    }
    match (family, tuple.len()) {
        (libc::AF_INET6, 2) => {
            let (host, port) = (tuple.get_item(0)?, tuple.get_item(1)?);
            Ok(Some((host, port, 0, 0).into_pyobject(given.py())?.into_any()))
        }
        (libc::AF_INET6, 3) => Ok(None),
        _ => Ok(Some(given.clone())),
    }
}

/// Whether native code can convert the addresses of a socket's family.
fn knows_addresses(sock: &Bound<'_, PyAny>) -> bool {
    sock.getattr(intern!(sock.py(), "family"))
        .and_then(|family| family.extract::<i32>())
        .is_ok_and(|family| [libc::AF_INET, libc::AF_INET6, libc::AF_UNIX].contains(&family))
}
