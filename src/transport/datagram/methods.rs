//! The Python methods of datagram transports.

use pyo3::exceptions::PyValueError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::ffi::buffer;
use crate::ffi::objects::cell::Traverse;
use crate::ffi::objects::object::HasBase;
use crate::ffi::objects::slots::Finalize;
use crate::interop::imports;
use crate::transport::data::check_data;
use crate::transport::datagram::{Datagram, SendOutcome};
use crate::transport::{DatagramTransport, Endpoint, Transport};
use crate::write_side::{Write, WriteSide};

impl DatagramTransport {
    /// The address to which a datagram is sent.
    fn destination<'py>(
        &self,
        py: Python<'py>,
        addr: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let Some(address) = self.address.get_bound(py) else { return Ok(addr) };
        match addr {
            Some(addr) if !addr.is(&address) && !addr.eq(&address)? => {
                let address = address.str()?;
                let text = format!("Invalid address: must be None or {address}");
                Err(PyValueError::new_err(text))
            }
            _ => Ok(Some(address)),
        }
    }
}

#[pymethods]
impl DatagramTransport {
    #[classattr]
    fn max_size() -> usize {
        256 * 1024
    }

    /// Send a datagram to addr, or to the address that the socket is connected to.
    ///
    /// Raises:
    ///     TypeError: data is not bytes, a bytearray or a memoryview.
    ///     ValueError: the socket is connected to another address.
    #[pyo3(signature = (data, addr=None))]
    fn sendto<'py>(
        slf: &Bound<'py, Self>,
        data: &Bound<'py, PyAny>,
        addr: Option<Bound<'py, PyAny>>,
    ) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let base = slf.base();
        check_data(data, "a bytes-like object")?;
        if cfg!(not(Py_3_13)) && !data.is_truthy()? {
            return Ok(());
        }
        let to = this.destination(py, addr)?;
        let lost = base.is_lost(py);
        if (lost && this.address.is_some(py)) || base.endpoint.inspect(py, Endpoint::is_closed) {
            let late = base.writing.with(py, WriteSide::note_late);
            return Transport::warn_of_late_write(py, late).map_err(PyErr::from);
        }
        // Mutable data is copied: it may be queued, and Python code may change it meanwhile.
        let copied = match data.cast::<PyBytes>() {
            Ok(bytes) => Ok(bytes.clone()),
            Err(_) => buffer::with_bytes(data, |content| PyBytes::new(py, content)),
        };
        let data = match copied {
            Ok(bytes) => bytes,
            // Memory that is not contiguous cannot be sent, but can be queued, as in asyncio.
            Err(_) if this.queue.with(py, |queue| !queue.is_empty()) => {
                py.get_type::<PyBytes>().call1((data,))?.cast_into()?
            }
            Err(raised) => return Self::send_failed(slf, raised).map_err(PyErr::from),
        };
        // asyncio still sends while `connection_lost()` is scheduled.
        let at_once = lost || base.writing.with(py, |side| side.write(None)) == Write::Send;
        if at_once {
            match Self::send(slf, data.as_any(), data.as_bytes(), to.as_ref()) {
                SendOutcome::Sent => return Ok(()),
                SendOutcome::NotReady if base.is_lost(py) => return Ok(()),
                SendOutcome::NotReady => {}
                SendOutcome::Failed(raised) => {
                    return Self::send_failed(slf, raised).map_err(PyErr::from);
                }
            }
        }
        Self::enqueue(slf, data, to.map(Bound::unbind));
        Self::note_queued(slf, at_once).map_err(PyErr::from)
    }

    #[pyo3(name = "_read_ready")]
    fn read_ready_py(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::read_ready(slf).map_err(PyErr::from)
    }

    fn _sendto_ready(slf: &Bound<'_, Self>) -> PyResult<()> {
        Transport::write_ready(slf.as_super()).map_err(PyErr::from)
    }

    /// A copy of the datagrams that are not sent yet, with their addresses.
    #[getter(_buffer)]
    fn buffer<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let copy = |datagram: &Datagram| {
            (datagram.data.clone_ref(py), datagram.to.as_ref().map(|to| to.clone_ref(py)))
        };
        let datagrams = self.queue.with(py, |queue| queue.iter().map(copy).collect::<Vec<_>>());
        imports::deque(py)?.call1((datagrams,))
    }

    #[getter(_buffer_size)]
    fn buffer_size(&self, py: Python<'_>) -> usize {
        self.queued_bytes.get(py)
    }

    #[getter(_address)]
    fn address_py<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.address.get_bound(py)
    }

    fn __del__(slf: &Bound<'_, Self>) {
        if Transport::needs_finalizing(slf.as_super()) {
            Transport::finalize(slf.as_super());
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.address.visit(&visit)?;
        self.address_cache.traverse(|cache| cache.traverse(&visit))?;
        self.queue.traverse(|queue| {
            queue.iter().try_for_each(|datagram| {
                visit.call(&datagram.data)?;
                visit.call(&datagram.to)
            })
        })
    }

    fn __clear__(&self) {
        Python::attach(|py| {
            drop(self.address.take(py));
            drop(self.queue.with(py, std::mem::take));
            drop(self.address_cache.with(py, std::mem::take));
        });
    }
}
