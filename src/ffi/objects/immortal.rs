//! Objects to which references are no longer counted, since the process never frees them.
//!
//! Without a GIL, threads that count references to one object pass its cache line to and fro. Every
//! new instance refers to its class, so that this includes all loops, however little they share.

use pyo3::prelude::*;

/// Stops counting references to the object, which is then never freed. With a GIL it does nothing:
/// only one thread counts at a time.
#[cfg(not(Py_GIL_DISABLED))]
pub fn make_immortal(_object: &Bound<'_, PyAny>) {}

/// Stops counting references to the object, which is then never freed.
#[cfg(Py_GIL_DISABLED)]
pub fn make_immortal(object: &Bound<'_, PyAny>) {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use pyo3::ffi;

    /// The value of the owner's count that says so (PEP 683, `_Py_IMMORTAL_REFCNT_LOCAL`).
    const IMMORTAL: u32 = u32::MAX;
    const NO_OWNER: usize = 0;

    let object = object.as_ptr();
    // SAFETY: a live object, of which the caller has a reference. Threads that count at the same
    // moment change what is no longer read.
    unsafe {
        // As in CPython: the collector does not look at immortal objects.
        if ffi::PyObject_IS_GC(object) != 0 && ffi::PyObject_GC_IsTracked(object) != 0 {
            ffi::PyObject_GC_UnTrack(object.cast());
        }
        (*object).ob_ref_local.store(IMMORTAL, Ordering::Relaxed);
        (*object).ob_ref_shared.store(0, Ordering::Relaxed);
        AtomicUsize::from_ptr(&raw mut (*object).ob_tid).store(NO_OWNER, Ordering::Relaxed);
    }
}
