//! The report of an exception that nobody retrieved, when the future goes away.

#![forbid(unsafe_code)]

use std::sync::atomic::AtomicPtr;

use pyo3::prelude::*;

use super::{Future, Outcome};
use crate::ffi::exception::{Raised, write_unraisable};
use crate::ffi::slots::Finalize;
use crate::scheduler::report::call_exception_handler;

impl Finalize for Future {
    fn original_dealloc() -> &'static AtomicPtr<()> {
        static DEALLOC: AtomicPtr<()> = AtomicPtr::new(std::ptr::null_mut());
        &DEALLOC
    }

    #[inline(always)]
    fn needs_finalizing(slf: &Bound<'_, Self>) -> bool {
        slf.get().log_traceback.get(slf.py())
    }

    fn finalize(slf: &Bound<'_, Self>) {
        if let Err(error) = report_unretrieved(slf) {
            let py = slf.py();
            let raised = Raised::from(error.into_value(py).into_bound(py));
            write_unraisable(raised, slf);
        }
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
    let message = format!("{name} exception was never retrieved");
    let mut extra = vec![("future", slf.as_any())];
    let stack = this.source_traceback(py);
    if let Some(stack) = &stack {
        extra.push(("source_traceback", stack));
    }
    let event_loop = this.event_loop(py)?;
    call_exception_handler(&event_loop, &message, Some(exception.as_any()), &extra)
}
