//! The stack of another thread.
//!
//! With a GIL that thread cannot change its frames as long as the caller holds it. Without one,
//! CPython's functions for frames read what a thread that goes on frees meanwhile, so all threads are
//! paused.

use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

#[cfg(Py_GIL_DISABLED)]
use crate::ffi::section_waiters::with_others_paused;

/// The code object of a frame, its line, 0 or less if unknown, and its globals.
pub type StackEntry<'py> = (Bound<'py, PyAny>, i32, Bound<'py, PyAny>);

/// The entries of the frames of a thread, innermost first; empty if there is no such thread. Runs no
/// Python code.
///
/// With a GIL the thread cannot go on between the look for its innermost frame and the walk, unless
/// a garbage collection is due in between, up to 3.11. Without one it can: the frames are then those
/// that the innermost one has kept.
///
/// # Errors
/// Those of `sys._current_frames()`.
pub fn of_thread(py: Python<'_>, thread: u64) -> PyResult<Vec<StackEntry<'_>>> {
    let current = py.import(intern!(py, "sys"))?.call_method0(intern!(py, "_current_frames"))?;
    match current.cast::<PyDict>()?.get_item(thread)? {
        Some(innermost) => from_frame(&innermost),
        None => Ok(Vec::new()),
    }
}

/// The entries of `innermost` and of the frames that have called it, in this order.
fn from_frame<'py>(innermost: &Bound<'py, PyAny>) -> PyResult<Vec<StackEntry<'py>>> {
    // SAFETY: only the object's type is read.
    if unsafe { ffi::PyFrame_Check(innermost.as_ptr()) } == 0 {
        return Err(PyTypeError::new_err("a frame is required"));
    }
    let (mut entries, mut frames) = (Vec::new(), Vec::new());
    let walk = || {
        let mut next = Some(innermost.clone());
        while let Some(frame) = next {
            // SAFETY: a frame, which no thread runs meanwhile.
            next = unsafe {
                entries.push(entry(&frame));
                let back = ffi::PyFrame_GetBack(frame.as_ptr().cast());
                Bound::from_owned_ptr_or_opt(frame.py(), back.cast())
            };
            // Dropped when the threads go on.
            frames.push(frame);
        }
    };
    with_others_paused(innermost.py(), walk);
    Ok(entries)
}

/// The caller holds the GIL.
#[cfg(not(Py_GIL_DISABLED))]
fn with_others_paused(_py: Python<'_>, body: impl FnOnce()) {
    body();
}

/// # Safety
/// `frame` is a frame that no thread runs meanwhile.
unsafe fn entry<'py>(frame: &Bound<'py, PyAny>) -> StackEntry<'py> {
    let (py, frame) = (frame.py(), frame.as_ptr().cast());
    // SAFETY: guaranteed by the caller. Both calls return new references.
    unsafe {
        let code = Bound::from_owned_ptr(py, ffi::PyFrame_GetCode(frame).cast());
        let globals = Bound::from_owned_ptr(py, ffi::PyFrame_GetGlobals(frame));
        (code, ffi::PyFrame_GetLineNumber(frame), globals)
    }
}
