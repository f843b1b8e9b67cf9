//! Water marks of application data: one pair for what is to be sent, one for what has come.

#![forbid(unsafe_code)]

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyString;

use super::{TlsProtocol, modules};
use crate::ffi::call;
use crate::ffi::exception::PyOutcome;
use crate::scheduler::report::outcome;

/// A pair of water marks, in bytes.
#[derive(Clone, Copy)]
pub struct Limits {
    /// From this many bytes on the producer is paused.
    pub high: usize,
    /// At this many bytes or fewer it is resumed.
    pub low: usize,
}

impl Limits {
    /// asyncio's default for a number of KiB.
    pub const fn of_kibibytes(high: usize) -> Self {
        Self { high: high * 1024, low: high * 1024 / 4 }
    }

    /// What `set_..._buffer_limits(high, low)` means; `default` is in KiB.
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

/// A number of bytes; no buffer reaches what is out of range.
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
            + self.sealed.with(py, |sealed| sealed.len());
        Ok(self.session.outgoing_size(py)? + waiting)
    }

    /// Tells the application to stop or to go on writing. Runs Python code.
    pub fn control_app_writing<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let this = slf.get();
        let size = outcome(py, this.write_buffer_size(py))?;
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
        Self::tell_application(slf, method, failure)
    }

    /// [`Self::control_app_writing`] where everything has just gone to the transport below.
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

    fn tell_application<'py>(
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
                outcome(py, Self::report(slf, failure, &raised, transport.as_ref()))
            }
        }
    }

    /// Stops or resumes the transport below, by what the application has not taken yet.
    pub fn control_reading<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let this = slf.get();
        let size = outcome(py, this.session.incoming_size(py))?;
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
        this.tell_below(py, method)
    }
}
