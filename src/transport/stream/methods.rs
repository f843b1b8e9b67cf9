//! The Python methods of stream transports.

use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyMemoryView};

use crate::ffi::objects::object::HasBase;
use crate::ffi::section::attach_unshared;
use crate::interop::imports;
use crate::transport::data::check_data;
use crate::transport::{StreamTransport, Transport};
use crate::write_side::WriteSide;

/// The accepted types, as named in the error message of asyncio's stream transports.
const STREAM_DATA: &str =
    if cfg!(Py_3_14) { "a bytes, bytearray, or memoryview object" } else { "a bytes-like object" };

impl StreamTransport {
    pub(in crate::transport) fn check_writable(
        &self,
        slf: &Bound<'_, Self>,
        method: &str,
    ) -> PyResult<()> {
        let py = slf.py();
        if slf.base().writing.with(py, |side| side.has_eof()) {
            let message = format!("Cannot call {method}() after write_eof()");
            return Err(PyRuntimeError::new_err(message));
        }
        if self.empty_waiter.is_some(py) {
            let message = format!("unable to {method}; sendfile is in progress");
            return Err(PyRuntimeError::new_err(message));
        }
        Ok(())
    }
}

#[pymethods]
impl StreamTransport {
    #[classattr]
    fn _start_tls_compatible() -> bool {
        true
    }

    #[classattr]
    fn _sendfile_compatible(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        imports::sendfile_mode(py)?.getattr("TRY_NATIVE")
    }

    #[classattr]
    fn max_size() -> usize {
        256 * 1024
    }

    /// Write some data. Does not block: data that the socket does not accept is buffered.
    ///
    /// Raises:
    ///     TypeError: data is not bytes, a bytearray or a memoryview.
    ///     RuntimeError: after write_eof().
    #[pyo3(name = "write")]
    fn write_py(slf: &Bound<'_, Self>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        check_data(data, STREAM_DATA)?;
        slf.get().check_writable(slf, "write")?;
        if data.cast::<PyBytes>().is_ok_and(|bytes| bytes.as_bytes().is_empty())
            || !data.is_truthy()?
        {
            return Ok(());
        }
        Self::write(slf, data).map_err(PyErr::from)
    }

    /// Write a list of data, as if it was joined.
    fn writelines(slf: &Bound<'_, Self>, list_of_data: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        if cfg!(not(Py_3_12)) {
            // The errors for wrong types depend on the version.
            let joined =
                PyBytes::new(py, b"").call_method1(intern!(py, "join"), (list_of_data,))?;
            return Self::write_py(slf, &joined);
        }
        slf.get().check_writable(slf, "writelines")?;
        if !list_of_data.is_truthy()? {
            return Ok(());
        }
        let mut chunks = Vec::new();
        for data in list_of_data.try_iter()? {
            let data = data?;
            if data.is_instance_of::<PyBytes>() {
                chunks.push(data);
            } else {
                chunks.push(PyMemoryView::from(&data)?.into_any());
            }
        }
        Self::write_chunks(slf, &chunks).map_err(PyErr::from)
    }

    /// Half-close the connection once all buffered data is written; reading remains possible.
    fn write_eof(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let transport = slf.as_super();
        Transport::flush_coalesced(transport)?;
        transport.get().writing.with(py, WriteSide::end_of_stream);
        Transport::run_commands(transport).map_err(PyErr::from)
    }

    /// Return True: write_eof() is supported.
    fn can_write_eof(&self) -> bool {
        true
    }

    #[pyo3(name = "_read_ready")]
    fn read_ready_py(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::read_ready(slf).map_err(PyErr::from)
    }

    #[pyo3(name = "_write_ready")]
    fn write_ready_py(slf: &Bound<'_, Self>) -> PyResult<()> {
        Transport::write_ready(slf.as_super()).map_err(PyErr::from)
    }

    /// A future that is done when all buffered data is written. Meanwhile writing raises.
    fn _make_empty_waiter<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let this = slf.get();
        Transport::flush_coalesced(slf.as_super())?;
        if this.empty_waiter.is_some(py) {
            return Err(PyRuntimeError::new_err("Empty waiter is already set"));
        }
        let Some(event_loop) = slf.base().scheduler(py) else {
            return Err(PyRuntimeError::new_err("Connection is closed"));
        };
        let waiter = event_loop.call_method0(intern!(py, "create_future"))?;
        this.empty_waiter.store(py, Some(waiter.clone()));
        if this.queue.with(py, |queue| queue.is_empty()) {
            waiter.call_method1(intern!(py, "set_result"), (py.None(),))?;
        }
        Ok(waiter)
    }

    /// Allows writing again.
    fn _reset_empty_waiter(&self, py: Python<'_>) {
        drop(self.empty_waiter.take(py));
    }

    #[getter(_empty_waiter)]
    fn empty_waiter_py<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.empty_waiter.get_bound(py)
    }

    /// A copy of the data that is not written yet: a bytearray before Python 3.12, a deque of
    /// pieces from then on.
    #[getter(_buffer)]
    fn buffer<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        Transport::flush_coalesced(slf.as_super())?;
        let content = slf.get().queue.with(py, |queue| queue.copy(py));
        if cfg!(not(Py_3_12)) {
            return Ok(PyByteArray::new(py, &content).into_any());
        }
        let pieces = (!content.is_empty()).then(|| PyBytes::new(py, &content));
        imports::deque(py)?.call1((pieces.into_iter().collect::<Vec<_>>(),))
    }

    #[getter(_eof)]
    fn eof_py(slf: &Bound<'_, Self>) -> bool {
        slf.base().writing.with(slf.py(), |side| side.has_eof())
    }

    fn __del__(slf: &Bound<'_, Self>) {
        use crate::ffi::objects::slots::Finalize;
        if Transport::needs_finalizing(slf.as_super()) {
            Transport::finalize(slf.as_super());
        }
    }

    fn __traverse__(&self, visit: pyo3::gc::PyVisit<'_>) -> Result<(), pyo3::gc::PyTraverseError> {
        self.empty_waiter.visit(&visit)
    }

    fn __clear__(&self) {
        attach_unshared(|py| drop(self.empty_waiter.take(py)));
    }
}
