//! The Python methods of all transports.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::ffi::exception::Raised;
use crate::ffi::objects::slots::Finalize;
use crate::ffi::section::attach_unshared;
use crate::scheduler::watch::Direction;
use crate::transport::flow_control;
use crate::transport::{Endpoint, Transport};
use crate::write_side::{BULK_THRESHOLD, WriteSide};

impl Transport {
    fn repr(slf: &Bound<'_, Self>) -> PyResult<String> {
        let py = slf.py();
        let this = slf.get();
        let mut info = vec![(this.kind.class)(py)?.getattr(intern!(py, "__name__"))?.to_string()];
        if this.endpoint.inspect(py, Endpoint::is_closed) {
            info.push("closed".to_owned());
        } else if this.is_closing(py) {
            info.push("closing".to_owned());
        }
        info.push(format!("fd={}", this.fd));
        let scheduler = this.scheduler(py);
        if let Some(scheduler) = scheduler.filter(|scheduler| !scheduler.get().is_closed(py)) {
            let polling = |direction| {
                if scheduler.get().is_watched(py, this.fd, direction) { "polling" } else { "idle" }
            };
            info.push(format!("read={}", polling(Direction::Read)));
            let size = this.writing.with(py, |side| side.unsent());
            info.push(format!("write=<{}, bufsize={size}>", polling(Direction::Write)));
        }
        Ok(format!("<{}>", info.join(" ")))
    }
}

#[pymethods]
impl Transport {
    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        Self::repr(slf)
    }

    /// asyncio's class for this kind of transport, so that `isinstance(t, asyncio.Transport)`
    /// holds.
    #[getter(__class__)]
    fn asyncio_class<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        (slf.get().kind.class)(slf.py()).cloned()
    }

    /// Return optional information about the transport: "socket", "sockname", "peername".
    #[pyo3(signature = (name, default=None))]
    fn get_extra_info<'py>(
        slf: &Bound<'py, Self>,
        name: &Bound<'py, PyAny>,
        default: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        // The program may send through the socket that it asks for.
        Self::flush_coalesced(slf)?;
        Ok(Self::extra_info(slf, name)?.or(default))
    }

    /// Return True if the transport is closing or closed.
    #[pyo3(name = "is_closing")]
    fn is_closing_py(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let py = slf.py();
        let is_busy_turn = slf.get().scheduler.inspect(py, |scheduler| {
            scheduler.as_ref().is_some_and(|scheduler| scheduler.get().deferred().is_busy_turn(py))
        });
        // `StreamWriter.drain()` calls this after each write. In a busy turn and between large
        // writes sending now would defeat coalescing: there an error shows when the coalesced data
        // is sent.
        let bulk = slf.get().writing.with(py, |side| side.queued()) > BULK_THRESHOLD;
        if !is_busy_turn && !bulk {
            Self::flush_coalesced(slf)?;
        }
        Ok(slf.get().is_closing(slf.py()))
    }

    /// Close the transport; buffered data is written first.
    #[pyo3(name = "close")]
    fn close_py(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::close(slf)
    }

    /// Close the transport at once; buffered data is lost.
    fn abort(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::force_close(slf, None)
    }

    /// Set a new protocol.
    fn set_protocol(slf: &Bound<'_, Self>, protocol: Bound<'_, PyAny>) -> PyResult<()> {
        Self::flush_coalesced(slf)?;
        slf.get().bind_protocol(protocol)
    }

    /// Return the current protocol.
    fn get_protocol<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.protocol.get_bound(py)
    }

    /// Return True if the transport is receiving.
    fn is_reading(&self, py: Python<'_>) -> bool {
        self.wants_to_read(py)
    }

    /// Stop calling the protocol with received data. Has no effect when paused or closing.
    fn pause_reading(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        if !this.wants_to_read(py) {
            return Ok(());
        }
        this.update_state(py, |state| state.paused = true);
        this.unwatch(slf, Direction::Read);
        Self::log(slf, "%r pauses reading", None, None)
    }

    /// Call the protocol with received data again. Has no effect when not paused or closing.
    fn resume_reading(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        if this.is_closing(py) || !this.state.get(py).paused {
            return Ok(());
        }
        // First, since the system call may fail.
        Self::watch(slf, Direction::Read, this.callback_context(py)?)?;
        this.update_state(py, |state| state.paused = false);
        Self::log(slf, "%r resumes reading", None, None)
    }

    /// Return the number of bytes that are buffered for writing.
    fn get_write_buffer_size(slf: &Bound<'_, Self>) -> PyResult<usize> {
        Self::flush_coalesced(slf)?;
        Ok(slf.get().writing.with(slf.py(), |side| side.queued()))
    }

    /// Return the low and the high water mark of the write buffer.
    fn get_write_buffer_limits(&self, py: Python<'_>) -> (usize, usize) {
        self.writing.with(py, |side| side.limits())
    }

    /// Set the water marks of the write buffer, in bytes.
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
        let (high, low) = flow_control::limits(py, high, low)?;
        Self::flush_coalesced(slf)?;
        slf.get().writing.with(py, |side| side.set_limits(low, high));
        Self::run_commands(slf).map_err(PyErr::from)
    }

    #[pyo3(name = "_maybe_pause_protocol")]
    fn maybe_pause_protocol_py(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::run_commands(slf).map_err(PyErr::from)
    }

    #[pyo3(name = "_maybe_resume_protocol")]
    fn maybe_resume_protocol_py(slf: &Bound<'_, Self>) -> PyResult<()> {
        slf.get().writing.with(slf.py(), WriteSide::check_resume);
        Self::run_commands(slf).map_err(PyErr::from)
    }

    #[pyo3(name = "_force_close")]
    fn force_close_py<'py>(slf: &Bound<'py, Self>, exc: Option<Bound<'py, PyAny>>) -> PyResult<()> {
        Self::force_close(slf, exc)
    }

    #[pyo3(name = "_fatal_error", signature = (exc, message="Fatal error on transport"))]
    fn fatal_error_py<'py>(
        slf: &Bound<'py, Self>,
        exc: Bound<'py, PyAny>,
        message: &str,
    ) -> PyResult<()> {
        Self::fatal_error(slf, Raised::from(exc.cast_into()?), message).map_err(PyErr::from)
    }

    #[pyo3(name = "_call_connection_lost")]
    fn call_connection_lost_py<'py>(
        slf: &Bound<'py, Self>,
        exc: Option<Bound<'py, PyAny>>,
    ) -> PyResult<()> {
        let exception = exc.unwrap_or_else(|| slf.py().None().into_bound(slf.py()));
        Self::call_connection_lost(slf, &exception).map_err(PyErr::from)
    }

    #[getter(_loop)]
    fn event_loop<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.scheduler(py).map(Bound::into_any)
    }

    #[getter(_sock)]
    fn sock<'py>(slf: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>> {
        Self::flush_coalesced(slf)?;
        Self::socket_object(slf)
    }

    #[getter(_sock_fd)]
    fn sock_fd(&self) -> i32 {
        self.fd
    }

    #[getter(_protocol)]
    fn protocol_py<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.protocol.get_bound(py)
    }

    #[setter(_protocol)]
    fn set_protocol_attribute(&self, protocol: Bound<'_, PyAny>) -> PyResult<()> {
        self.bind_protocol(protocol)
    }

    #[getter(_server)]
    fn server_py<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.server.get_bound(py)
    }

    #[getter(_extra)]
    fn extra_py<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyDict>> {
        Self::complete_extra(slf)
    }

    #[getter(_closing)]
    fn closing_py(&self, py: Python<'_>) -> bool {
        self.is_closing(py)
    }

    #[getter(_conn_lost)]
    fn conn_lost(&self, py: Python<'_>) -> u32 {
        self.writing.with(py, |side| side.late())
    }

    #[getter(_paused)]
    fn paused(&self, py: Python<'_>) -> bool {
        self.state.get(py).paused
    }

    #[getter(_protocol_paused)]
    fn protocol_paused(&self, py: Python<'_>) -> bool {
        self.writing.with(py, |side| side.is_paused())
    }

    #[getter(_high_water)]
    fn high_water(&self, py: Python<'_>) -> usize {
        self.writing.with(py, |side| side.limits().1)
    }

    #[getter(_low_water)]
    fn low_water(&self, py: Python<'_>) -> usize {
        self.writing.with(py, |side| side.limits().0)
    }

    fn __del__(slf: &Bound<'_, Self>) {
        if Self::needs_finalizing(slf) {
            Self::finalize(slf);
        }
    }

    fn __traverse__(&self, visit: pyo3::gc::PyVisit<'_>) -> Result<(), pyo3::gc::PyTraverseError> {
        self.traverse_parts(&visit)
    }

    fn __clear__(&self) {
        attach_unshared(|py| {
            drop((
                self.protocol.take(py),
                self.server.take(py),
                self.context.take(py),
                self.extra.take(py),
                self.scheduler.take(py),
            ));
        });
    }
}
