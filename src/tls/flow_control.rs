//! Flow control of application data, with one pair of water marks for writing and one for reading.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyString;

use super::{TlsProtocol, modules};
use crate::ffi::call;
use crate::ffi::exception::{OrRaise, PyOutcome};

/// A pair of water marks, in bytes.
#[derive(Clone, Copy)]
pub struct WaterMarks {
    /// The high-water mark: with this many bytes or more the producer is paused.
    pub high: usize,
    /// The low-water mark: with this many bytes or fewer the producer is resumed.
    pub low: usize,
}

impl WaterMarks {
    /// A high-water mark in KiB, with asyncio's default for the low-water mark.
    pub const fn of_kibibytes(high: usize) -> Self {
        Self { high: high * 1024, low: high * 1024 / 4 }
    }

    /// The water marks that `set_..._buffer_limits(high, low)` sets; `default` is in KiB.
    ///
    /// # Errors
    /// ValueError unless `high >= low >= 0`.
    pub fn of<'py>(
        py: Python<'py>,
        high: Option<Bound<'py, PyAny>>,
        low: Option<Bound<'py, PyAny>>,
        default: usize,
    ) -> PyResult<Self> {
        let limits = modules::add_flowcontrol_defaults(py)?.call1((high, low, default))?;
        let (high, low): (Bound<'_, PyAny>, Bound<'_, PyAny>) = limits.extract()?;
        Ok(Self { high: bytes(&high), low: bytes(&low) })
    }
}

/// A number of bytes. Numbers out of range become the largest one, which no buffer reaches.
fn bytes(number: &Bound<'_, PyAny>) -> usize {
    match number.extract::<usize>() {
        Ok(number) => number,
        Err(_) => number.extract::<f64>().map_or(usize::MAX, |number| number as usize),
    }
}

impl TlsProtocol {
    /// `get_write_buffer_size()`.
    pub fn write_buffer_size(&self, py: Python<'_>) -> PyResult<usize> {
        let waiting = self.backlog.with(py, |backlog| backlog.len())
            + self.pending_ciphertext.with(py, |pending_ciphertext| pending_ciphertext.len());
        Ok(self.session.outgoing_size(py)? + waiting)
    }

    /// Calls the application's `pause_writing()` or `resume_writing()`, if the buffer has passed a
    /// water mark. May run Python code.
    pub fn control_app_writing<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let this = slf.get();
        let size = this.write_buffer_size(py).or_raise(py)?;
        let limits = this.write_limits.get(py);
        let paused = this.status.inspect(py, |status| status.app_writing_paused);
        let (method, failure) = if size >= limits.high && !paused {
            (intern!(py, "pause_writing"), "protocol.pause_writing() failed")
        } else if size <= limits.low && paused {
            (intern!(py, "resume_writing"), "protocol.resume_writing() failed")
        } else {
            return Ok(());
        };
        this.update(py, |status| status.app_writing_paused = !paused);
        Self::call_application(slf, method, failure)
    }

    /// [`Self::control_app_writing`] if everything was just passed to the underlying transport.
    #[inline]
    pub fn control_app_writing_when_empty<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let this = slf.get();
        let paused = this.status.inspect(py, |status| status.app_writing_paused);
        if !paused && this.write_limits.inspect(py, |limits| limits.high > 0) {
            return Ok(());
        }
        Self::control_app_writing(slf)
    }

    fn call_application<'py>(
        slf: &Bound<'py, Self>,
        method: &Bound<'py, PyString>,
        failure: &str,
    ) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let Some(protocol) = slf.get().app_protocol.get_bound(py) else { return Ok(()) };
        match call::call_method(&protocol, method, []) {
            Ok(_) => Ok(()),
            Err(raised) if raised.stops_the_loop() => Err(raised),
            Err(raised) => {
                let transport = slf.get().app_transport.get_bound(py).map(Bound::into_any);
                Self::report(slf, failure, &raised, transport.as_ref()).or_raise(py)
            }
        }
    }

    /// Pauses or resumes reading of the underlying transport, if the amount of data that the
    /// application has not read has passed a water mark.
    pub fn control_reading<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let this = slf.get();
        let size = this.session.incoming_size(py).or_raise(py)?;
        let limits = this.read_limits.get(py);
        let paused = this.status.inspect(py, |status| status.reading_paused);
        let method = if size >= limits.high && !paused {
            intern!(py, "pause_reading")
        } else if size <= limits.low && paused {
            intern!(py, "resume_reading")
        } else {
            return Ok(());
        };
        this.update(py, |status| status.reading_paused = !paused);
        this.call_underlying(py, method)
    }
}
