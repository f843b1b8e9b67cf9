//! The writing end of pipes, FIFOs, sockets and terminals.
//!
//! The descriptor is also watched for reading, since that is how systems report that the reading
//! end was closed. `close()` writes the buffered data first, and is the same as `write_eof()`.

use pyo3::exceptions::{PyAssertionError, PyBrokenPipeError, PyNotImplementedError, PyTypeError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes};

use crate::ffi::exception::{OrRaise, PyOutcome, Raised};
use crate::ffi::objects::cell::{AttachedCell, AttachedRefCell};
use crate::ffi::objects::object::HasBase;
use crate::ffi::objects::slots::Finalize;
use crate::interop::error::os_error;
use crate::interop::imports;
use crate::metrics::TransportClass;
use crate::scheduler::watch::Direction;
use crate::sys::pipe::{self, FileKind};
use crate::transport::data::is_data;
use crate::transport::kind::ConcreteTransport;
use crate::transport::pipe::{FullStreak, open_end};
use crate::transport::write_queue::{self, WriteQueue};
use crate::transport::writing::LOG_THRESHOLD_FOR_CONNLOST_WRITES;
use crate::transport::{Endpoint, Transport, TransportKind, TransportParts};
use crate::write_side::{Close, ResumeAt, Write, WriteSide};

const WRITE_FAILED: &str = "Fatal write error on pipe transport";

/// On AIX only a socket becomes readable when the reading end is closed.
const FIFO_REPORTS_CLOSED_READER: bool = !cfg!(target_os = "aix");

static KIND: TransportKind = TransportKind::of::<WritePipeTransport>();

impl ConcreteTransport for WritePipeTransport {
    const COUNTED_AS: TransportClass = TransportClass::Pipe;
    const IS_SOCKET: bool = false;
    // asyncio's pipes have no use for the low-water mark.
    const RESUME_AT: ResumeAt = ResumeAt::Empty;
    const WRITE_FAILED: &'static str = WRITE_FAILED;

    fn asyncio_class(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
        imports::write_pipe_transport(py)
    }

    fn on_readable<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        Self::reader_gone(slf)
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
}

/// The writing end of a pipe and its protocol.
///
/// See <https://docs.python.org/3/library/asyncio-protocol.html#write-only-transports>.
#[pyclass(frozen, extends = Transport, module = "ferroloop._ferroloop")]
pub struct WritePipeTransport {
    queue: AttachedRefCell<WriteQueue>,
    full_streak: AttachedCell<FullStreak>,
    /// The number of writes that failed or came after the connection was lost.
    lost_writes: AttachedCell<u32>,
}

impl WritePipeTransport {
    /// Creates a transport and starts to open it.
    ///
    /// # Errors
    /// ValueError if it is not a pipe, a socket or a character device; OSError.
    pub fn open<'py>(
        parts: TransportParts<'py>,
        waiter: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, Self>> {
        let py = parts.scheduler.py();
        let writer = Self {
            queue: AttachedRefCell::new(WriteQueue::default()),
            full_streak: AttachedCell::new(FullStreak::default()),
            lost_writes: AttachedCell::new(0),
        };
        let refusal = "Pipe transport is only for pipes, sockets and character devices";
        let prepare = |base: &Transport, file_kind| {
            let reports_closed_reader = match file_kind {
                FileKind::Socket => true,
                FileKind::Fifo => FIFO_REPORTS_CLOSED_READER,
                FileKind::CharacterDevice | FileKind::Other => false,
            };
            // Where the system does not report it, reading is paused permanently.
            base.update_state(py, |state| state.paused = !reports_closed_reader);
        };
        open_end(&KIND, parts, writer, refusal, prepare, waiter)
    }

    /// Called when the reading end was closed.
    fn reader_gone<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let transport = slf.as_super();
        // An event may be queued already when a callback closes.
        if transport.get().is_lost(py) {
            return Ok(());
        }
        Transport::log_closed_by_peer(transport).or_raise(py)?;
        let unwritten = transport.get().writing.with(py, |side| side.queued()) != 0;
        let exception =
            unwritten.then(|| PyBrokenPipeError::new_err(()).into_value(py).into_bound(py));
        Transport::force_close(transport, exception.map(Bound::into_any)).or_raise(py)
    }

    /// Writes as much of `data` as the pipe accepts and queues the rest.
    fn write<'py>(slf: &Bound<'py, Self>, data: &Bound<'py, PyAny>) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let this = slf.get();
        let transport = slf.as_super();
        if transport.get().is_closing(py) {
            return this.note_lost_write(py).or_raise(py);
        }
        let base = transport.get();
        let decided = base.writing.with(py, |side| side.write(None));
        let fd = base.descriptor(py);
        let written = write_queue::send_or_push(&this.queue, data, |content| match decided {
            Write::Send => base.count_sent(py, pipe::write(fd, content)),
            _ => Ok(0),
        });
        match written {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => {
                let queued = this.queue.with(py, |queue| queue.len());
                base.writing.with(py, |side| match decided {
                    Write::Send => side.wait(queued),
                    _ => side.queued_more(queued),
                });
                Transport::run_commands(transport)
            }
            Ok(Err(error)) => {
                this.lost_writes.set(py, this.lost_writes.get(py).saturating_add(1));
                Transport::fatal_error(
                    transport,
                    Raised::of(py, os_error(py, &error)),
                    WRITE_FAILED,
                )
            }
            // asyncio appends to a bytearray, which raises this.
            Err(_) if decided == Write::Queue => {
                let class = data.get_type().qualname();
                class
                    .and_then(|class| {
                        Err(PyTypeError::new_err(format!("can't concat {class} to bytearray")))
                    })
                    .or_raise(py)
            }
            Err(raised) => Transport::fatal_error(transport, raised, WRITE_FAILED),
        }
    }

    /// Writes the head of the queue.
    fn send_queue<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let this = slf.get();
        let transport = slf.as_super();
        let base = transport.get();
        let fd = base.descriptor(py);
        let written = write_queue::send_head(&this.queue, py, |slices| {
            let written = match slices {
                [slice] => pipe::write(fd, slice),
                slices => pipe::write_vectored(fd, slices),
            };
            base.count_sent(py, written)
        });
        if let Err(error) = written {
            this.lost_writes.set(py, this.lost_writes.get(py).saturating_add(1));
            let dropped = this.queue.with(py, WriteQueue::take);
            base.writing.with(py, WriteSide::dropped);
            drop(dropped);
            return Transport::fatal_error(
                transport,
                Raised::of(py, os_error(py, &error)),
                WRITE_FAILED,
            );
        }
        let mut full_streak = this.full_streak.get(py);
        full_streak.note(fd, !this.queue.with(py, |queue| queue.is_empty()));
        this.full_streak.set(py, full_streak);
        Ok(())
    }

    /// Closes the pipe once all data is written, for `close()` and `write_eof()`.
    fn finish(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let transport = slf.as_super();
        let base = transport.get();
        if base.is_closing(py) || base.endpoint.inspect(py, Endpoint::is_closed) {
            return Ok(());
        }
        if base.writing.with(py, WriteSide::close) != Close::Now {
            return Ok(());
        }
        base.unwatch(transport, Direction::Read);
        Transport::run_commands(transport)?;
        Transport::schedule_connection_lost(transport, None)
    }

    #[cold]
    fn note_lost_write(&self, py: Python<'_>) -> PyResult<()> {
        let lost = self.lost_writes.get(py);
        if lost >= LOG_THRESHOLD_FOR_CONNLOST_WRITES {
            let text = "pipe closed by peer or os.write(pipe, data) raised exception.";
            imports::logger(py)?.call_method1(intern!(py, "warning"), (text,))?;
        }
        self.lost_writes.set(py, lost.saturating_add(1));
        Ok(())
    }
}

#[pymethods]
impl WritePipeTransport {
    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        Transport::pipe_repr(slf.as_super(), Direction::Write)
    }

    /// Write some data. Does not block: data that the pipe does not accept is buffered.
    ///
    /// Raises:
    ///     AssertionError: data is not bytes, a bytearray or a memoryview.
    #[pyo3(name = "write")]
    fn write_py(slf: &Bound<'_, Self>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        if !is_data(data) {
            return Err(PyAssertionError::new_err(data.repr()?.to_string()));
        }
        if !data.is_truthy()? {
            return Ok(());
        }
        Self::write(slf, data).map_err(PyErr::from)
    }

    /// Write a list of data, as if it was joined.
    fn writelines(slf: &Bound<'_, Self>, list_of_data: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        let joined = PyBytes::new(py, b"").call_method1(intern!(py, "join"), (list_of_data,))?;
        slf.call_method1(intern!(py, "write"), (joined,)).map(drop)
    }

    /// Close the pipe; buffered data is written first.
    fn close(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::finish(slf)
    }

    /// Close the pipe; buffered data is written first.
    fn write_eof(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::finish(slf)
    }

    /// Return True: write_eof() is supported.
    fn can_write_eof(&self) -> bool {
        true
    }

    #[pyo3(name = "_read_ready")]
    fn reader_gone_py(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::reader_gone(slf).map_err(PyErr::from)
    }

    #[pyo3(name = "_write_ready")]
    fn write_ready_py(slf: &Bound<'_, Self>) -> PyResult<()> {
        Transport::write_ready(slf.as_super()).map_err(PyErr::from)
    }

    #[pyo3(name = "_close", signature = (exc=None))]
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

    #[getter(_conn_lost)]
    fn conn_lost(&self, py: Python<'_>) -> u32 {
        self.lost_writes.get(py)
    }

    /// A copy of the data that is not written yet.
    #[getter(_buffer)]
    fn buffer<'py>(&self, py: Python<'py>) -> Bound<'py, PyByteArray> {
        PyByteArray::new(py, &self.queue.with(py, |queue| queue.copy(py)))
    }

    // asyncio's class inherits these from an abstract class.

    fn is_reading(&self) -> PyResult<()> {
        Err(PyNotImplementedError::new_err(()))
    }

    fn pause_reading(&self) -> PyResult<()> {
        Err(PyNotImplementedError::new_err(()))
    }

    fn resume_reading(&self) -> PyResult<()> {
        Err(PyNotImplementedError::new_err(()))
    }

    fn __del__(slf: &Bound<'_, Self>) {
        if Transport::needs_finalizing(slf.as_super()) {
            Transport::finalize(slf.as_super());
        }
    }
}
