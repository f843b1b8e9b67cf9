//! Callbacks in C that are bound to an object.

use std::ffi::CStr;

use pyo3::Borrowed;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::ffi::attach::with_attached;
use crate::ffi::method::return_to_c;
use crate::ffi::section::{self, Owned};

/// A callable with one argument that is bound to an object but not listed in its class.
///
/// Its `repr()` contains `Class.name`, as that of asyncio's C tasks in `future._callbacks`.
pub trait BoundCallback {
    /// The class of the object.
    type Class: Owned;
    /// The name in the `repr()`.
    const NAME: &'static CStr;

    /// Whether the call need not be counted by PyO3, since the entry of the loop that makes it is:
    /// see [`FastMethod::COUNTED`](super::method::FastMethod::COUNTED).
    fn is_counted(slf: &Bound<'_, Self::Class>) -> bool;

    /// The call.
    fn call<'py>(slf: &Bound<'py, Self::Class>, argument: &Bound<'py, PyAny>) -> PyResult<()>;
}

/// Creates the callable bound to `slf`.
pub fn bind_callback<'py, C: BoundCallback>(
    slf: &Bound<'py, C::Class>,
    definition: &'static PyOnceLock<CallbackDefinition>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = slf.py();
    let definition = definition.get_or_init(py, || {
        CallbackDefinition(ffi::PyMethodDef {
            ml_name: C::NAME.as_ptr(),
            ml_meth: ffi::PyMethodDefPointer { PyCFunction: callback::<C> },
            ml_flags: ffi::METH_O,
            ml_doc: std::ptr::null(),
        })
    });
    // SAFETY: the definition is static, as the function object requires; CPython does not write to
    // it.
    unsafe {
        let definition = std::ptr::from_ref(&definition.0).cast_mut();
        Bound::from_owned_ptr_or_err(
            py,
            ffi::PyCFunction_NewEx(definition, slf.as_ptr(), std::ptr::null_mut()),
        )
    }
}

/// The definition to which the interpreter keeps a pointer.
pub struct CallbackDefinition(ffi::PyMethodDef);

// SAFETY: written once, before it is shared; its pointers refer to static data.
unsafe impl Send for CallbackDefinition {}
// SAFETY: as above.
unsafe impl Sync for CallbackDefinition {}

unsafe extern "C" fn callback<C: BoundCallback>(
    slf: *mut ffi::PyObject,
    argument: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: CPython calls functions attached; `slf` is the object that `bind_callback` has bound.
    unsafe {
        let py = Python::assume_attached();
        let is_counted = C::is_counted(&Borrowed::from_ptr(py, slf).cast_unchecked::<C::Class>());
        if is_counted { call_back::<C>(py, slf, argument) } else { counted::<C>(slf, argument) }
    }
}

/// # Safety
/// As for [`callback`].
#[cold]
#[inline(never)]
unsafe fn counted<C: BoundCallback>(
    slf: *mut ffi::PyObject,
    argument: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: guaranteed by the caller.
    unsafe { with_attached(|py| call_back::<C>(py, slf, argument)) }
}

/// # Safety
/// As for [`callback`].
#[inline(always)]
unsafe fn call_back<C: BoundCallback>(
    py: Python<'_>,
    slf: *mut ffi::PyObject,
    argument: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: `slf` is the object that `bind_callback` has bound; the caller keeps the argument
    // alive.
    let (slf, argument) = unsafe {
        (Borrowed::from_ptr(py, slf).cast_unchecked::<C::Class>(), Borrowed::from_ptr(py, argument))
    };
    return_to_c(py, || {
        section::enter_of(&slf, || C::call(&slf, &argument)).map(|()| py.None().into_bound(py))
    })
}
