//! The system call of each `sock_*()` method.

use std::io;
use std::mem::MaybeUninit;

use pyo3::exceptions::{PyBlockingIOError, PyInterruptedError, PyOSError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::call::{CallState, SocketCall};
use crate::ffi::exception::{OrRaise, PyOutcome, Raised};
use crate::ffi::objects::cell::Traverse;
use crate::ffi::{buffer, call};
use crate::interop::address;
use crate::interop::error::os_error;
use crate::sys::is_not_ready;
use crate::sys::socket;
use crate::transport::endpoint::BareSocket;
use crate::transport::receive;

/// The call to make on the socket.
pub enum Action<O = Py<PyAny>> {
    /// `sock_recv(sock, n)`.
    Receive(usize),
    /// `sock_recv_into(sock, buf)`.
    ReceiveInto(O),
    /// `sock_recvfrom(sock, bufsize)`.
    ReceiveFrom(usize),
    /// `sock_recvfrom_into(sock, buf, nbytes)`.
    ReceiveFromInto(O, usize),
    /// `sock_accept(sock)`.
    Accept,
    /// `sock_sendall(sock, data)`, and the number of bytes sent so far.
    SendAll(O, usize),
    /// `sock_sendto(sock, data, address)`.
    SendTo(O, O),
    /// `sock_connect(sock, address)`, and whether connecting is in progress.
    Connect(O, bool),
    /// `sock_sendmsg(sock, *arguments)`.
    SendMessage(O),
    /// `sock_recvmsg(sock, *arguments)`.
    ReceiveMessage(O),
    /// `sock_recvmsg_into(sock, *arguments)`.
    ReceiveMessageInto(O),
}

impl Action {
    fn bind<'py>(&self, py: Python<'py>) -> Action<Bound<'py, PyAny>> {
        let bound = |object: &Py<PyAny>| object.bind(py).clone();
        match self {
            Self::Receive(size) => Action::Receive(*size),
            Self::ReceiveInto(target) => Action::ReceiveInto(bound(target)),
            Self::ReceiveFrom(size) => Action::ReceiveFrom(*size),
            Self::ReceiveFromInto(target, size) => Action::ReceiveFromInto(bound(target), *size),
            Self::Accept => Action::Accept,
            Self::SendAll(data, sent) => Action::SendAll(bound(data), *sent),
            Self::SendTo(data, to) => Action::SendTo(bound(data), bound(to)),
            Self::Connect(to, in_progress) => Action::Connect(bound(to), *in_progress),
            Self::SendMessage(arguments) => Action::SendMessage(bound(arguments)),
            Self::ReceiveMessage(arguments) => Action::ReceiveMessage(bound(arguments)),
            Self::ReceiveMessageInto(arguments) => Action::ReceiveMessageInto(bound(arguments)),
        }
    }

    /// The name of the loop's method.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Receive(_) => "sock_recv",
            Self::ReceiveInto(_) => "sock_recv_into",
            Self::ReceiveFrom(_) => "sock_recvfrom",
            Self::ReceiveFromInto(..) => "sock_recvfrom_into",
            Self::Accept => "sock_accept",
            Self::SendAll(..) => "sock_sendall",
            Self::SendTo(..) => "sock_sendto",
            Self::Connect(..) => "sock_connect",
            Self::SendMessage(_) => "sock_sendmsg",
            Self::ReceiveMessage(_) => "sock_recvmsg",
            Self::ReceiveMessageInto(_) => "sock_recvmsg_into",
        }
    }

    /// Whether it is a call for messages with ancillary data.
    pub(super) fn is_message(&self) -> bool {
        matches!(self, Self::SendMessage(_) | Self::ReceiveMessage(_) | Self::ReceiveMessageInto(_))
    }

    /// Whether it waits until the socket is writable.
    pub(super) fn writes(&self) -> bool {
        self.continues_when_ready() || matches!(self, Self::SendMessage(_))
    }

    /// Whether it continues as soon as the socket is ready, and not when the task runs.
    pub(super) fn continues_when_ready(&self) -> bool {
        matches!(self, Self::SendAll(..) | Self::SendTo(..) | Self::Connect(..))
    }

    /// The action without the buffers that it may hold; `None` if it holds none.
    pub(super) fn without_buffers(&self, py: Python<'_>) -> Option<Self> {
        match self {
            Self::SendAll(..) => Some(Self::SendAll(py.None(), 0)),
            Self::SendMessage(_) => Some(Self::SendMessage(py.None())),
            Self::ReceiveMessageInto(_) => Some(Self::ReceiveMessageInto(py.None())),
            _ => None,
        }
    }
}

impl Traverse for Action {
    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Self::Receive(_) | Self::ReceiveFrom(_) | Self::Accept => Ok(()),
            Self::ReceiveInto(object)
            | Self::ReceiveFromInto(object, _)
            | Self::SendAll(object, _)
            | Self::Connect(object, _)
            | Self::SendMessage(object)
            | Self::ReceiveMessage(object)
            | Self::ReceiveMessageInto(object) => visit.call(object),
            Self::SendTo(data, address) => {
                visit.call(data)?;
                visit.call(address)
            }
        }
    }
}

/// The value of a call, `None` if it would block.
pub(super) type ReadyValue<'py> = Option<Bound<'py, PyAny>>;

impl SocketCall {
    /// Counts bytes received.
    pub(super) fn count_received(&self, length: usize) {
        self.scheduler.get().metrics().bytes_received.add(length as u64);
    }

    /// Counts bytes sent.
    pub(super) fn count_sent(&self, length: usize) {
        self.scheduler.get().metrics().bytes_sent.add(length as u64);
    }

    /// Makes the call once.
    pub(super) fn try_call<'py>(&self, py: Python<'py>) -> PyOutcome<'py, ReadyValue<'py>> {
        match self.action.inspect(py, |action| action.bind(py)) {
            Action::Receive(size) => self.receive(py, size),
            Action::ReceiveInto(target) => self.receive_into(&target),
            Action::ReceiveFrom(size) => self.receive_from(py, size),
            Action::ReceiveFromInto(target, size) => self.receive_from_into(&target, size),
            Action::Accept => self.accept(py),
            Action::SendAll(data, sent) => self.send_all(&data, sent),
            Action::SendTo(data, to) => self.send_to(&data, &to),
            Action::Connect(to, false) => self.connect(&to),
            Action::Connect(to, true) => self.connect_result(&to),
            Action::SendMessage(arguments) => self.send_message(&arguments),
            Action::ReceiveMessage(arguments) => self.receive_message(&arguments),
            Action::ReceiveMessageInto(arguments) => self.receive_message_into(&arguments),
        }
    }

    fn receive<'py>(&self, py: Python<'py>, size: usize) -> PyOutcome<'py, ReadyValue<'py>> {
        let received = receive::at_most(py, self.socket.descriptor(), size)?;
        let received = none_if_not_ready(py, received)?;
        if let Some(data) = &received {
            self.count_received(data.as_bytes().len());
        }
        Ok(received.map(Bound::into_any))
    }

    fn receive_into<'py>(&self, target: &Bound<'py, PyAny>) -> PyOutcome<'py, ReadyValue<'py>> {
        let py = target.py();
        let fd = self.socket.descriptor();
        match buffer::with_writable_bytes(target, |bytes| socket::receive(fd, bytes)) {
            Ok(received) => {
                self.count_received(*received.as_ref().unwrap_or(&0));
                number(py, received)
            }
            // Python's own method raises the error for an unsuitable buffer.
            Err(_) => {
                let socket = self.socket.object().bind(py);
                call::call_method(socket, intern!(py, "recv_into"), [target]).map(Some)
            }
        }
    }

    fn receive_from<'py>(&self, py: Python<'py>, size: usize) -> PyOutcome<'py, ReadyValue<'py>> {
        let received = receive::datagram(py, self.socket.descriptor(), size)?;
        let Some((data, sender)) = none_if_not_ready(py, received)? else { return Ok(None) };
        self.count_received(data.as_bytes().len());
        let sender = address::to_python(py, &sender).or_raise(py)?;
        pair(py, data.into_any(), sender).or_raise(py)
    }

    fn receive_from_into<'py>(
        &self,
        target: &Bound<'py, PyAny>,
        size: usize,
    ) -> PyOutcome<'py, ReadyValue<'py>> {
        let py = target.py();
        let fd = self.socket.descriptor();
        let receive = |room: &mut [MaybeUninit<u8>]| {
            let size = if size == 0 { room.len() } else { size.min(room.len()) };
            socket::receive_from(fd, &mut room[..size])
        };
        let received = buffer::with_writable_bytes(target, receive)?;
        let Some((length, sender)) = none_if_not_ready(py, received)? else { return Ok(None) };
        self.count_received(length);
        let sender = address::to_python(py, &sender).or_raise(py)?;
        let length = length.into_pyobject(py).or_raise(py)?;
        pair(py, length.into_any(), sender).or_raise(py)
    }

    fn accept<'py>(&self, py: Python<'py>) -> PyOutcome<'py, ReadyValue<'py>> {
        let Some((fd, peer)) = none_if_not_ready(py, socket::accept(self.socket.descriptor()))?
        else {
            return Ok(None);
        };
        let connection = || -> PyResult<_> {
            let listener = self.socket.object().bind(py);
            let bare = BareSocket {
                fd,
                family: listener.getattr(intern!(py, "family"))?.extract()?,
                kind: listener.getattr(intern!(py, "type"))?.extract()?,
                protocol: listener.getattr(intern!(py, "proto"))?.extract()?,
            };
            pair(py, bare.into_python(py)?, address::to_python(py, &peer)?)
        };
        connection().or_raise(py)
    }

    fn send_all<'py>(
        &self,
        data: &Bound<'py, PyAny>,
        sent: usize,
    ) -> PyOutcome<'py, ReadyValue<'py>> {
        let py = data.py();
        let fd = self.socket.descriptor();
        let result = buffer::with_bytes(data, |bytes| {
            let rest = bytes.get(sent..).unwrap_or_default();
            socket::send(fd, rest).map(|more| {
                self.count_sent(more);
                (sent + more, more >= rest.len())
            })
        })?;
        match none_if_not_ready(py, result)? {
            Some((_, true)) => Ok(Some(py.None().into_bound(py))),
            Some((sent, false)) => self.wait_to_send_rest(data, sent),
            None => self.wait_to_send_rest(data, sent),
        }
    }

    /// Keeps a view of the data until the call ends, as asyncio does, so that the program
    /// cannot resize or close it meanwhile.
    fn wait_to_send_rest<'py>(
        &self,
        data: &Bound<'py, PyAny>,
        sent: usize,
    ) -> PyOutcome<'py, ReadyValue<'py>> {
        let py = data.py();
        let view = match self.state.get(py) {
            CallState::New => buffer::view(data)?,
            _ => data.clone(),
        };
        drop(self.action.replace(py, Action::SendAll(view.unbind(), sent)));
        Ok(None)
    }

    /// Calls the socket object's method, which accepts all kinds of addresses.
    fn send_to<'py>(
        &self,
        data: &Bound<'py, PyAny>,
        to: &Bound<'py, PyAny>,
    ) -> PyOutcome<'py, ReadyValue<'py>> {
        let py = data.py();
        let socket = self.socket.object().bind(py);
        let sent =
            none_if_would_block(call::call_method(socket, intern!(py, "sendto"), [data, to]))?;
        if let Some(sent) = &sent {
            self.count_sent(sent.extract().unwrap_or(0));
        }
        Ok(sent)
    }

    /// Calls the socket object's method, which raises the audit event.
    fn connect<'py>(&self, to: &Bound<'py, PyAny>) -> PyOutcome<'py, ReadyValue<'py>> {
        let py = to.py();
        let in_progress = Action::Connect(to.clone().unbind(), true);
        drop(self.action.replace(py, in_progress));
        let socket = self.socket.object().bind(py);
        none_if_would_block(call::call_method(socket, intern!(py, "connect"), [to]))
    }

    /// The result of connecting.
    fn connect_result<'py>(&self, to: &Bound<'py, PyAny>) -> PyOutcome<'py, ReadyValue<'py>> {
        let py = to.py();
        let failure = socket::take_error(self.socket.descriptor())
            .map_err(|e| os_error(py, &e))
            .or_raise(py)?;
        match failure {
            None => Ok(Some(py.None().into_bound(py))),
            Some(error) if is_not_ready(&error) => Ok(None),
            Some(error) => {
                let text = format!("Connect call failed {to}");
                Err(Raised::of(py, PyOSError::new_err((error.raw_os_error(), text))))
            }
        }
    }
}

/// The value of a call of a Python method; `None` if it would block.
pub(super) fn none_if_would_block<'py>(
    called: PyOutcome<'py, Bound<'py, PyAny>>,
) -> PyOutcome<'py, ReadyValue<'py>> {
    match called {
        Ok(value) => Ok(Some(value)),
        Err(raised)
            if raised.value().is_instance_of::<PyBlockingIOError>()
                || raised.value().is_instance_of::<PyInterruptedError>() =>
        {
            Ok(None)
        }
        Err(raised) => Err(raised),
    }
}

/// The value of a system call; `None` if it would block.
fn none_if_not_ready<T>(py: Python<'_>, result: io::Result<T>) -> PyOutcome<'_, Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_not_ready(&error) => Ok(None),
        Err(error) => Err(Raised::of(py, os_error(py, &error))),
    }
}

fn number(py: Python<'_>, result: io::Result<usize>) -> PyOutcome<'_, ReadyValue<'_>> {
    match none_if_not_ready(py, result)? {
        Some(number) => {
            let number = number.into_pyobject(py).or_raise(py)?;
            Ok(Some(number.into_any()))
        }
        None => Ok(None),
    }
}

fn pair<'py>(
    py: Python<'py>,
    first: Bound<'py, PyAny>,
    second: Bound<'py, PyAny>,
) -> PyResult<ReadyValue<'py>> {
    Ok(Some(PyTuple::new(py, [first, second])?.into_any()))
}
