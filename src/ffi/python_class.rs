//! Methods in C for classes that are written in Python.

use std::ffi::CStr;

use pyo3::Borrowed;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::ffi::method::{Arguments, install_on_class, return_to_c};

/// A method of a Python class. PyO3 does not count the call: see
/// [`FastMethod::COUNTED`](super::method::FastMethod::COUNTED).
pub trait PythonClassMethod {
    /// The method's name.
    const NAME: &'static CStr;
    /// The docstring, with the signature line that `inspect` reads.
    const DOC: &'static CStr;

    /// The method itself. `slf` is an instance of the class.
    fn call<'py>(
        slf: &Bound<'py, PyAny>,
        arguments: &Arguments<'_, 'py>,
    ) -> PyResult<Bound<'py, PyAny>>;
}

/// Adds the method to a Python class.
pub fn install_on<M: PythonClassMethod>(class: &Bound<'_, PyType>) -> PyResult<()> {
    let function =
        ffi::PyMethodDefPointer { PyCFunctionFastWithKeywords: python_class_method::<M> };
    let flags = ffi::METH_FASTCALL | ffi::METH_KEYWORDS;
    // SAFETY: a function for these flags, and for instances of any class.
    unsafe { install_on_class(class, M::NAME, M::DOC, function, flags) }
}

unsafe extern "C" fn python_class_method<M: PythonClassMethod>(
    slf: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    positional: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: CPython calls methods attached, by the vectorcall convention, with a live `slf`.
    unsafe {
        let py = Python::assume_attached();
        return_to_c(py, || {
            let arguments = Arguments::from_vectorcall(py, M::NAME, values, positional, names);
            M::call(&Borrowed::from_ptr(py, slf), &arguments)
        })
    }
}
