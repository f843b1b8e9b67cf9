//! Reports tasks that are deallocated while pending, or with an exception that was never retrieved.

use pyo3::intern;
use pyo3::prelude::*;

use super::Task;
use crate::ffi::exception::{Raised, write_unraisable};
use crate::ffi::objects::object::HasBase;
use crate::ffi::objects::slots::{Finalize, original_dealloc};
use crate::future::Future;
use crate::scheduler::report::call_exception_handler;

impl Finalize for Task {
    original_dealloc!();

    #[inline(always)]
    fn needs_finalizing(slf: &Bound<'_, Self>) -> bool {
        let py = slf.py();
        Future::needs_finalizing(slf.as_super())
            || (slf.get().log_destroy_pending.get(py) && !slf.base().is_done(py))
    }

    fn finalize(slf: &Bound<'_, Self>) {
        let py = slf.py();
        if slf.get().log_destroy_pending.get(py) && !slf.base().is_done(py) {
            if let Err(error) = report_pending(slf) {
                let raised = Raised::of(py, error);
                write_unraisable(raised, slf);
            }
        }
        if Future::needs_finalizing(slf.as_super()) {
            Future::finalize(slf.as_super());
        }
    }

    #[inline(always)]
    fn release(slf: &Bound<'_, Self>) {
        let py = slf.py();
        let this = slf.get();
        this.registry_entry.unregister(py);
        this.set_coroutine(py, None);
        this.name.release(py);
        this.context.store(py, None);
        slf.base().release(py);
    }
}

fn report_pending(slf: &Bound<'_, Task>) -> PyResult<()> {
    let py = slf.py();
    let future = slf.base();
    // As with asyncio's weak set, all_tasks() omits it even if the handler keeps a reference.
    slf.get().registry_entry.unregister(py);
    let stack = future.source_traceback(py);
    let message = intern!(py, "Task was destroyed but it is pending!");
    call_exception_handler(
        &future.event_loop(py)?,
        &[
            ("task", Some(slf.as_any())),
            ("message", Some(message.as_any())),
            ("source_traceback", stack.as_ref()),
        ],
    )
}
