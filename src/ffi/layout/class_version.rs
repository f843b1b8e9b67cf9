//! Detects changes of a Python class at the cost of one load.

use pyo3::ffi::Py_TYPE;
use pyo3::prelude::*;
use pyo3::types::PyType;

/// The interpreter's version tag of a class. It changes with the class and its bases, once an
/// attribute was looked up in it. 0 from a change to the next lookup, and permanently when the
/// class was changed too often.
#[inline(always)]
pub fn class_version(class: &Py<PyType>, py: Python<'_>) -> u32 {
    // SAFETY: a live type object; the GIL is held, and only its holder writes the field.
    unsafe { (*class.bind(py).as_type_ptr()).tp_version_tag }
}

/// The version tag of an object's class.
#[inline(always)]
pub fn version_of_class<T>(object: &Bound<'_, T>) -> u32 {
    // SAFETY: a live object has a live class; the rest as above.
    unsafe { (*Py_TYPE(object.as_ptr())).tp_version_tag }
}
