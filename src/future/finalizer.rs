//! Reports an exception that was never retrieved, when the future is deallocated.

use pyo3::prelude::*;
use pyo3::types::PyString;

use super::{Future, Outcome};
use crate::ffi::exception::{Raised, write_unraisable};
use crate::ffi::objects::slots::{Finalize, original_dealloc};
use crate::scheduler::report::call_exception_handler;

impl Finalize for Future {
    original_dealloc!();

    #[inline(always)]
    fn needs_finalizing(slf: &Bound<'_, Self>) -> bool {
        slf.get().log_traceback.get(slf.py())
    }

    fn finalize(slf: &Bound<'_, Self>) {
        if let Err(error) = report_unretrieved(slf) {
            let py = slf.py();
            let raised = Raised::of(py, error);
            write_unraisable(raised, slf);
        }
    }

    #[inline(always)]
    fn release(slf: &Bound<'_, Self>) {
        slf.get().release(slf.py());
    }
}

impl Future {
    /// Releases the fields that nearly all futures have set when they are deallocated.
    #[inline(always)]
    pub fn release(&self, py: Python<'_>) {
        let event_loop = self.event_loop.take(py).map(|event_loop| event_loop.into_bound(py));
        let value = match self.outcome.replace(py, Outcome::Cancelled) {
            Outcome::Result(value) => Some(value.into_bound(py)),
            other => {
                drop(self.outcome.replace(py, other));
                None
            }
        };
        drop((event_loop, value));
    }
}

fn report_unretrieved(slf: &Bound<'_, Future>) -> PyResult<()> {
    let py = slf.py();
    let this = slf.get();
    let exception = this.outcome.inspect(py, |outcome| match outcome {
        Outcome::Exception(exception) => Some(exception.bind(py).clone()),
        _ => None,
    });
    let Some(exception) = exception else { return Ok(()) };
    this.log_traceback.set(py, false);
    let name = slf.get_type().name()?;
    let message = PyString::new(py, &format!("{name} exception was never retrieved"));
    call_exception_handler(
        &this.event_loop(py)?,
        &[
            ("message", Some(message.as_any())),
            ("exception", Some(exception.as_any())),
            ("future", Some(slf.as_any())),
            ("source_traceback", this.source_traceback(py).as_ref()),
        ],
    )
}
