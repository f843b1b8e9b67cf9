//! What an object has under a name, asked without making bound methods.

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::ffi::exception::take_raised;

unsafe extern "C" {
    // Exported by every CPython from 3.7 on, but not bound by pyo3-ffi. Stores a new reference,
    // or null with an exception set, and answers 1 for a function of the class that is to be
    // called with the object as its first argument.
    fn _PyObject_GetMethod(
        object: *mut ffi::PyObject,
        name: *mut ffi::PyObject,
        method: *mut *mut ffi::PyObject,
    ) -> std::ffi::c_int;
    // The same holds for this one. The result is borrowed, or null without an exception.
    fn _PyType_Lookup(
        class: *mut ffi::PyTypeObject,
        name: *mut ffi::PyObject,
    ) -> *mut ffi::PyObject;
}

/// Whether `object.name()` calls `function`, as a method of the class: neither the class nor the
/// instance has anything else under the name.
///
/// Runs Python code only if the class has its own way to look up attributes.
#[inline]
pub fn has_method<'py>(
    object: &Bound<'py, PyAny>,
    name: &Bound<'py, PyString>,
    function: &Bound<'py, PyAny>,
) -> bool {
    let py = object.py();
    let mut method = std::ptr::null_mut();
    // SAFETY: live objects and a valid place for the result; an owned reference or null comes back.
    let (unbound, method) = unsafe {
        let unbound = _PyObject_GetMethod(object.as_ptr(), name.as_ptr(), &mut method) == 1;
        (unbound, Bound::from_owned_ptr_or_opt(py, method))
    };
    match method {
        Some(method) => unbound && method.is(function),
        None => {
            drop(take_raised(py));
            false
        }
    }
}

/// Whether the class of `object`, or a base of it, has `expected` under the name. Runs no Python
/// code.
#[inline]
pub fn class_has<'py>(
    object: &Bound<'py, PyAny>,
    name: &Bound<'py, PyString>,
    expected: &Bound<'py, PyAny>,
) -> bool {
    // SAFETY: live objects; the borrowed result is compared, not used.
    let found = unsafe { _PyType_Lookup(ffi::Py_TYPE(object.as_ptr()), name.as_ptr()) };
    found == expected.as_ptr()
}

/// Whether an assignment to `object.name` goes to a slot or a property of the class of `object`, and
/// not into its `__dict__`. Runs no Python code.
pub fn is_data_of_class(object: &Bound<'_, PyAny>, name: &Bound<'_, PyString>) -> bool {
    // SAFETY: live objects; the borrowed result is looked at before anything else runs, and its
    // class is alive.
    unsafe {
        let found = _PyType_Lookup(ffi::Py_TYPE(object.as_ptr()), name.as_ptr());
        !found.is_null() && (*ffi::Py_TYPE(found)).tp_descr_set.is_some()
    }
}
