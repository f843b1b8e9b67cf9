//! Detects changes of a Python class at the cost of one load.

use pyo3::ffi::{self, Py_TYPE};
use pyo3::prelude::*;
use pyo3::types::PyType;

/// The interpreter's version tag of a class. It changes with the class and its bases, once an
/// attribute was looked up in it. 0 from a change to the next lookup, and permanently when the
/// class was changed too often.
#[inline(always)]
pub fn class_version(class: &Py<PyType>, py: Python<'_>) -> u32 {
    // SAFETY: a live type object.
    unsafe { version(class.bind(py).as_type_ptr()) }
}

/// The version tag of an object's class.
#[inline(always)]
pub fn version_of_class<T>(object: &Bound<'_, T>) -> u32 {
    // SAFETY: a live object has a live class.
    unsafe { version(Py_TYPE(object.as_ptr())) }
}

/// # Safety
/// The thread must be attached, and `class` a live type object.
#[inline(always)]
unsafe fn version(class: *mut ffi::PyTypeObject) -> u32 {
    #[cfg(not(Py_GIL_DISABLED))]
    // SAFETY: guaranteed by the caller; only the holder of the GIL writes the field.
    unsafe {
        (*class).tp_version_tag
    }
    #[cfg(Py_GIL_DISABLED)]
    // SAFETY: guaranteed by the caller; other threads write the field as an atomic.
    unsafe {
        use std::sync::atomic::{AtomicU32, Ordering};
        AtomicU32::from_ptr(&raw mut (*class).tp_version_tag).load(Ordering::Relaxed)
    }
}
