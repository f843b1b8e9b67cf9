//! The stream engine: TCP and UNIX stream sockets.
//!
//! One receive per readiness and turn, so that a peer who floods cannot starve the others; reads
//! are level-triggered, so a short read needs no second one to see that nothing is left. Writes
//! go out at once while nothing is queued; else the queue goes out as the socket takes it.

#![forbid(unsafe_code)]

use std::io;

use pyo3::PyClassInitializer;
use pyo3::exceptions::{PyConnectionError, PyRuntimeError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::event::{EVENT, run_event};
use super::gathering::Gathering;
use super::lifecycle::describe_event;
use super::native_protocol::NativeProtocol;
use super::reader_feed::Feed;
use super::receive::{LARGEST, ReadSize};
use super::write_queue::{self, WriteQueue};
use super::{Parts, Transport, TransportKind};
use crate::ffi::cell::{AttachedCell, AttachedRefCell};
use crate::ffi::exception::{PyOutcome, Raised};
use crate::ffi::window::Taken;
use crate::ffi::{buffer, call};
use crate::interop::error::os_error;
use crate::interop::imports;
use crate::metrics::TransportClass;
use crate::scheduler::RunnableKind;
use crate::scheduler::report::outcome;
use crate::scheduler::watch::Direction;
use crate::sys::socket;

const READ_FAILED: &str = "Fatal read error on socket transport";
const DELIVERY_FAILED: &str = "Fatal error: protocol.data_received() call failed.";
const WRITE_FAILED: &str = "Fatal write error on socket transport";

static KIND: TransportKind = TransportKind {
    class: imports::socket_transport,
    counted_as: TransportClass::Stream,
    is_socket: true,
    on_read: &ON_READ,
    on_write: &ON_WRITE,
    settle: |transport| match transport.cast::<StreamTransport>() {
        Ok(stream) => StreamTransport::flush(stream),
        Err(_) => Ok(()),
    },
    buffer_size: |transport| {
        transport.cast::<StreamTransport>().map_or(0, |stream| stream.get().queued(stream.py()))
    },
    clear_buffer: |transport| {
        if let Ok(stream) = transport.cast::<StreamTransport>() {
            let queue = stream.get().queue.with(stream.py(), WriteQueue::take);
            drop(queue);
        }
    },
    lost: |transport| match transport.cast::<StreamTransport>() {
        Ok(stream) => stream.get().fail_empty_waiter(
            PyConnectionError::new_err("Connection is closed by peer")
                .into_value(stream.py())
                .bind(stream.py())
                .as_any(),
        ),
        Err(_) => Ok(()),
    },
};

static ON_READ: RunnableKind = RunnableKind {
    run: |scheduler, runnable| {
        run_event(scheduler, runnable, "_read_ready", StreamTransport::read_ready)
    },
    describe: |py, runnable| describe_event(py, runnable, intern!(py, "_read_ready")),
    ..EVENT
};

static ON_WRITE: RunnableKind = RunnableKind {
    run: |scheduler, runnable| {
        run_event(scheduler, runnable, "_write_ready", StreamTransport::write_ready)
    },
    describe: |py, runnable| describe_event(py, runnable, intern!(py, "_write_ready")),
    ..EVENT
};

/// A connected stream socket and its protocol.
///
/// See <https://docs.python.org/3/library/asyncio-protocol.html#transports>.
#[pyclass(frozen, extends = Transport, module = "ferroloop._ferroloop")]
pub struct StreamTransport {
    pub(super) queue: AttachedRefCell<WriteQueue>,
    read_size: AttachedCell<ReadSize>,
    pub(super) gathering: AttachedCell<Gathering>,
    /// `write_eof()` was called.
    pub(super) eof: AttachedCell<bool>,
    /// Waits until everything is written; `sendfile()` uses it.
    pub(super) empty_waiter: AttachedCell<Option<Py<PyAny>>>,
}

/// Whether a call is to be tried again when the descriptor is ready.
pub fn is_not_ready(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// A failed system call as a raised exception.
#[cold]
pub fn raised_by_system<'py>(py: Python<'py>, error: &io::Error) -> Raised<'py> {
    Raised::from(os_error(py, error).into_value(py).into_bound(py))
}

impl StreamTransport {
    /// A transport that has begun to open.
    ///
    /// # Errors
    /// Those of the server's and the loop's methods.
    pub fn open<'py>(
        parts: Parts<'py>,
        waiter: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, Self>> {
        let py = parts.scheduler.py();
        let protocol = parts.protocol.clone();
        let stream = Self {
            queue: AttachedRefCell::new(WriteQueue::default()),
            read_size: AttachedCell::new(ReadSize::default()),
            gathering: AttachedCell::new(Gathering::default()),
            eof: AttachedCell::new(false),
            empty_waiter: AttachedCell::new(None),
        };
        let base = PyClassInitializer::from(Transport::new(&KIND, parts));
        let stream = Bound::new(py, base.add_subclass(stream))?;
        stream.as_super().get().bind_protocol(protocol)?;
        Transport::open(stream.as_super(), waiter)?;
        Ok(stream)
    }

    #[inline(always)]
    pub(super) fn queued(&self, py: Python<'_>) -> usize {
        self.queue.with(py, |queue| queue.len())
    }

    /// Something can be read, or the stream has ended.
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
        if let Some(feed) = Feed::of(&protocol) {
            return Self::read_into_stream(slf, feed, &protocol);
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
        base.note_received(py, data.as_bytes().len());
        match call::call_method(&protocol, intern!(py, "data_received"), [data.as_any()]) {
            Ok(_) => Ok(()),
            Err(raised) => Transport::fatal_error(transport, raised, DELIVERY_FAILED),
        }
    }

    /// As `read_ready()`, for the protocol of asyncio's streams.
    fn read_into_stream<'py>(
        slf: &Bound<'py, Self>,
        feed: Feed<'py>,
        protocol: &Bound<'py, PyAny>,
    ) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let transport = slf.as_super();
        let mut read_size = slf.get().read_size.get(py);
        let fd = transport.get().descriptor(py);
        let received = read_size.receive_into(&feed.buffer, fd, socket::receive)?;
        slf.get().read_size.set(py, read_size);
        let length = match received {
            Ok(0) => return Self::read_eof(slf, protocol),
            Ok(length) => length,
            Err(error) => return Self::read_failed(slf, &error),
        };
        transport.get().note_received(py, length);
        match outcome(py, feed.announce()) {
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
        let any_size = outcome(py, (-1i32).into_pyobject(py).map_err(PyErr::from))?;
        let given = call::call_method(protocol, intern!(py, "get_buffer"), [any_size.as_any()]);
        let given = given.and_then(|given| match outcome(py, given.len())? {
            0 => outcome(py, Err(PyRuntimeError::new_err("get_buffer() returned an empty buffer"))),
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
        transport.get().note_received(py, length);
        let length = outcome(py, length.into_pyobject(py).map_err(PyErr::from))?;
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
        let native = outcome(py, protocol.cast::<NativeProtocol>().map_err(PyErr::from))?;
        let fd = transport.get().descriptor(py);
        let window = Taken::new(py)?;
        let length = match window.fill(LARGEST, |bytes| socket::receive(fd, bytes))? {
            Ok(0) => return Self::read_eof(slf, protocol),
            Ok(length) => length,
            Err(error) => return Self::read_failed(slf, &error),
        };
        transport.get().note_received(py, length);
        match NativeProtocol::received(native, &window, length) {
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
        let raised = raised_by_system(slf.py(), error);
        Transport::fatal_error(slf.as_super(), raised, READ_FAILED)
    }

    fn read_eof<'py>(slf: &Bound<'py, Self>, protocol: &Bound<'py, PyAny>) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let transport = slf.as_super();
        outcome(py, Transport::log(transport, "%r received EOF", None, None))?;
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
        if outcome(py, keep_open.is_truthy())? {
            // The other direction stays open; there is nothing left to read in this one.
            transport.get().unwatch(py, Direction::Read);
            Ok(())
        } else {
            outcome(py, Transport::close(transport))
        }
    }

    /// Sends `data`, or as much as the socket takes, and queues the rest.
    #[inline]
    pub fn write<'py>(slf: &Bound<'py, Self>, data: &Bound<'py, PyAny>) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let this = slf.get();
        let transport = slf.as_super();
        if transport.get().state.get(py).lost != 0 {
            return Transport::note_lost_write(transport);
        }
        let idle = this.queued(py) == 0;
        let hold = Self::shall_hold(slf, idle);
        let base = transport.get();
        let fd = base.descriptor(py);
        let send_now = idle && hold.is_none();
        let sent = write_queue::send_or_push(&this.queue, data, |content| {
            if send_now { base.note_sent(py, socket::send(fd, content)) } else { Ok(0) }
        });
        match sent {
            Err(raised) => Transport::fatal_error(transport, raised, WRITE_FAILED),
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => {
                if let Some(limit) = hold {
                    return Self::hold(slf, limit, data.is_instance_of::<PyBytes>());
                }
                if idle {
                    outcome(py, Transport::add_writer(transport))?;
                }
                Transport::maybe_pause_protocol(transport)
            }
            Ok(Err(error)) => {
                Transport::fatal_error(transport, raised_by_system(py, &error), WRITE_FAILED)
            }
        }
    }

    /// `write()` for native protocols: refuses what Python's `write()` refuses.
    pub fn write_checked<'py>(
        slf: &Bound<'py, Self>,
        data: &Bound<'py, PyAny>,
    ) -> PyOutcome<'py, ()> {
        outcome(slf.py(), slf.get().check_writable(slf.py(), "write"))?;
        Self::write(slf, data)
    }

    /// Sends several chunks, gathered.
    pub fn write_chunks<'py>(
        slf: &Bound<'py, Self>,
        chunks: &[Bound<'py, PyAny>],
    ) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let this = slf.get();
        let transport = slf.as_super();
        if transport.get().state.get(py).lost != 0 {
            return Transport::note_lost_write(transport);
        }
        let idle = this.queued(py) == 0;
        let hold = Self::shall_hold(slf, idle);
        let mut shared = true;
        for chunk in chunks {
            match chunk.cast::<PyBytes>() {
                Ok(bytes) if bytes.as_bytes().is_empty() => {}
                Ok(bytes) => this.queue.with(py, |queue| queue.push_object(bytes, 0)),
                Err(_) => {
                    shared = false;
                    buffer::with_bytes(chunk, |content| {
                        this.queue.with(py, |queue| queue.push_copy(content));
                    })?;
                }
            }
        }
        if this.queued(py) == 0 {
            return Ok(());
        }
        if let Some(limit) = hold {
            return Self::hold(slf, limit, shared);
        }
        if !idle {
            return Transport::maybe_pause_protocol(transport);
        }
        Self::send_first(slf)
    }

    /// Sends what is queued although the socket is not known to take it, and waits for that if
    /// it does not.
    pub(super) fn send_first<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let this = slf.get();
        let transport = slf.as_super();
        match Self::send_queue(slf) {
            Ok(()) if this.queued(py) == 0 => Ok(()),
            Ok(()) => {
                outcome(py, Transport::add_writer(transport))?;
                Transport::maybe_pause_protocol(transport)
            }
            Err(error) => {
                drop(this.queue.with(py, WriteQueue::take));
                Transport::fatal_error(transport, raised_by_system(py, &error), WRITE_FAILED)
            }
        }
    }

    /// Sends the head of the queue; not an error if the socket takes nothing.
    fn send_queue(slf: &Bound<'_, Self>) -> io::Result<()> {
        let py = slf.py();
        let base = slf.as_super().get();
        let fd = base.descriptor(py);
        write_queue::send_head(&slf.get().queue, py, |slices| {
            let sent = match slices {
                [slice] => socket::send(fd, slice),
                slices => socket::send_vectored(fd, slices),
            };
            base.note_sent(py, sent)
        })
    }

    /// The socket takes more of the queue.
    pub fn write_ready<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let this = slf.get();
        let transport = slf.as_super();
        let base = transport.get();
        if base.state.get(py).lost != 0 || this.queued(py) == 0 {
            return Ok(());
        }
        if let Err(error) = Self::send_queue(slf) {
            let raised = raised_by_system(py, &error);
            let exception = raised.value().clone();
            base.unwatch(py, Direction::Write);
            drop(this.queue.with(py, WriteQueue::take));
            Transport::fatal_error(transport, raised, WRITE_FAILED)?;
            return outcome(py, this.fail_empty_waiter(exception.as_any()));
        }
        Transport::maybe_resume_protocol(transport)?;
        if this.queued(py) != 0 {
            return Ok(());
        }
        base.unwatch(py, Direction::Write);
        if let Some(waiter) = this.empty_waiter.get_bound(py) {
            let none = py.None();
            outcome(py, waiter.call_method1(intern!(py, "set_result"), (none,)))?;
        }
        let state = base.state.get(py);
        if state.closing {
            // `resume_writing()` may have ended the connection itself.
            if state.lost == 0 {
                base.update_state(py, |state| state.lost = 1);
                return Transport::call_connection_lost(transport, py.None().bind(py));
            }
        } else if this.eof.get(py) {
            let shut = socket::shutdown_write(base.descriptor(py));
            return outcome(py, shut.map_err(|error| os_error(py, &error)));
        }
        Ok(())
    }

    fn fail_empty_waiter(&self, exception: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = exception.py();
        let Some(waiter) = self.empty_waiter.get_bound(py) else { return Ok(()) };
        waiter.call_method1(intern!(py, "set_exception"), (exception,))?;
        Ok(())
    }
}
