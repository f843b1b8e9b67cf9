//! Transports for pipes, FIFOs and terminals.
//!
//! * `reader.rs`: the reading end; `writer.rs`: the writing end;
//! * this file: what both ends share.

mod reader;
mod writer;

use std::os::fd::RawFd;

use pyo3::PyClass;
use pyo3::exceptions::{PyAttributeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

pub use reader::ReadPipeTransport;
pub use writer::WritePipeTransport;

use crate::ffi::objects::object::HasBase;
use crate::interop::error::os_error;
use crate::interop::imports;
use crate::scheduler::Scheduler;
use crate::scheduler::watch::Direction;
use crate::sys::pipe::{self, FileKind};
use crate::transport::{Endpoint, Transport, TransportKind, TransportParts};

/// How often in a row a pipe was full. A pipe that is repeatedly full is enlarged, so that data
/// moves in fewer and larger pieces.
#[derive(Clone, Copy, Default)]
pub struct FullStreak(u8);

impl FullStreak {
    /// The pipe is enlarged when it was full more often than this.
    const THRESHOLD: u8 = 4;

    /// Records whether the pipe at `fd` was full this time.
    #[inline]
    pub fn note(&mut self, fd: RawFd, full: bool) {
        if self.0 > Self::THRESHOLD {
            return;
        }
        self.0 = if full { self.0 + 1 } else { 0 };
        if self.0 > Self::THRESHOLD {
            pipe::enlarge(fd);
        }
    }
}

/// Creates the transport of one end of a pipe, whose own state is `end`, and starts to open it.
/// `prepare` is called before, with the kind of the file; `refusal` is the message for any other
/// file.
///
/// # Errors
/// ValueError if it is not a pipe, a socket or a character device; OSError.
fn open_end<'py, T: PyClass<BaseType = Transport>>(
    kind: &'static TransportKind,
    parts: TransportParts<'py>,
    end: T,
    refusal: &'static str,
    prepare: impl FnOnce(&Transport, FileKind),
    waiter: Option<Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, T>> {
    let py = parts.scheduler.py();
    let fd = parts.endpoint.descriptor();
    let file_kind = pipe::file_kind(fd).map_err(|error| os_error(py, &error))?;
    if matches!(file_kind, FileKind::Other) {
        return Err(PyValueError::new_err(refusal));
    }
    pipe::set_non_blocking(fd).map_err(|error| os_error(py, &error))?;
    let protocol = parts.protocol.clone();
    let base = PyClassInitializer::from(Transport::new(kind, parts));
    let transport = Bound::new(py, base.add_subclass(end))?;
    transport.base().bind_protocol(protocol)?;
    prepare(transport.base(), file_kind);
    Transport::open(transport.as_super(), waiter)?;
    Ok(transport)
}

impl Transport {
    /// Logs with asyncio's logger, in debug mode, that the other end was closed.
    pub(in crate::transport) fn log_closed_by_peer(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        if slf.get().debug(py) {
            let text = intern!(py, "%r was closed by peer");
            imports::logger(py)?.call_method1(intern!(py, "info"), (text, slf))?;
        }
        Ok(())
    }

    /// The repr of one end of a pipe, which is watched in `direction`.
    pub(in crate::transport) fn pipe_repr(
        slf: &Bound<'_, Self>,
        direction: Direction,
    ) -> PyResult<String> {
        let py = slf.py();
        let this = slf.get();
        let name = (this.kind.class)(py)?.getattr(intern!(py, "__name__"))?;
        let closed = this.endpoint.inspect(py, Endpoint::is_closed);
        let mut info = vec![name.to_string()];
        if closed {
            info.push("closed".to_owned());
        } else if this.is_closing(py) {
            info.push("closing".to_owned());
        }
        info.push(format!("fd={}", this.fd));
        if closed {
            info.push("closed".to_owned());
        } else {
            let polling = this
                .scheduler(py)
                .is_some_and(|scheduler| scheduler.get().is_watched(py, this.fd, direction));
            info.push(if polling { "polling" } else { "idle" }.to_owned());
            if direction == Direction::Write {
                let size = this.writing.with(py, |side| side.unsent());
                info.push(format!("bufsize={size}"));
            }
        }
        Ok(format!("<{}>", info.join(" ")))
    }

    /// AttributeError for an attribute that asyncio's class does not have.
    pub(in crate::transport) fn no_such_attribute(
        slf: &Bound<'_, Self>,
        attribute: &str,
    ) -> PyResult<()> {
        let py = slf.py();
        let name = (slf.get().kind.class)(py)?.getattr(intern!(py, "__name__"))?;
        let message = format!("'{name}' object has no attribute '{attribute}'");
        Err(PyAttributeError::new_err(message))
    }

    /// The parts of a transport for one end of a pipe. The extra information contains the pipe.
    ///
    /// # Errors
    /// Those of `fileno()`.
    pub fn pipe_parts<'py>(
        scheduler: Bound<'py, Scheduler>,
        pipe: &Bound<'py, PyAny>,
        protocol: Bound<'py, PyAny>,
        extra: Option<Bound<'py, PyDict>>,
    ) -> PyResult<TransportParts<'py>> {
        let py = pipe.py();
        let extra = extra.unwrap_or_else(|| PyDict::new(py));
        extra.set_item(intern!(py, "pipe"), pipe)?;
        let endpoint = Endpoint::of(pipe)?;
        let (server, peer, context) = (None, None, None);
        Ok(TransportParts {
            scheduler,
            endpoint,
            protocol,
            extra: Some(extra),
            server,
            peer,
            context,
        })
    }
}
