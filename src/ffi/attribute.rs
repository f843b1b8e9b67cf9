//! Attribute lookups that create no bound methods.

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyType};

use crate::ffi::exception::take_raised;

unsafe extern "C" {
    // Exported by every CPython from 3.7 on, but not declared by pyo3-ffi. Stores a new reference,
    // or null with an exception set. Returns 1 if that is a function of the class, to be called
    // with the object as its first argument.
    fn _PyObject_GetMethod(
        object: *mut ffi::PyObject,
        name: *mut ffi::PyObject,
        method: *mut *mut ffi::PyObject,
    ) -> std::ffi::c_int;
    // Likewise. The result is borrowed, or null without an exception.
    #[cfg(not(Py_GIL_DISABLED))]
    fn _PyType_Lookup(
        class: *mut ffi::PyTypeObject,
        name: *mut ffi::PyObject,
    ) -> *mut ffi::PyObject;
    // From 3.13 on. The result is owned, or null without an exception.
    #[cfg(Py_GIL_DISABLED)]
    fn _PyType_LookupRef(
        class: *mut ffi::PyTypeObject,
        name: *mut ffi::PyObject,
    ) -> *mut ffi::PyObject;
}

/// Whether `object.name()` calls exactly `function`, as a method of the class: neither the class
/// nor the instance has replaced it.
///
/// Runs Python code only if the class has a custom attribute lookup.
#[inline]
pub fn has_method<'py>(
    object: &Bound<'py, PyAny>,
    name: &Bound<'py, PyString>,
    function: &Bound<'py, PyAny>,
) -> bool {
    let py = object.py();
    let mut method = std::ptr::null_mut();
    // SAFETY: live objects and a valid pointer for the result, which is an owned reference or null.
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

/// Whether the lookup of `name` in the class of `object` finds `expected`. Runs no Python code.
#[inline]
pub fn class_has<'py>(
    object: &Bound<'py, PyAny>,
    name: &Bound<'py, PyString>,
    expected: &Bound<'py, PyAny>,
) -> bool {
    #[cfg(Py_GIL_DISABLED)]
    return lookup(&object.get_type(), name).is_some_and(|found| found.is(expected));
    #[cfg(not(Py_GIL_DISABLED))]
    {
        // SAFETY: live objects; the borrowed result is only compared.
        let found = unsafe { _PyType_Lookup(ffi::Py_TYPE(object.as_ptr()), name.as_ptr()) };
        found == expected.as_ptr()
    }
}

/// The value of `name` in the `__dict__` of an instance, which is made if the instance has none yet.
/// Runs no Python code.
#[inline]
pub fn in_dict<'py>(
    object: &Bound<'py, PyAny>,
    name: &Bound<'py, PyString>,
) -> Option<Bound<'py, PyAny>> {
    let py = object.py();
    // SAFETY: live objects, attached. The first call returns an owned dict or null with an
    // exception set, the second one an object, or none without an exception for a string as the key.
    unsafe {
        let dict = ffi::PyObject_GenericGetDict(object.as_ptr(), std::ptr::null_mut());
        let Some(dict) = Bound::from_owned_ptr_or_opt(py, dict) else {
            drop(take_raised(py));
            return None;
        };
        #[cfg(not(Py_GIL_DISABLED))]
        {
            let value = ffi::PyDict_GetItemWithError(dict.as_ptr(), name.as_ptr());
            Bound::from_borrowed_ptr_or_opt(py, value)
        }
        #[cfg(Py_GIL_DISABLED)]
        {
            let mut value = std::ptr::null_mut();
            ffi::PyDict_GetItemRef(dict.as_ptr(), name.as_ptr(), &raw mut value);
            Bound::from_owned_ptr_or_opt(py, value)
        }
    }
}

/// What the lookup of `name` in `class` finds. Runs no Python code.
pub fn lookup<'py>(
    class: &Bound<'py, PyType>,
    name: &Bound<'py, PyString>,
) -> Option<Bound<'py, PyAny>> {
    // SAFETY: live objects; the result is borrowed from a class, or null without an exception.
    #[cfg(not(Py_GIL_DISABLED))]
    unsafe {
        let found = _PyType_Lookup(class.as_type_ptr(), name.as_ptr());
        Bound::from_borrowed_ptr_or_opt(class.py(), found)
    }
    // SAFETY: live objects; the result is owned, or null without an exception.
    #[cfg(Py_GIL_DISABLED)]
    unsafe {
        let found = _PyType_LookupRef(class.as_type_ptr(), name.as_ptr());
        Bound::from_owned_ptr_or_opt(class.py(), found)
    }
}

/// Whether an assignment to `object.name` sets a slot or a property of the class of `object`
/// instead of an entry of its `__dict__`. Runs no Python code.
pub fn is_data_of_class(object: &Bound<'_, PyAny>, name: &Bound<'_, PyString>) -> bool {
    lookup(&object.get_type(), name).is_some_and(|found| {
        // SAFETY: a live object, whose class is alive.
        unsafe { (*ffi::Py_TYPE(found.as_ptr())).tp_descr_set.is_some() }
    })
}
