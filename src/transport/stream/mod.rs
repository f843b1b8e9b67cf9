//! Transports for TCP and UNIX stream sockets.
//!
//! One receive per readiness event and turn, so that a flooding peer cannot starve the others;
//! reads are level-triggered, so a short read needs no second one to see that nothing is left.
//!
//! The protocol's methods are looked up at each call: programs replace them, and a lookup is a
//! hundredth of the cost of a message.
//!
//! * `writing.rs`: sends, coalesces or queues writes;
//! * `methods.rs`: the Python methods;
//! * `server.rs`: listeners, which accept connections.

mod methods;
mod server;
mod writing;

use std::io;

use pyo3::PyClassInitializer;
use pyo3::exceptions::{PyConnectionError, PyRuntimeError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyByteArray;

pub use server::{ListenOptions, Listener, ServeMode};

use crate::ffi::exception::{OrRaise, PyOutcome, Raised};
use crate::ffi::objects::cell::{AttachedCell, AttachedRefCell};
use crate::ffi::objects::object::HasBase;
use crate::ffi::objects::shared_buffer::BufferLease;
use crate::ffi::{buffer, call};
use crate::interop::error::os_error;
use crate::interop::imports;
use crate::metrics::TransportClass;
use crate::scheduler::watch::Direction;
use crate::streams::Feed;
use crate::sys::{is_not_ready, socket};
use crate::transport::kind::ConcreteTransport;
use crate::transport::native_protocol::NativeProtocol;
use crate::transport::receive::{MAX_SIZE, ReadSize};
use crate::transport::write_queue::WriteQueue;
use crate::transport::{Transport, TransportKind, TransportParts};

const READ_FAILED: &str = "Fatal read error on socket transport";
const DELIVERY_FAILED: &str = "Fatal error: protocol.data_received() call failed.";
pub(in crate::transport) const WRITE_FAILED: &str = "Fatal write error on socket transport";

static KIND: TransportKind = TransportKind::of::<StreamTransport>();

impl ConcreteTransport for StreamTransport {
    const COUNTED_AS: TransportClass = TransportClass::Stream;
    const IS_SOCKET: bool = true;
    const WRITE_FAILED: &'static str = WRITE_FAILED;

    fn asyncio_class(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
        imports::socket_transport(py)
    }

    fn on_readable<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        Self::read_ready(slf)
    }

    fn send<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        Self::send_queue(slf)
    }

    fn queue_size(slf: &Bound<'_, Self>) -> usize {
        slf.get().queue.with(slf.py(), |queue| queue.len())
    }

    fn clear_queue(slf: &Bound<'_, Self>) {
        let queue = slf.get().queue.with(slf.py(), WriteQueue::take);
        drop(queue);
    }

    fn on_all_sent(slf: &Bound<'_, Self>) -> PyResult<()> {
        slf.get().wake_empty_waiter(slf.py())
    }

    fn on_lost(slf: &Bound<'_, Self>) -> PyResult<()> {
        let error = PyConnectionError::new_err("Connection is closed by peer");
        slf.get().fail_empty_waiter(error.into_value(slf.py()).bind(slf.py()).as_any())
    }
}

/// A connected stream socket and its protocol.
///
/// See <https://docs.python.org/3/library/asyncio-protocol.html#transports>.
#[pyclass(frozen, extends = Transport, module = "ferroloop._ferroloop")]
pub struct StreamTransport {
    pub(in crate::transport) queue: AttachedRefCell<WriteQueue>,
    read_size: AttachedCell<ReadSize>,
    /// The future by which `sendfile()` waits until all buffered data is written.
    pub(in crate::transport) empty_waiter: AttachedCell<Option<Py<PyAny>>>,
}

impl StreamTransport {
    /// Creates a transport and starts to open it.
    ///
    /// # Errors
    /// Those of the server's and the loop's methods.
    pub fn open<'py>(
        parts: TransportParts<'py>,
        waiter: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, Self>> {
        let py = parts.scheduler.py();
        let protocol = parts.protocol.clone();
        let stream = Self {
            queue: AttachedRefCell::new(WriteQueue::default()),
            read_size: AttachedCell::new(ReadSize::default()),
            empty_waiter: AttachedCell::new(None),
        };
        let base = PyClassInitializer::from(Transport::new(&KIND, parts));
        let stream = Bound::new(py, base.add_subclass(stream))?;
        stream.base().bind_protocol(protocol)?;
        Transport::open(stream.as_super(), waiter)?;
        Ok(stream)
    }

    /// Called when data or end of stream can be read.
    #[inline]
    pub fn read_ready<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let transport = slf.as_super();
        let base = transport.get();
        // An event may be queued already when a callback pauses or closes.
        if !base.wants_to_read(py) {
            return Ok(());
        }
        let Some(protocol) = base.protocol.get_bound(py) else { return Ok(()) };
        let state = base.state.get(py);
        if state.buffered_protocol {
            return Self::read_into_buffer(slf, &protocol);
        }
        if state.native_protocol {
            return Self::read_for_native(slf, &protocol);
        }
        let feed = Feed::of(&protocol);
        if let Some(feed) = feed.as_ref().filter(|feed| !feed.accepts_message()) {
            if let Some(buffer) = feed.buffer()? {
                return Self::read_into_stream(slf, feed, &buffer, &protocol);
            }
        }
        let mut read_size = slf.get().read_size.get(py);
        let received = read_size.receive(py, base.descriptor(py), socket::receive)?;
        slf.get().read_size.set(py, read_size);
        let data = match received {
            Ok(data) => data,
            Err(error) => return Self::read_failed(slf, &error),
        };
        if data.as_bytes().is_empty() {
            return Self::read_eof(slf, &protocol);
        }
        base.count_received(py, data.as_bytes().len());
        let delivered = match feed {
            Some(feed) if feed.accepts_message() => feed.add(data),
            _ => call::call_method(&protocol, intern!(py, "data_received"), [data.as_any()])
                .map(drop),
        };
        match delivered {
            Ok(()) => Ok(()),
            Err(raised) => Transport::fatal_error(transport, raised, DELIVERY_FAILED),
        }
    }

    /// Like `read_ready()`, for the protocol of asyncio's streams.
    fn read_into_stream<'py>(
        slf: &Bound<'py, Self>,
        feed: &Feed<'py>,
        buffer: &Bound<'py, PyByteArray>,
        protocol: &Bound<'py, PyAny>,
    ) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let transport = slf.as_super();
        let mut read_size = slf.get().read_size.get(py);
        let fd = transport.get().descriptor(py);
        let received = read_size.receive_into(buffer, fd, socket::receive)?;
        slf.get().read_size.set(py, read_size);
        let length = match received {
            Ok(0) => return Self::read_eof(slf, protocol),
            Ok(length) => length,
            Err(error) => return Self::read_failed(slf, &error),
        };
        transport.get().count_received(py, length);
        match feed.notify_reader() {
            Ok(()) => Ok(()),
            Err(raised) => Transport::fatal_error(transport, raised, DELIVERY_FAILED),
        }
    }

    fn read_into_buffer<'py>(
        slf: &Bound<'py, Self>,
        protocol: &Bound<'py, PyAny>,
    ) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let transport = slf.as_super();
        let any_size = (-1i32).into_pyobject(py).or_raise(py)?;
        let given = call::call_method(protocol, intern!(py, "get_buffer"), [any_size.as_any()]);
        let given = given.and_then(|given| match given.len().or_raise(py)? {
            0 => Err(Raised::of(
                py,
                PyRuntimeError::new_err("get_buffer() returned an empty buffer"),
            )),
            _ => Ok(given),
        });
        let target = match given {
            Ok(target) => target,
            Err(raised) => {
                let message = "Fatal error: protocol.get_buffer() call failed.";
                return Transport::fatal_error(transport, raised, message);
            }
        };
        // `get_buffer()` may have closed the transport or the socket.
        let fd = transport.get().descriptor(py);
        let length = match buffer::with_writable_bytes(&target, |bytes| socket::receive(fd, bytes))
        {
            Ok(Ok(length)) => length,
            Ok(Err(error)) => return Self::read_failed(slf, &error),
            Err(raised) => return Transport::fatal_error(transport, raised, READ_FAILED),
        };
        if length == 0 {
            return Self::read_eof(slf, protocol);
        }
        transport.get().count_received(py, length);
        let length = length.into_pyobject(py).or_raise(py)?;
        match call::call_method(protocol, intern!(py, "buffer_updated"), [length.as_any()]) {
            Ok(_) => Ok(()),
            Err(raised) => Transport::fatal_error(
                transport,
                raised,
                "Fatal error: protocol.buffer_updated() call failed.",
            ),
        }
    }

    fn read_for_native<'py>(
        slf: &Bound<'py, Self>,
        protocol: &Bound<'py, PyAny>,
    ) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let transport = slf.as_super();
        let native = protocol.cast::<NativeProtocol>().or_raise(py)?;
        let fd = transport.get().descriptor(py);
        let lease = BufferLease::new(py)?;
        let length = match lease.fill(MAX_SIZE, |bytes| socket::receive(fd, bytes))? {
            Ok(0) => return Self::read_eof(slf, protocol),
            Ok(length) => length,
            Err(error) => return Self::read_failed(slf, &error),
        };
        transport.get().count_received(py, length);
        match NativeProtocol::received(native, &lease, length) {
            Ok(()) => Ok(()),
            Err(raised) => Transport::fatal_error(
                transport,
                raised,
                "Fatal error: protocol.buffer_updated() call failed.",
            ),
        }
    }

    #[cold]
    fn read_failed<'py>(slf: &Bound<'py, Self>, error: &io::Error) -> PyOutcome<'py, ()> {
        if is_not_ready(error) {
            return Ok(());
        }
        let raised = Raised::of(slf.py(), os_error(slf.py(), error));
        Transport::fatal_error(slf.as_super(), raised, READ_FAILED)
    }

    fn read_eof<'py>(slf: &Bound<'py, Self>, protocol: &Bound<'py, PyAny>) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let transport = slf.as_super();
        Transport::log(transport, "%r received EOF", None, None).or_raise(py)?;
        let keep_open = match call::call_method(protocol, intern!(py, "eof_received"), []) {
            Ok(keep_open) => keep_open,
            Err(raised) => {
                return Transport::fatal_error(
                    transport,
                    raised,
                    "Fatal error: protocol.eof_received() call failed.",
                );
            }
        };
        if keep_open.is_truthy().or_raise(py)? {
            // The write direction stays open; at end of stream there is nothing left to read.
            transport.get().unwatch(transport, Direction::Read);
            Ok(())
        } else {
            Transport::close(transport).or_raise(py)
        }
    }

    /// Called when all buffered data is written: finishes the future of `sendfile()`.
    fn wake_empty_waiter(&self, py: Python<'_>) -> PyResult<()> {
        let Some(waiter) = self.empty_waiter.get_bound(py) else { return Ok(()) };
        waiter.call_method1(intern!(py, "set_result"), (py.None(),)).map(drop)
    }

    pub(in crate::transport) fn fail_empty_waiter(
        &self,
        exception: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let py = exception.py();
        let Some(waiter) = self.empty_waiter.get_bound(py) else { return Ok(()) };
        waiter.call_method1(intern!(py, "set_exception"), (exception,))?;
        Ok(())
    }
}
