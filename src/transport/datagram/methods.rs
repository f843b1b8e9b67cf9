//! The Python methods of datagram transports.

use pyo3::exceptions::PyValueError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::ffi::buffer;
use crate::ffi::objects::cell::Traverse;
use crate::ffi::objects::object::HasBase;
use crate::ffi::objects::slots::Finalize;
use crate::ffi::section::attach_unshared;
use crate::interop::imports;
use crate::transport::data::check_data;
use crate::transport::datagram::{Datagram, SendOutcome};
use crate::transport::{DatagramTransport, Endpoint, Transport};
use crate::write_side::{Write, WriteSide};

/// Data, and the address to which it is sent.
type Outgoing<'py> = (Bound<'py, PyBytes>, Option<Bound<'py, PyAny>>);

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

    /// The data as bytes, and the address to which they are sent; none if the transport is closed.
    fn prepare<'py>(
        slf: &Bound<'py, Self>,
        data: &Bound<'py, PyAny>,
        addr: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Option<Outgoing<'py>>> {
        let py = slf.py();
        let this = slf.get();
        let base = slf.base();
        let to = this.destination(py, addr)?;
        let is_lost = base.is_lost(py) && this.address.is_some(py);
        if is_lost || base.endpoint.inspect(py, Endpoint::is_closed) {
            let late = base.writing.with(py, WriteSide::note_late);
            Transport::warn_of_late_write(py, late)?;
            return Ok(None);
        }
        // Mutable data is copied: it may be queued, and Python code may change it meanwhile.
        let copied = match data.cast::<PyBytes>() {
            Ok(bytes) => Ok(bytes.clone()),
            Err(_) => buffer::with_bytes(data, |content| PyBytes::new(py, content)),
        };
        match copied {
            Ok(bytes) => Ok(Some((bytes, to))),
            // Memory that is not contiguous cannot be sent, but can be queued, as in asyncio.
            Err(_) if this.queue.with(py, |queue| !queue.is_empty()) => {
                Ok(Some((py.get_type::<PyBytes>().call1((data,))?.cast_into()?, to)))
            }
            Err(raised) => {
                Self::send_failed(slf, raised)?;
                Ok(None)
            }
        }
    }

    /// Sends or queues one datagram, or several of the size `segment`.
    fn write<'py>(
        slf: &Bound<'py, Self>,
        data: Bound<'py, PyBytes>,
        to: Option<Bound<'py, PyAny>>,
        segment: Option<u16>,
    ) -> PyResult<()> {
        let py = slf.py();
        let base = slf.base();
        // asyncio still sends while `connection_lost()` is scheduled.
        let at_once =
            base.is_lost(py) || base.writing.with(py, |side| side.write(None)) == Write::Send;
        if at_once {
            match Self::send(slf, data.as_any(), data.as_bytes(), to.as_ref(), segment) {
                SendOutcome::Sent => return Ok(()),
                SendOutcome::NotReady if base.is_lost(py) => return Ok(()),
                SendOutcome::NotReady => {}
                SendOutcome::Failed(raised) => {
                    return Self::send_failed(slf, raised).map_err(PyErr::from);
                }
                SendOutcome::NotSegmented => {
                    let size = segment.map_or(usize::MAX, usize::from);
                    return data.as_bytes().chunks(size).try_for_each(|part| {
                        Self::write(slf, PyBytes::new(py, part), to.clone(), None)
                    });
                }
            }
        }
        Self::enqueue(slf, data, to.map(Bound::unbind), segment);
        Self::note_queued(slf, at_once).map_err(PyErr::from)
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
        check_data(data, "a bytes-like object")?;
        if cfg!(not(Py_3_13)) && !data.is_truthy()? {
            return Ok(());
        }
        match Self::prepare(slf, data, addr)? {
            Some((data, to)) => Self::write(slf, data, to, None),
            None => Ok(()),
        }
    }

    /// Send data as datagrams of size bytes each, of which the last one may be shorter, to addr, or
    /// to the address that the socket is connected to. asyncio's transports don't have this method.
    ///
    /// Where the kernel can, one system call sends up to 64 of them (UDP_SEGMENT). An error then
    /// concerns all of that call.
    ///
    /// Raises:
    ///     TypeError: data is not bytes, a bytearray or a memoryview.
    ///     ValueError: the socket is connected to another address, or size is not between 1 and 65535.
    #[pyo3(signature = (data, size, addr=None))]
    fn send_segments<'py>(
        slf: &Bound<'py, Self>,
        data: &Bound<'py, PyAny>,
        size: i64,
        addr: Option<Bound<'py, PyAny>>,
    ) -> PyResult<()> {
        let py = slf.py();
        check_data(data, "a bytes-like object")?;
        let size = u16::try_from(size).ok().filter(|size| *size > 0);
        let size = size.ok_or_else(|| PyValueError::new_err("size must be between 1 and 65535"))?;
        let Some((data, to)) = Self::prepare(slf, data, addr)? else { return Ok(()) };
        let content = data.as_bytes();
        let of_call = Self::bytes_of_call(slf, size);
        let length = of_call.unwrap_or(size.into());
        if content.len() <= length {
            let segment = (content.len() > size.into()).then_some(size);
            return if content.is_empty() { Ok(()) } else { Self::write(slf, data, to, segment) };
        }
        for part in content.chunks(length) {
            let segment = (part.len() > size.into()).then_some(size);
            Self::write(slf, PyBytes::new(py, part), to.clone(), segment)?;
        }
        Ok(())
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
        attach_unshared(|py| {
            drop(self.address.take(py));
            drop(self.queue.with(py, std::mem::take));
            drop(self.address_cache.with(py, std::mem::take));
        });
    }
}
