//! The transport of the application's protocol: asyncio's `_SSLProtocolTransport`.

use pyo3::exceptions::{PyNotImplementedError, PyTypeError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyMemoryView};

use super::TlsProtocol;
use super::flow_control::WaterMarks;
use crate::ffi::exception::{Raised, write_unraisable};
use crate::ffi::objects::cell::AttachedCell;
use crate::ffi::objects::slots::{Finalize, original_dealloc};
use crate::ffi::section::{Home, Owned, attach_unshared};
use crate::interop::imports;
use crate::interop::warning::resource_warning;
use crate::scheduler::Scheduler;

/// The transport of a TLS connection. Not for direct use: the loop creates transports.
///
/// See <https://docs.python.org/3/library/asyncio-protocol.html#transports>.
#[pyclass(frozen, weakref, dict, module = "ferroloop._ferroloop")]
pub struct TlsTransport {
    home: Home,
    /// `None` once it was closed twice, as in asyncio, so that a protocol that keeps its transport
    /// is no longer a reference cycle.
    protocol: AttachedCell<Option<Py<TlsProtocol>>>,
    /// Whether it is not closed yet, so that deallocating it warns.
    open: AttachedCell<bool>,
}

impl TlsTransport {
    /// The transport of `protocol`.
    pub fn new(protocol: &Bound<'_, TlsProtocol>) -> Self {
        Self {
            home: Home::same_as(TlsProtocol::owner(protocol)),
            protocol: AttachedCell::new(Some(protocol.clone().unbind())),
            open: AttachedCell::new(true),
        }
    }

    /// Marks the transport as closing or closed.
    pub fn mark_closed(&self, py: Python<'_>) {
        self.open.set(py, false);
    }

    fn protocol<'py>(&self, py: Python<'py>) -> Option<Bound<'py, TlsProtocol>> {
        self.protocol.get_bound(py)
    }
}

impl Owned for TlsTransport {
    fn owner<'a, 'py>(slf: &'a Bound<'py, Self>) -> Option<Borrowed<'a, 'py, PyAny>> {
        slf.get().home.get(slf.py())
    }
}

impl Finalize for TlsTransport {
    original_dealloc!();

    #[inline(always)]
    fn needs_finalizing(slf: &Bound<'_, Self>) -> bool {
        slf.get().open.get(slf.py())
    }

    fn finalize(slf: &Bound<'_, Self>) {
        let py = slf.py();
        slf.get().mark_closed(py);
        let message = "unclosed transport <asyncio._SSLProtocolTransport object>";
        let warned =
            imports::ssl_transport(py).and_then(|class| resource_warning(class, 3, message, None));
        if let Err(error) = warned {
            write_unraisable(Raised::of(py, error), slf);
        }
    }
}

#[pymethods]
impl TlsTransport {
    #[classattr]
    fn _start_tls_compatible() -> bool {
        true
    }

    #[classattr]
    fn _sendfile_compatible(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        imports::sendfile_mode(py)?.getattr("FALLBACK")
    }

    /// asyncio's class for this kind of transport, so that `isinstance(t, asyncio.Transport)`
    /// holds.
    #[getter(__class__)]
    fn asyncio_class<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        imports::ssl_transport(slf.py()).cloned()
    }

    fn __repr__(slf: &Bound<'_, Self>) -> String {
        format!("<asyncio.sslproto._SSLProtocolTransport object at {:#x}>", slf.as_ptr() as usize)
    }

    /// Return optional information about the transport: "sslcontext", "ssl_object", "peercert",
    /// "cipher", "compression", and that of the underlying transport.
    #[pyo3(signature = (name, default=None))]
    fn get_extra_info<'py>(
        &self,
        name: &Bound<'py, PyAny>,
        default: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        match self.protocol(name.py()) {
            Some(protocol) => protocol.get().extra_info(name, default),
            None => Ok(default),
        }
    }

    /// Set a new protocol.
    fn set_protocol(&self, protocol: Bound<'_, PyAny>) -> PyResult<()> {
        match self.protocol(protocol.py()) {
            Some(tls) => tls.get().bind_app_protocol(protocol),
            None => Ok(()),
        }
    }

    /// Return the current protocol.
    fn get_protocol<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.protocol(py)?.get().app_protocol.get_bound(py)
    }

    /// Return True if the transport is closing or closed.
    fn is_closing(&self, py: Python<'_>) -> PyResult<bool> {
        if !self.open.get(py) {
            return Ok(true);
        }
        if !super::modules::closing_follows_underlying(py)? {
            return Ok(false);
        }
        match self.protocol(py).and_then(|protocol| protocol.get().underlying.get_bound(py)) {
            Some(underlying) => underlying.call_method0(intern!(py, "is_closing"))?.is_truthy(),
            None => Ok(false),
        }
    }

    /// Close the transport: buffered data is written and close_notify exchanged first.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        if !self.open.get(py) {
            drop(self.protocol.take(py));
            return Ok(());
        }
        self.mark_closed(py);
        let Some(protocol) = self.protocol(py) else { return Ok(()) };
        TlsProtocol::start_shutdown(&protocol).map_err(PyErr::from)
    }

    /// Close the transport at once; buffered data is lost.
    fn abort(&self, py: Python<'_>) -> PyResult<()> {
        self.force_close(py, None)
    }

    #[pyo3(name = "_force_close")]
    fn force_close(&self, py: Python<'_>, exc: Option<Bound<'_, PyAny>>) -> PyResult<()> {
        self.mark_closed(py);
        let Some(protocol) = self.protocol(py) else { return Ok(()) };
        protocol.get().abort(py, exc.as_ref()).map_err(PyErr::from)
    }

    /// Return True if the transport is receiving.
    fn is_reading(&self, py: Python<'_>) -> bool {
        let protocol = self.protocol(py);
        protocol.is_some_and(|protocol| !protocol.get().status.get(py).app_reading_paused)
    }

    /// Stop calling the protocol with received data.
    fn pause_reading(&self, py: Python<'_>) {
        if let Some(protocol) = self.protocol(py) {
            protocol.get().pause_app_reading(py);
        }
    }

    /// Call the protocol with received data again.
    fn resume_reading(&self, py: Python<'_>) -> PyResult<()> {
        match self.protocol(py) {
            Some(protocol) => TlsProtocol::resume_app_reading(&protocol).map_err(PyErr::from),
            None => Ok(()),
        }
    }

    /// Set the water marks for writing, in bytes.
    ///
    /// Raises:
    ///     ValueError: unless high >= low >= 0.
    #[pyo3(signature = (high=None, low=None))]
    fn set_write_buffer_limits<'py>(
        slf: &Bound<'py, Self>,
        high: Option<Bound<'py, PyAny>>,
        low: Option<Bound<'py, PyAny>>,
    ) -> PyResult<()> {
        let py = slf.py();
        let limits = WaterMarks::of(py, high, low, 512)?;
        let Some(protocol) = slf.get().protocol(py) else { return Ok(()) };
        protocol.get().write_limits.set(py, limits);
        TlsProtocol::control_app_writing(&protocol).map_err(PyErr::from)
    }

    /// Return the low and the high water mark for writing.
    fn get_write_buffer_limits(&self, py: Python<'_>) -> (usize, usize) {
        let limits = self.protocol(py).map(|protocol| protocol.get().write_limits.get(py));
        let limits = limits.unwrap_or(WaterMarks::of_kibibytes(512));
        (limits.low, limits.high)
    }

    /// Return the number of bytes that are buffered for writing.
    fn get_write_buffer_size(&self, py: Python<'_>) -> PyResult<usize> {
        self.protocol(py).map_or(Ok(0), |protocol| protocol.get().write_buffer_size(py))
    }

    /// Set the water marks for reading, in bytes.
    ///
    /// Raises:
    ///     ValueError: unless high >= low >= 0.
    #[pyo3(signature = (high=None, low=None))]
    fn set_read_buffer_limits<'py>(
        slf: &Bound<'py, Self>,
        high: Option<Bound<'py, PyAny>>,
        low: Option<Bound<'py, PyAny>>,
    ) -> PyResult<()> {
        let py = slf.py();
        let limits = WaterMarks::of(py, high, low, 256)?;
        let Some(protocol) = slf.get().protocol(py) else { return Ok(()) };
        protocol.get().read_limits.set(py, limits);
        TlsProtocol::control_reading(&protocol).map_err(PyErr::from)
    }

    /// Return the low and the high water mark for reading.
    fn get_read_buffer_limits(&self, py: Python<'_>) -> (usize, usize) {
        let limits = self.protocol(py).map(|protocol| protocol.get().read_limits.get(py));
        let limits = limits.unwrap_or(WaterMarks::of_kibibytes(256));
        (limits.low, limits.high)
    }

    /// Return the number of bytes that were received and are not decrypted yet.
    fn get_read_buffer_size(&self, py: Python<'_>) -> PyResult<usize> {
        self.protocol(py).map_or(Ok(0), |protocol| protocol.get().session.incoming_size(py))
    }

    /// Write some data. Does not block: data that is not sent at once is buffered.
    ///
    /// Raises:
    ///     TypeError: data is not bytes, a bytearray or a memoryview.
    fn write(&self, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let empty = match data.cast::<PyBytes>() {
            Ok(bytes) => bytes.as_bytes().is_empty(),
            Err(_) => {
                check_data(data)?;
                !data.is_truthy()?
            }
        };
        if empty {
            return Ok(());
        }
        let Some(protocol) = self.protocol(data.py()) else { return Ok(()) };
        TlsProtocol::write_application_data(&protocol, data).map_err(PyErr::from)
    }

    /// Write a list of data, as if it was joined.
    fn writelines(&self, list_of_data: &Bound<'_, PyAny>) -> PyResult<()> {
        let Some(protocol) = self.protocol(list_of_data.py()) else { return Ok(()) };
        TlsProtocol::write_pieces(&protocol, list_of_data).map_err(PyErr::from)
    }

    /// Not possible with TLS.
    ///
    /// Raises:
    ///     NotImplementedError: always.
    fn write_eof(&self) -> PyResult<()> {
        Err(PyNotImplementedError::new_err(()))
    }

    /// Return False: TLS has no half-close.
    fn can_write_eof(&self) -> bool {
        false
    }

    #[getter(_protocol_paused)]
    fn protocol_paused(&self, py: Python<'_>) -> bool {
        let protocol = self.protocol(py);
        protocol.is_some_and(|protocol| protocol.get().status.get(py).app_writing_paused)
    }

    #[getter(_ssl_protocol)]
    fn protocol_py<'py>(&self, py: Python<'py>) -> Option<Bound<'py, TlsProtocol>> {
        self.protocol.get_bound(py)
    }

    #[getter(_loop)]
    fn loop_py<'py>(&self, py: Python<'py>) -> Option<Bound<'py, Scheduler>> {
        Some(self.protocol(py)?.get().event_loop(py))
    }

    #[getter(_closed)]
    fn closed_py(&self, py: Python<'_>) -> bool {
        !self.open.get(py)
    }

    #[pyo3(name = "_test__append_write_backlog")]
    fn append_write_backlog(&self, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let Some(protocol) = self.protocol(data.py()) else { return Ok(()) };
        protocol.call_method1(intern!(data.py(), "_append_write_backlog"), (data,)).map(drop)
    }

    fn __del__(slf: &Bound<'_, Self>) {
        if Self::needs_finalizing(slf) {
            Self::finalize(slf);
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.home.visit(&visit)?;
        self.protocol.visit(&visit)
    }

    fn __clear__(&self) {
        attach_unshared(|py| drop(self.protocol.take(py)));
    }
}

/// Checks the type of the data for `write()`, by asyncio's rules.
fn check_data(data: &Bound<'_, PyAny>) -> PyResult<()> {
    if data.is_instance_of::<PyBytes>()
        || data.is_instance_of::<PyByteArray>()
        || data.is_instance_of::<PyMemoryView>()
    {
        return Ok(());
    }
    let name = data.get_type().getattr(intern!(data.py(), "__name__"))?;
    Err(PyTypeError::new_err(format!("data: expecting a bytes-like instance, got {name}")))
}
