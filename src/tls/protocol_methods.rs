//! The Python methods of [`TlsProtocol`]: those that the underlying transport calls, and asyncio's
//! private names.

use pyo3::exceptions::PyRuntimeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyMemoryView};

use super::backlog::{self, Backlog};
use super::{AppState, Phase, TlsParts, TlsProtocol, TlsTransport, modules};
use crate::ffi::buffer;
use crate::ffi::section::attach_unshared;
use crate::interop::imports;
use crate::scheduler::Scheduler;

/// The size of the buffer for an underlying transport that is not ours, in bytes.
const RECEIVE_BUFFER_SIZE: usize = 64 * 1024;

impl TlsProtocol {
    /// `get_extra_info()` of the transport.
    pub fn extra_info<'py>(
        &self,
        name: &Bound<'py, PyAny>,
        default: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = name.py();
        if let Some(own) = self.own_extra(name)? {
            return Ok(Some(own));
        }
        match self.underlying.get_bound(py) {
            Some(underlying) => {
                underlying.call_method1(intern!(py, "get_extra_info"), (name, default)).map(Some)
            }
            None => Ok(default),
        }
    }

    /// The extra information of TLS itself.
    fn own_extra<'py>(&self, name: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = name.py();
        if let Some(extra) = self.extra.get_bound(py) {
            return extra.get_item(name);
        }
        let is_context = name.extract::<&str>().is_ok_and(|name| name == "sslcontext");
        Ok(is_context.then(|| self.context.bind(py).clone()))
    }

    /// The dict behind [`Self::own_extra`].
    pub fn extra_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        if let Some(extra) = self.extra.get_bound(py) {
            return Ok(extra);
        }
        let extra = PyDict::new(py);
        extra.set_item(intern!(py, "sslcontext"), self.context.bind(py))?;
        self.extra.store(py, Some(extra.clone()));
        Ok(extra)
    }
}

#[pymethods]
impl TlsProtocol {
    #[classattr]
    fn max_size() -> usize {
        256 * 1024
    }

    #[new]
    #[pyo3(signature = (
        r#loop, app_protocol, sslcontext, waiter, server_side=false, server_hostname=None,
        call_connection_made=true, ssl_handshake_timeout=None, ssl_shutdown_timeout=None,
    ))]
    #[expect(clippy::too_many_arguments, reason = "asyncio's signature")]
    fn new<'py>(
        r#loop: Bound<'py, Scheduler>,
        app_protocol: Bound<'py, PyAny>,
        sslcontext: Bound<'py, PyAny>,
        waiter: Option<Bound<'py, PyAny>>,
        server_side: bool,
        server_hostname: Option<Bound<'py, PyAny>>,
        call_connection_made: bool,
        ssl_handshake_timeout: Option<Bound<'py, PyAny>>,
        ssl_shutdown_timeout: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, Self>> {
        Self::create(TlsParts {
            scheduler: r#loop,
            protocol: app_protocol,
            context: sslcontext,
            waiter,
            server_side,
            server_hostname,
            call_connection_made,
            handshake_timeout: ssl_handshake_timeout,
            shutdown_timeout: ssl_shutdown_timeout,
        })
    }

    /// asyncio's class, so that `isinstance(protocol, asyncio.BufferedProtocol)` holds.
    #[getter(__class__)]
    fn asyncio_class<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        imports::ssl_protocol(slf.py()).cloned()
    }

    fn __repr__(slf: &Bound<'_, Self>) -> String {
        format!("<asyncio.sslproto.SSLProtocol object at {:#x}>", slf.as_ptr() as usize)
    }

    /// Called by the underlying transport when it is connected: starts the handshake.
    fn connection_made(slf: &Bound<'_, Self>, transport: &Bound<'_, PyAny>) -> PyResult<()> {
        Self::underlying_connected(slf, transport).map_err(PyErr::from)
    }

    /// Called by the underlying transport when it is closed.
    fn connection_lost<'py>(
        slf: &Bound<'py, Self>,
        exc: Option<Bound<'py, PyAny>>,
    ) -> PyResult<()> {
        drop(slf.get().open.take(slf.py()));
        let exception = exc.unwrap_or_else(|| slf.py().None().into_bound(slf.py()));
        Self::underlying_lost(slf, &exception).map_err(PyErr::from)
    }

    /// Called by the underlying transport with received ciphertext.
    fn data_received(slf: &Bound<'_, Self>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        Self::received_object(slf, data).map_err(PyErr::from)
    }

    /// Return a buffer for ciphertext, valid until `buffer_updated()`.
    fn get_buffer<'py>(&self, py: Python<'py>, _sizehint: isize) -> PyResult<Bound<'py, PyAny>> {
        if let Some(receive_buffer) = self.receive_buffer.get_bound(py) {
            return Ok(receive_buffer);
        }
        let room = pyo3::types::PyByteArray::new(py, &[]);
        room.resize(RECEIVE_BUFFER_SIZE)?;
        let view = PyMemoryView::from(room.as_any())?.into_any();
        self.receive_buffer.store(py, Some(view.clone()));
        Ok(view)
    }

    /// Called by the underlying transport when it has received ciphertext into the buffer.
    fn buffer_updated(slf: &Bound<'_, Self>, nbytes: usize) -> PyResult<()> {
        let py = slf.py();
        let Some(receive_buffer) = slf.get().receive_buffer.get_bound(py) else {
            return Err(PyRuntimeError::new_err("buffer_updated() without get_buffer()"));
        };
        let received = buffer::slice_view(&receive_buffer, 0..nbytes)?;
        Self::received_object(slf, &received).map_err(PyErr::from)
    }

    /// Called by the underlying transport at end of stream.
    fn eof_received(slf: &Bound<'_, Self>) -> PyResult<bool> {
        Self::underlying_eof_received(slf).map_err(PyErr::from)
    }

    /// Called by the underlying transport when its buffer is above the high-water mark.
    fn pause_writing(&self, py: Python<'_>) {
        self.pause_sending(py);
    }

    /// Called by the underlying transport when its buffer has drained to the low-water mark.
    fn resume_writing(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::resume_sending(slf).map_err(PyErr::from)
    }

    fn _check_handshake_timeout(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::check_handshake_timeout(slf).map_err(PyErr::from)
    }

    fn _check_shutdown_timeout(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::check_shutdown_timeout(slf).map_err(PyErr::from)
    }

    #[pyo3(name = "_resume")]
    fn resume_py(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::resume(slf).map_err(PyErr::from)
    }

    #[pyo3(name = "_do_read")]
    fn do_read_py(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::do_read(slf).map_err(PyErr::from)
    }

    #[pyo3(name = "_start_shutdown")]
    fn start_shutdown_py(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::start_shutdown(slf).map_err(PyErr::from)
    }

    #[pyo3(name = "_abort", signature = (exc=None))]
    fn abort_py<'py>(slf: &Bound<'py, Self>, exc: Option<Bound<'py, PyAny>>) -> PyResult<()> {
        slf.get().abort(slf.py(), exc.as_ref()).map_err(PyErr::from)
    }

    #[pyo3(signature = (name, default=None))]
    fn _get_extra_info<'py>(
        &self,
        name: &Bound<'py, PyAny>,
        default: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.extra_info(name, default)
    }

    #[getter(_loop)]
    fn loop_py<'py>(&self, py: Python<'py>) -> Bound<'py, Scheduler> {
        self.event_loop(py)
    }

    #[getter(_app_transport)]
    fn app_transport_py<'py>(&self, py: Python<'py>) -> Option<Bound<'py, TlsTransport>> {
        self.app_transport.get_bound(py)
    }

    #[getter(_app_protocol)]
    fn app_protocol_py<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.app_protocol.get_bound(py)
    }

    fn _set_app_protocol(&self, app_protocol: Bound<'_, PyAny>) -> PyResult<()> {
        self.bind_app_protocol(app_protocol)
    }

    #[getter(_transport)]
    fn transport_py<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.underlying.get_bound(py)
    }

    #[getter(_waiter)]
    fn waiter_py<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.waiter.get_bound(py)
    }

    #[getter(_sslcontext)]
    fn context_py<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        self.context.bind(py).clone()
    }

    #[getter(_sslobj)]
    fn object_py<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        self.session.object(py)
    }

    /// Whether OpenSSL's own functions may be used, for tests.
    #[getter(_uses_openssl_directly)]
    fn uses_openssl_directly(&self) -> bool {
        self.session.direct().is_open()
    }

    #[getter(_incoming)]
    fn incoming_py<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        self.session.incoming(py)
    }

    #[getter(_outgoing)]
    fn outgoing_py<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        self.session.outgoing(py)
    }

    #[getter(_server_side)]
    fn server_side_py(&self) -> bool {
        self.server_side
    }

    #[getter(_server_hostname)]
    fn server_hostname_py<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.server_hostname.as_ref().map(|name| name.bind(py).clone())
    }

    #[getter(_ssl_handshake_timeout)]
    fn handshake_timeout_py<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        self.handshake_timeout.bind(py).clone()
    }

    #[getter(_ssl_shutdown_timeout)]
    fn shutdown_timeout_py<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        self.shutdown_timeout.bind(py).clone()
    }

    #[getter(_state)]
    fn state_py<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        modules::protocol_state(py)?.getattr(match self.phase(py) {
            Phase::Unwrapped => "UNWRAPPED",
            Phase::Handshake => "DO_HANDSHAKE",
            Phase::Wrapped => "WRAPPED",
            Phase::Flushing => "FLUSHING",
            Phase::Shutdown => "SHUTDOWN",
        })
    }

    #[getter(_app_state)]
    fn app_state_py<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        modules::app_protocol_state(py)?.getattr(match self.status.get(py).app {
            AppState::Init => "STATE_INIT",
            AppState::Made => "STATE_CON_MADE",
            AppState::Eof => "STATE_EOF",
            AppState::Lost => "STATE_CON_LOST",
        })
    }

    #[getter(_app_reading_paused)]
    fn app_reading_paused(&self, py: Python<'_>) -> bool {
        self.status.get(py).app_reading_paused
    }

    #[getter(_extra)]
    fn extra_py<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        self.extra_dict(py)
    }

    /// Queue data without sending it, for CPython's tests.
    fn _append_write_backlog(&self, data: &Bound<'_, PyAny>) -> PyResult<()> {
        backlog::append(&self.backlog, data).map_err(PyErr::from)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.traverse_parts(&visit)
    }

    fn __clear__(&self) {
        attach_unshared(|py| {
            drop((
                self.underlying.take(py),
                self.app_protocol.take(py),
                self.app_transport.take(py),
                self.waiter.take(py),
            ));
            drop((
                self.handshake_timer.take(py),
                self.shutdown_timer.take(py),
                self.extra.take(py),
                self.receive_buffer.take(py),
                self.backlog.with(py, std::mem::take::<Backlog>),
            ));
        });
    }
}
