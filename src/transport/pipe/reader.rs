//! The reading end of pipes, FIFOs, sockets and terminals.
//!
//! As in asyncio, exceptions of the protocol are reported and, unlike a socket, the pipe stays
//! open.

use std::io;

use pyo3::exceptions::PyOSError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyByteArray;

use crate::ffi::call;
use crate::ffi::exception::{OrRaise, PyOutcome, Raised};
use crate::ffi::objects::cell::AttachedCell;
use crate::ffi::objects::object::HasBase;
use crate::ffi::objects::slots::Finalize;
use crate::interop::error::os_error;
use crate::interop::imports;
use crate::metrics::TransportClass;
use crate::scheduler::watch::Direction;
use crate::streams::Feed;
use crate::sys::is_not_ready;
use crate::sys::pipe;
use crate::transport::kind::ConcreteTransport;
use crate::transport::pipe::{FullStreak, open_end};
use crate::transport::receive::ReadSize;
use crate::transport::{Transport, TransportKind, TransportParts};
use crate::write_side::WriteSide;

const READ_FAILED: &str = "Fatal read error on pipe transport";

static KIND: TransportKind = TransportKind::of::<ReadPipeTransport>();

impl ConcreteTransport for ReadPipeTransport {
    const COUNTED_AS: TransportClass = TransportClass::Pipe;
    const IS_SOCKET: bool = false;
    // Nothing is written.
    const WRITE_FAILED: &'static str = READ_FAILED;

    fn asyncio_class(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
        imports::read_pipe_transport(py)
    }

    fn on_readable<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        Self::read_ready(slf)
    }
}

/// The reading end of a pipe and its protocol.
///
/// See <https://docs.python.org/3/library/asyncio-protocol.html#read-only-transports>.
#[pyclass(frozen, extends = Transport, module = "ferroloop._ferroloop")]
pub struct ReadPipeTransport {
    read_size: AttachedCell<ReadSize>,
    full_streak: AttachedCell<FullStreak>,
}

impl ReadPipeTransport {
    /// Creates a transport and starts to open it.
    ///
    /// # Errors
    /// ValueError if it is not a pipe, a socket or a character device; OSError.
    pub fn open<'py>(
        parts: TransportParts<'py>,
        waiter: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, Self>> {
        let reader = Self {
            read_size: AttachedCell::new(ReadSize::default()),
            full_streak: AttachedCell::new(FullStreak::default()),
        };
        let refusal = "Pipe transport is for pipes/sockets only.";
        open_end(&KIND, parts, reader, refusal, |_, _| (), waiter)
    }

    /// Called when data or end of stream can be read.
    fn read_ready<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let base = slf.base();
        if !base.wants_to_read(py) {
            return Ok(());
        }
        let Some(protocol) = base.protocol.get_bound(py) else { return Ok(()) };
        let feed = Feed::of(&protocol);
        if let Some(feed) = feed.as_ref().filter(|feed| !feed.accepts_message()) {
            if let Some(buffer) = feed.buffer()? {
                return Self::read_into_stream(slf, feed, &buffer, &protocol);
            }
        }
        let mut read_size = slf.get().read_size.get(py);
        let received = read_size.receive(py, base.descriptor(py), pipe::read)?;
        slf.get().read_size.set(py, read_size);
        match received {
            Ok(data) if data.as_bytes().is_empty() => Self::end(slf, &protocol).or_raise(py),
            Ok(data) => {
                Self::note(slf, data.as_bytes().len());
                match feed {
                    Some(feed) if feed.accepts_message() => feed.add(data),
                    _ => {
                        let method = intern!(py, "data_received");
                        call::call_method(&protocol, method, [data.as_any()]).map(drop)
                    }
                }
            }
            Err(error) => Self::read_failed(slf, &error),
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
        let fd = slf.base().descriptor(py);
        let mut read_size = slf.get().read_size.get(py);
        let received = read_size.receive_into(buffer, fd, pipe::read)?;
        slf.get().read_size.set(py, read_size);
        match received {
            Ok(0) => Self::end(slf, protocol).or_raise(py),
            Ok(length) => {
                Self::note(slf, length);
                feed.notify_reader()
            }
            Err(error) => Self::read_failed(slf, &error),
        }
    }

    fn note(slf: &Bound<'_, Self>, length: usize) {
        let py = slf.py();
        let base = slf.base();
        base.count_received(py, length);
        let mut full_streak = slf.get().full_streak.get(py);
        full_streak.note(base.descriptor(py), length >= pipe::DEFAULT_CAPACITY);
        slf.get().full_streak.set(py, full_streak);
    }

    #[cold]
    fn read_failed<'py>(slf: &Bound<'py, Self>, error: &io::Error) -> PyOutcome<'py, ()> {
        if is_not_ready(error) {
            return Ok(());
        }
        let py = slf.py();
        Self::fatal_error(slf, &Raised::of(py, os_error(py, error)), READ_FAILED).or_raise(py)
    }

    fn end(slf: &Bound<'_, Self>, protocol: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        let transport = slf.as_super();
        let base = transport.get();
        Transport::log_closed_by_peer(transport)?;
        base.writing.with(py, WriteSide::lose);
        base.unwatch(transport, Direction::Read);
        let notified = match base.scheduler(py) {
            Some(scheduler) => protocol.getattr(intern!(py, "eof_received")).and_then(|callback| {
                scheduler.call_method1(intern!(py, "call_soon"), (callback,)).map(drop)
            }),
            None => Ok(()),
        };
        notified.and(Transport::schedule_connection_lost(transport, None))
    }

    /// Closes the transport because of an exception, which is reported unless it is the hang-up of
    /// a terminal.
    fn fatal_error<'py>(
        slf: &Bound<'py, Self>,
        raised: &Raised<'py>,
        message: &str,
    ) -> PyResult<()> {
        let py = slf.py();
        let transport = slf.as_super();
        let exception = raised.value();
        let is_hang_up = exception.is_instance_of::<PyOSError>()
            && exception.getattr(intern!(py, "errno"))?.eq(libc::EIO)?;
        if is_hang_up {
            Transport::log(transport, "%r: %s", Some(message), Some(raised))?;
        } else {
            Transport::report(transport, message, raised)?;
        }
        Transport::force_close(transport, Some(exception.clone().into_any()))
    }
}

#[pymethods]
impl ReadPipeTransport {
    #[classattr]
    fn max_size() -> usize {
        256 * 1024
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        Transport::pipe_repr(slf.as_super(), Direction::Read)
    }

    #[pyo3(name = "_read_ready")]
    fn read_ready_py(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::read_ready(slf).map_err(PyErr::from)
    }

    #[pyo3(name = "_fatal_error", signature = (exc, message="Fatal error on pipe transport"))]
    fn fatal_error_py<'py>(
        slf: &Bound<'py, Self>,
        exc: Bound<'py, PyAny>,
        message: &str,
    ) -> PyResult<()> {
        Self::fatal_error(slf, &Raised::from(exc.cast_into()?), message)
    }

    #[pyo3(name = "_close")]
    fn close_with<'py>(slf: &Bound<'py, Self>, exc: Option<Bound<'py, PyAny>>) -> PyResult<()> {
        Transport::force_close(slf.as_super(), exc)
    }

    #[getter(_pipe)]
    fn pipe<'py>(slf: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>> {
        Transport::socket_object(slf.as_super())
    }

    #[getter(_fileno)]
    fn fileno(slf: &Bound<'_, Self>) -> i32 {
        slf.base().fd
    }

    // asyncio's class does not have these attributes.

    #[getter(abort)]
    fn no_abort(slf: &Bound<'_, Self>) -> PyResult<()> {
        Transport::no_such_attribute(slf.as_super(), "abort")
    }

    #[getter(get_write_buffer_size)]
    fn no_write_buffer_size(slf: &Bound<'_, Self>) -> PyResult<()> {
        Transport::no_such_attribute(slf.as_super(), "get_write_buffer_size")
    }

    #[getter(get_write_buffer_limits)]
    fn no_write_buffer_limits(slf: &Bound<'_, Self>) -> PyResult<()> {
        Transport::no_such_attribute(slf.as_super(), "get_write_buffer_limits")
    }

    #[getter(set_write_buffer_limits)]
    fn no_set_write_buffer_limits(slf: &Bound<'_, Self>) -> PyResult<()> {
        Transport::no_such_attribute(slf.as_super(), "set_write_buffer_limits")
    }

    fn __del__(slf: &Bound<'_, Self>) {
        if Transport::needs_finalizing(slf.as_super()) {
            Transport::finalize(slf.as_super());
        }
    }
}
