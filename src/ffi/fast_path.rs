//! Fast paths for methods and attributes that PyO3 has generated.
//!
//! A function of ours is installed in front of PyO3's, which attaches the thread and parses
//! arguments generically, and which still serves every call that the fast path does not: errors and
//! documentation are PyO3's. PyO3 does not count the calls that a fast path serves, so it must drop
//! `Bound`s: see [`FastMethod::COUNTED`](super::method::FastMethod::COUNTED).

use std::ffi::{CStr, c_void};
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyString;
use pyo3::{Borrowed, PyClass};

use crate::ffi::method::Arguments;
use crate::ffi::panic;

/// The result of a fast path; `None`, with nothing done, if PyO3's function must serve the call.
pub type FastResult<'py> = Option<PyResult<Bound<'py, PyAny>>>;

/// PyO3's function.
pub struct Original(AtomicPtr<()>);

impl Original {
    /// Not known yet.
    pub const fn new() -> Self {
        Self(AtomicPtr::new(std::ptr::null_mut()))
    }

    /// Stores the function; false if one is stored already.
    fn store(&self, function: *mut ()) -> bool {
        let null = std::ptr::null_mut();
        self.0.compare_exchange(null, function, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    #[inline(always)]
    fn get(&self) -> *mut () {
        self.0.load(Ordering::Relaxed)
    }
}

impl Default for Original {
    fn default() -> Self {
        Self::new()
    }
}

/// The fast path of a method with parameters.
pub trait FastPath {
    /// The class of the method.
    type Class: PyClass;
    /// The method's name.
    const NAME: &'static CStr;

    /// Where PyO3's function is stored.
    fn original() -> &'static Original;

    /// The fast path.
    fn call<'py>(slf: &Bound<'py, Self::Class>, arguments: &Arguments<'_, 'py>) -> FastResult<'py>;
}

/// The fast path of reading an attribute.
pub trait GetterFastPath {
    /// The class of the attribute.
    type Class: PyClass;
    /// The attribute's name.
    const NAME: &'static CStr;

    /// Where PyO3's function is stored.
    fn original() -> &'static Original;

    /// The fast path.
    fn get<'py>(slf: &Bound<'py, Self::Class>) -> FastResult<'py>;
}

/// Installs the fast path of a method that PyO3 has generated for `METH_FASTCALL | METH_KEYWORDS`.
/// Called when the module is initialised; has no effect the second time.
pub fn install<M: FastPath>(py: Python<'_>) -> PyResult<()> {
    let descriptor = own_attribute::<M::Class>(py, M::NAME)?;
    // SAFETY: the type is checked. PyO3 has allocated the definition, never frees it and does not
    // read it again; the interpreter reads it with the GIL held. Its flags, which determine the
    // calling convention, stay the same.
    unsafe {
        let class = ffi::Py_TYPE(descriptor.as_ptr());
        assert!(class == &raw mut ffi::PyMethodDescr_Type, "a method");
        let definition = (*descriptor.as_ptr().cast::<ffi::PyMethodDescrObject>()).d_method;
        let expected = ffi::METH_FASTCALL | ffi::METH_KEYWORDS;
        assert!((*definition).ml_flags == expected, "a method with parameters");
        if M::original().store((*definition).ml_meth.as_ptr().cast()) {
            (*definition).ml_meth =
                ffi::PyMethodDefPointer { PyCFunctionFastWithKeywords: method::<M> };
        }
    }
    Ok(())
}

/// Installs the fast path of an attribute that PyO3 has generated. As [`install`].
pub fn install_getter<G: GetterFastPath>(py: Python<'_>) -> PyResult<()> {
    let descriptor = own_attribute::<G::Class>(py, G::NAME)?;
    // SAFETY: as in `install`; the closure, which PyO3's functions need, stays the same.
    unsafe {
        let class = ffi::Py_TYPE(descriptor.as_ptr());
        assert!(class == &raw mut ffi::PyGetSetDescr_Type, "an attribute");
        let definition = (*descriptor.as_ptr().cast::<ffi::PyGetSetDescrObject>()).d_getset;
        let original = (*definition).get.map_or(std::ptr::null_mut(), |get| get as *mut ());
        assert!(!original.is_null(), "a readable attribute");
        if G::original().store(original) {
            (*definition).get = Some(getter::<G>);
        }
    }
    Ok(())
}

/// The object under `name` in the class's own dict.
fn own_attribute<'py, T: PyClass>(py: Python<'py>, name: &CStr) -> PyResult<Bound<'py, PyAny>> {
    let attributes = py.get_type::<T>().getattr(intern!(py, "__dict__"))?;
    attributes.get_item(PyString::from_bytes(py, name.to_bytes())?)
}

unsafe extern "C" fn method<M: FastPath>(
    slf: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    positional: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: CPython calls methods attached, the method descriptor checked that `slf` is an
    // instance of `M::Class`, and the arguments have the calling convention of PyO3's function.
    unsafe {
        let py = Python::assume_attached();
        let result = return_to_c(py, || {
            let slf = Borrowed::from_ptr(py, slf).cast_unchecked::<M::Class>();
            M::call(&slf, &Arguments::from_vectorcall(py, M::NAME, values, positional, names))
        });
        if let Some(result) = result {
            return result;
        }
        let original: ffi::PyCFunctionFastWithKeywords = std::mem::transmute(M::original().get());
        original(slf, values, positional, names)
    }
}

unsafe extern "C" fn getter<G: GetterFastPath>(
    slf: *mut ffi::PyObject,
    closure: *mut c_void,
) -> *mut ffi::PyObject {
    // SAFETY: as for `method`; the closure is that of PyO3's function.
    unsafe {
        let py = Python::assume_attached();
        let result =
            return_to_c(py, || G::get(&Borrowed::from_ptr(py, slf).cast_unchecked::<G::Class>()));
        if let Some(result) = result {
            return result;
        }
        let original: ffi::getter = std::mem::transmute(G::original().get());
        original(slf, closure)
    }
}

/// Runs a fast path for a C function: returns an owned object, or null with an exception set;
/// `None` if PyO3's function must serve the call.
#[inline(always)]
fn return_to_c<'py>(
    py: Python<'py>,
    fast_path: impl FnOnce() -> FastResult<'py>,
) -> Option<*mut ffi::PyObject> {
    let error = match panic::catch(fast_path) {
        Ok(None) => return None,
        Ok(Some(Ok(value))) => return Some(value.into_ptr()),
        Ok(Some(Err(error))) => error,
        Err(_message) => PyRuntimeError::new_err("ferroloop: internal error (panic)"),
    };
    error.restore(py);
    Some(std::ptr::null_mut())
}
