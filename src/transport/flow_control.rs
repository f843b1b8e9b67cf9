//! Flow control: the high- and low-water marks, and the calls of `pause_writing()` and
//! `resume_writing()`.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::ffi::call;
use crate::ffi::exception::{OrRaise, PyOutcome, Raised};
use crate::scheduler::report::report_raised;
use crate::transport::Transport;

/// asyncio's default high-water mark, in bytes.
const DEFAULT_HIGH_WATER: usize = 64 * 1024;

/// The high- and the low-water mark that `set_write_buffer_limits(high, low)` sets, in bytes, with
/// asyncio's defaults.
///
/// # Errors
/// ValueError unless `high >= low >= 0`; exceptions of comparing foreign numbers.
pub fn limits<'py>(
    py: Python<'py>,
    high: Option<Bound<'py, PyAny>>,
    low: Option<Bound<'py, PyAny>>,
) -> PyResult<(usize, usize)> {
    let high = match (high, &low) {
        (Some(high), _) => high,
        (None, Some(low)) => 4i32.into_pyobject(py)?.mul(low)?,
        (None, None) => DEFAULT_HIGH_WATER.into_pyobject(py)?.into_any(),
    };
    let low = match low {
        Some(low) => low,
        None => high.floor_div(4)?,
    };
    if !(high.ge(&low)? && low.ge(0)?) {
        let (high, low) = (high.repr()?, low.repr()?);
        return Err(PyValueError::new_err(format!(
            "high ({high}) must be >= low ({low}) must be >= 0"
        )));
    }
    Ok((bytes(&high)?, bytes(&low)?))
}

/// A number of bytes. Numbers out of range become the largest one, which no buffer reaches.
fn bytes(number: &Bound<'_, PyAny>) -> PyResult<usize> {
    match number.extract::<usize>() {
        Ok(number) => Ok(number),
        Err(_) => Ok(number.extract::<f64>().map_or(usize::MAX, |number| number as usize)),
    }
}

impl Transport {
    /// Calls `pause_writing()` or `resume_writing()`; its exceptions are reported.
    pub(in crate::transport) fn call_protocol<'py>(
        slf: &Bound<'py, Self>,
        method: &Bound<'py, PyString>,
        failure: &str,
    ) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let protocol = slf.get().protocol_or_none(py);
        match call::call_method(&protocol, method, []) {
            Ok(_) => Ok(()),
            Err(raised) if raised.stops_the_loop() => Err(raised),
            Err(raised) => Self::report(slf, failure, &raised).or_raise(py),
        }
    }

    /// Passes an exception to the loop's exception handler.
    pub fn report(slf: &Bound<'_, Self>, message: &str, raised: &Raised<'_>) -> PyResult<()> {
        let py = slf.py();
        let protocol = slf.get().protocol_or_none(py);
        let Some(scheduler) = slf.get().scheduler(py) else { return Ok(()) };
        let message = PyString::new(py, message);
        report_raised(
            scheduler.as_any(),
            raised,
            &[
                ("message", Some(message.as_any())),
                ("exception", Some(raised.value())),
                ("transport", Some(slf.as_any())),
                ("protocol", Some(&protocol)),
            ],
        )
    }
}
