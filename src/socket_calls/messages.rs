//! Messages with ancillary data: `sock_sendmsg()`, `sock_recvmsg()` and `sock_recvmsg_into()`.
//!
//! The socket object's methods make the system calls. They build and parse the ancillary data,
//! close the descriptors of a message that they cannot return, and can be overridden. The message
//! is received, or sent, while the awaiting task runs: a call that is cancelled before that leaves
//! the message, with its descriptors, in the socket, or has sent nothing.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PySequence, PyString, PyTuple};

use super::action::{Action, ReadyValue, none_if_would_block};
use super::call::{CallState, SocketCall};
use crate::ffi::exception::{OrRaise, PyOutcome};
use crate::ffi::{buffer, call};
use crate::interop::imports;

/// Raises asyncio's TypeError for a TLS socket.
pub(super) fn refuse_tls(socket: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = socket.py();
    if !socket.get_type().is(imports::socket_class(py)?) {
        imports::base_events(py)?.call_method1(intern!(py, "_check_ssl_socket"), (socket,))?;
    }
    Ok(())
}

impl SocketCall {
    pub(super) fn send_message<'py>(
        &self,
        arguments: &Bound<'py, PyAny>,
    ) -> PyOutcome<'py, ReadyValue<'py>> {
        let py = arguments.py();
        let arguments = self.repeatable(arguments, 2)?;
        let sent = self.call_socket(intern!(py, "sendmsg"), &arguments)?;
        match &sent {
            Some(sent) => self.count_sent(sent.extract().unwrap_or(0)),
            None => self.hold(&arguments, Action::SendMessage)?,
        }
        Ok(sent)
    }

    pub(super) fn receive_message<'py>(
        &self,
        arguments: &Bound<'py, PyAny>,
    ) -> PyOutcome<'py, ReadyValue<'py>> {
        let py = arguments.py();
        let arguments = arguments.cast::<PyTuple>().or_raise(py)?;
        let received = self.call_socket(intern!(py, "recvmsg"), arguments)?;
        if let Some(received) = &received {
            let data = first(received).and_then(|data| data.cast_into::<PyBytes>().ok());
            self.count_received(data.map_or(0, |data| data.as_bytes().len()));
        }
        Ok(received)
    }

    pub(super) fn receive_message_into<'py>(
        &self,
        arguments: &Bound<'py, PyAny>,
    ) -> PyOutcome<'py, ReadyValue<'py>> {
        let py = arguments.py();
        let arguments = self.repeatable(arguments, 1)?;
        let received = self.call_socket(intern!(py, "recvmsg_into"), &arguments)?;
        match &received {
            Some(received) => {
                let length = first(received).and_then(|length| length.extract().ok());
                self.count_received(length.unwrap_or(0));
            }
            None => self.hold(&arguments, Action::ReceiveMessageInto)?,
        }
        Ok(received)
    }

    fn call_socket<'py>(
        &self,
        name: &Bound<'py, PyString>,
        arguments: &Bound<'py, PyTuple>,
    ) -> PyOutcome<'py, ReadyValue<'py>> {
        let py = name.py();
        let method = self.socket.object().bind(py).getattr(name).or_raise(py)?;
        none_if_would_block(call::call_tuple(&method, arguments))
    }

    /// The arguments, of which the first `iterables` can be iterated over in each attempt.
    fn repeatable<'py>(
        &self,
        arguments: &Bound<'py, PyAny>,
        iterables: usize,
    ) -> PyOutcome<'py, Bound<'py, PyTuple>> {
        let py = arguments.py();
        let arguments = arguments.cast::<PyTuple>().or_raise(py)?;
        if self.state.get(py) != CallState::New {
            return Ok(arguments.clone());
        }
        let repeatable = || -> PyResult<_> {
            let mut all: Vec<_> = arguments.iter().collect();
            for argument in all.iter_mut().take(iterables) {
                let is_exact = argument.is_exact_instance_of::<PyTuple>()
                    || argument.is_exact_instance_of::<PyList>();
                // The socket's method raises the error for what is not iterable.
                if let (false, Ok(items)) = (is_exact, argument.try_iter()) {
                    let items = items.collect::<PyResult<Vec<_>>>()?;
                    *argument = PyTuple::new(py, items)?.into_any();
                }
            }
            PyTuple::new(py, all)
        };
        repeatable().or_raise(py)
    }

    /// Keeps views of all buffers until the call ends, so that the program cannot resize or close
    /// them meanwhile.
    fn hold<'py>(
        &self,
        arguments: &Bound<'py, PyTuple>,
        action: fn(Py<PyAny>) -> Action,
    ) -> PyOutcome<'py, ()> {
        let py = arguments.py();
        if self.state.get(py) != CallState::New {
            return Ok(());
        }
        let mut held: Vec<_> = arguments.iter().collect();
        held[0] = views(&held[0], buffer::view)?;
        if matches!(action(py.None()), Action::SendMessage(_)) {
            held[1] = views(&held[1], |item| view_of_ancillary(item))?;
        }
        let held = PyTuple::new(py, held).or_raise(py)?;
        drop(self.action.replace(py, action(held.into_any().unbind())));
        Ok(())
    }
}

/// A tuple of the results of `view` for the items of a list or tuple.
fn views<'py>(
    items: &Bound<'py, PyAny>,
    view: impl Fn(&Bound<'py, PyAny>) -> PyOutcome<'py, Bound<'py, PyAny>>,
) -> PyOutcome<'py, Bound<'py, PyAny>> {
    let py = items.py();
    let items = items.cast::<PySequence>().or_raise(py)?.to_tuple().or_raise(py)?;
    let views = items.iter().map(|item| view(&item)).collect::<PyOutcome<'py, Vec<_>>>()?;
    Ok(PyTuple::new(py, views).or_raise(py)?.into_any())
}

/// One item of the ancillary data, with a view of its data.
fn view_of_ancillary<'py>(item: &Bound<'py, PyAny>) -> PyOutcome<'py, Bound<'py, PyAny>> {
    let py = item.py();
    let item = item.cast::<PySequence>().or_raise(py)?.to_tuple().or_raise(py)?;
    let mut parts: Vec<_> = item.iter().collect();
    if let Some(data) = parts.get_mut(2) {
        *data = buffer::view(data)?;
    }
    Ok(PyTuple::new(py, parts).or_raise(py)?.into_any())
}

/// The first item of a message as the socket's method returns it.
fn first<'py>(message: &Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>> {
    message.cast::<PyTuple>().ok()?.get_item(0).ok()
}
